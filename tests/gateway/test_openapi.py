"""The description holds what it says: examples fit their schemas, codes exist, nothing is left undocumented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from gateway.codes import CODES
from gateway.openapi import TAGS
from gateway.routing import access_of, declared
from headrace.tokens import SCOPES
from tests.gateway.system import Gateway

ROOT = Path(__file__).parents[2]
SOURCES = "\n".join(
    path.read_text()
    for package in ("headrace", "gateway", "auth", "analytics", "workers")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "codes.py"
)

Json = dict[str, Any]


@pytest.fixture(scope="module")
async def description(gateway: Gateway) -> Json:
    _, body, _ = await gateway.ask("GET", "/openapi.json")
    found: Json = msgspec.json.decode(body)
    return found


def operations(description: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def contents(description: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield every body that is described: where, its media type, its schema and examples."""
    for name, operation in operations(description):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            yield name, media_type, content
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                yield f"{name} {status}", media_type, content


def examples(description: Json, content: Json) -> list[Any]:
    """Return the examples of a body."""
    if "example" in content:
        return [content["example"]]
    found = []
    for example in content.get("examples", {}).values():
        if "$ref" in example:
            example = description["components"]["examples"][example["$ref"].rpartition("/")[2]]
        found.append(example["value"])
    return found


async def test_every_example_fits_its_schema(description: Json) -> None:
    registry: Registry[Any] = Registry().with_resource("urn:api", DRAFT202012.create_resource(description))
    checked = 0
    for where, media_type, content in contents(description):
        schema = msgspec.json.decode(msgspec.json.encode(content["schema"]).replace(b'"#/', b'"urn:api#/'))
        validator = jsonschema.Draft202012Validator(
            schema, registry=registry, format_checker=jsonschema.FormatChecker()
        )
        for example in examples(description, content):
            faults = [error.message for error in validator.iter_errors(example)]
            assert faults == [], f"{where} {media_type}"
            checked += 1
    assert checked > 100


async def test_every_json_body_has_an_example(description: Json) -> None:
    without = [
        where
        for where, media_type, content in contents(description)
        if media_type.endswith("json") and not examples(description, content)
    ]
    views = [
        name
        for name, operation in operations(description)
        if operation["tags"] == ["views"] and name.startswith("GET ")
    ]

    # What a view answers only its author knows, and the description is its own example.
    assert set(without) == {*(f"{name} 200" for name in views), "GET /openapi.json 200"}


async def test_operations_are_named_tagged_and_told(description: Json) -> None:
    ids = [operation["operationId"] for _, operation in operations(description)]
    assert len(ids) == len(set(ids))
    assert {tag["name"] for tag in description["tags"]} == set(TAGS)
    for name, operation in operations(description):
        assert len(operation["tags"]) == 1, name
        assert operation["tags"][0] in TAGS, name
        assert operation["summary"], name
        assert operation["description"], name
        assert "headers" in operation["responses"][next(iter(operation["responses"]))], name


async def test_what_the_description_says_of_access_is_what_the_guards_do(gateway: Gateway, description: Json) -> None:
    for route in declared(gateway.app):
        access = access_of(route)
        paths = [route.path]
        if route.path.startswith("/v1/documents/{pipeline}"):
            paths = [route.path.replace("{pipeline}", name) for name in gateway.door.pipelines]
        for path in paths if route.include_in_schema or len(paths) > 1 else ():
            for method in route.methods or ():
                operation = description["paths"][path][method.lower()]
                scopes = [access.scope] if access.scope else []
                told = [{"bearer": []}, {"password": scopes}] if access.token else []
                assert operation["security"] == told, path
                assert ("401" in operation["responses"]) >= access.token, path
                assert ("403" in operation["responses"]) >= bool(access.scope), path


async def test_errors_are_problems_with_their_codes(description: Json) -> None:
    for name, operation in operations(description):
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            for media_type, content in response["content"].items():
                if media_type == "application/json":
                    # In a shape of a pipeline's own.
                    assert operation["tags"] == ["views"], name
                    assert content["examples"], name
                    continue
                assert media_type == "application/problem+json", name
                for problem in examples(description, content):
                    assert str(problem["status"]) == status, name


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_that_is_described_is_one_that_somebody_raises(code: str) -> None:
    made_of_a_name = re.fullmatch(r"(auth|analytics|mongo|postgres)_unavailable", code)

    assert f'"{code}"' in SOURCES or made_of_a_name


async def test_every_pipeline_is_described_with_its_own_schema(gateway: Gateway, description: Json) -> None:
    for name, pipeline in gateway.door.pipelines.items():
        paths = description["paths"]
        send = paths[f"/v1/documents/{name}"]["post"]
        content = send["requestBody"]["content"]
        assert set(content) == {
            "application/json",
            "application/x-ndjson",
            "application/cloudevents+json",
            "application/cloudevents-batch+json",
        }
        assert content["application/json"]["examples"]["one"]["value"] == pipeline.example
        lines = content["application/x-ndjson"]["example"].splitlines()
        assert [msgspec.json.decode(line) for line in lines] == [pipeline.example] * 2
        assert set(send["responses"]) >= {
            "200",
            "202",
            "207",
            "400",
            "401",
            "403",
            "409",
            "413",
            "415",
            "422",
            "429",
            "503",
        }
        assert {"Idempotency-Key", "Prefer"} <= {parameter["name"] for parameter in send["parameters"]}
        listed = {parameter["name"] for parameter in paths[f"/v1/documents/{name}"]["get"]["parameters"]}
        assert listed == {"limit", "cursor", "sort", *(field.path for field in pipeline.fields)}


async def test_scopes_are_those_that_there_are(description: Json) -> None:
    flow = description["components"]["securitySchemes"]["password"]["flows"]["password"]

    assert set(flow["scopes"]) == set(SCOPES)
    assert flow["tokenUrl"] in description["paths"]


async def test_the_documentation_needs_nobody_else(gateway: Gateway) -> None:
    status, page, headers = await gateway.ask("GET", "/docs")
    assert status == 200
    assert re.findall(rb"https?://", page) == []
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe-eval" not in headers["Content-Security-Policy"]
    for reference in re.findall(rb'(?:href|src)="([^"]+)"', page):
        status, body, headers = await gateway.ask("GET", reference.decode())
        assert (status, bool(body)) == (200, True), reference
        assert headers["Content-Type"].partition(";")[0] in (
            *("image/png", "text/css", "text/javascript", "application/javascript", "application/json"),
        )

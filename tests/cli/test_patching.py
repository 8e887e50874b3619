"""Options and functions to JSON Patches."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.patching import change, function, operations
from headrace.errors import RequestError


def test_the_short_forms_are_operations_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "patch.json").write_text('[{"op":"test","path":"/a","value":1.50}]')

    found = operations(str(tmp_path / "patch.json"), ["/Qty=/Quantity"], ["/old"], ["/n=1.50", "/t=a=b", "/o={}"])

    assert found == [
        {"op": "test", "path": "/a", "value": Decimal("1.50")},
        {"op": "move", "from": "/Qty", "path": "/Quantity"},
        {"op": "remove", "path": "/old"},
        {"op": "add", "path": "/n", "value": Decimal("1.50")},
        {"op": "add", "path": "/t", "value": "a=b"},
        {"op": "add", "path": "/o", "value": {}},
    ]
    assert operations(None, [], [], []) == []


def test_a_patch_is_a_file_or_stdin_or_the_argument_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'[{"op":"remove","path":"/a"}]')))

    assert operations("-", [], [], []) == operations('[{"op":"remove","path":"/a"}]', [], [], [])


@pytest.mark.parametrize(
    ("patch", "renames", "sets"),
    [
        ("[", [], []),
        ("{}", [], []),
        ('[{"op":"x"}]', [], []),
        (None, ["a=/b"], []),
        (None, ["/a"], []),
        (None, ["/a=b"], []),
        (None, [], ["a=1"]),
        (None, [], ["/a~2=1"]),
    ],
)
def test_what_is_no_patch_is_told(patch: str | None, renames: list[str], sets: list[str]) -> None:
    with pytest.raises(RequestError):
        operations(patch, renames, [], sets)


def test_a_function_of_a_file_is_found_and_changes_documents(tmp_path: Path) -> None:
    (tmp_path / "mend.py").write_text(
        "def mend(document):\n    document['b'] = document.pop('a')\n    return document if document['b'] else None\n"
    )
    mend = function(f"{tmp_path / 'mend.py'}:mend")

    assert change('{"a":1.10}', mend) == [
        {"op": "remove", "path": "/a"},
        {"op": "add", "path": "/b", "value": Decimal("1.10")},
    ] or change('{"a":1.10}', mend) == [{"op": "move", "from": "/a", "path": "/b"}]
    assert change('{"a":0}', mend) == []
    with pytest.raises(RequestError, match="KeyError"):
        change("{}", mend)
    for body in ("{", None):
        with pytest.raises(RequestError) as refused:
            change(body, mend)
        assert refused.value.code == "malformed_json"


@pytest.mark.parametrize(
    "reference", ["mend.py", "mend.py:", "mend.py:nothing", "nowhere.py:mend", "bad.py:x", ":x", ""]
)
def test_a_function_that_is_not_there_is_told(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mend.py").write_text("mend = 1\n")
    Path("bad.py").write_text("1 / 0\n")

    with pytest.raises(RequestError):
        function(reference)


@pytest.mark.parametrize("result", [{1}, object()])
def test_what_a_function_returns_has_to_be_json(result: Any) -> None:
    def careless(_document: Any) -> Any:
        return result

    with pytest.raises(RequestError) as refused:
        change("{}", careless)
    assert refused.value.code == "function_failed"

"""The pages by themselves: who is let in, what a form shows and keeps, and what no other site can make them do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.pages.session import csrf_of
from gateway.routing import access_of, declared
from headrace.errors import AccessError, RateError, RequestError, UnavailableError
from headrace.messaging.mesh import Reply, Request
from headrace.registry import Pipelines
from headrace.topology import Topology
from tests.gateway.browser import Browser, Page, browsing
from tests.gateway.system import Gateway, gateway_settings, running
from tests.servers import Servers

LOGIN = {"username": "ada", "password": "a mill needs water"}
INVOICE = {
    "/InvoiceNo": "536365",
    "/StockCode": "85123A",
    "/Description": "WHITE HANGING HEART",
    "/Quantity": "6",
    "/InvoiceDate": "1/12/2010 08:26",
    "/UnitPrice": "2.55",
    "/CustomerID": "17850",
    "/Country": "France",
}
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}"
SCOPES = ("documents:write", "documents:read", "analytics:read")


def logs_in(gateway: Gateway, *scopes: str, expires_in: int = 900) -> list[str]:
    """Let everybody sign in with these scopes; returns the tokens that are given out, the newest last."""
    given: list[str] = []

    def tokens(_request: Request) -> Reply:
        # To the gateway a key is a token like any other, so a stand-in needs no signing key.
        given.append(gateway.key(*scopes))
        pair = {"access_token": given[-1], "expires_in": expires_in, "refresh_token": f"hrr_{len(given)}"}
        return Reply(msgspec.json.encode(pair))

    gateway.auth.answers["token"] = gateway.auth.answers["refresh"] = tokens
    gateway.auth.says("revoke", {})
    return given


@pytest.fixture
async def browser(gateway: Gateway) -> AsyncIterator[Browser]:
    """A browser of somebody who is signed in."""
    logs_in(gateway, *SCOPES)
    gateway.analytics.answers["document"] = RequestError("There is none.", code="document_not_found", status=404)
    async with browsing(gateway.url) as browser:
        await browser.sign_in()
        yield browser


async def accepted(gateway: Gateway, page: Page) -> dict[str, Any]:
    """Return the document that a submission made, as RAW has it."""
    document = page.url.rpartition("/")[2]
    stream = gateway.door.bus.client.jetstream()
    name = Topology(gateway.door.settings.namespace).stream("RAW")
    info = await stream.stream_info(name)
    found = [
        json.loads(line)
        for sequence in range(1, info.state.last_seq + 1)
        for line in ((await stream.get_msg(name, sequence)).data or b"").splitlines()
        if document.encode() in line
    ]
    assert len(found) == 1, (document, found)
    data: dict[str, Any] = found[0]["data"]
    return data


async def test_whoever_is_not_signed_in_is_sent_to_the_sign_in_and_back(gateway: Gateway) -> None:
    logs_in(gateway, *SCOPES)
    async with browsing(gateway.url) as browser:
        for route in declared(gateway.app):
            if access_of(route).session:
                path = re.sub(r"\{[^}]*\}", "invoices", route.path)
                for method in route.methods or ():
                    status, _, headers = await gateway.ask(method, path)
                    assert (status, headers["Location"].partition("?")[0]) == (303, "/login"), path
        await browser.open("/forms/invoices")
        assert browser.page.url == "/login?next=%2Fforms%2Finvoices"
        page = await browser.submit("/login", LOGIN)
        assert (page.status, page.url) == (200, "/forms/invoices")
        # Signed in already, nobody is asked again.
        assert (await browser.open("/login?next=/results")).url == "/results"


async def test_the_cookie_is_a_secret_of_its_own_that_scripts_and_other_sites_never_see(
    gateway: Gateway, browser: Browser
) -> None:
    cookie = next(one for one in browser.set_cookies if one.startswith("headrace_session="))
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert attributes == {"path=/", "httponly", "samesite=strict"}

    value = browser.cookie("headrace_session")
    assert value is not None
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", value)
    # What lies in the bucket is of no use without it.
    bucket = await gateway.door.bus.client.jetstream().key_value(f"{gateway.door.settings.namespace}sessions")
    for key in await bucket.keys():
        kept = (await bucket.get(key)).value or b""
        assert value not in key
        assert b"hr_" not in kept
        assert b"token" not in kept


async def test_where_tls_ends_before_us_cookies_are_for_tls_and_this_host_only(
    servers: Servers, pipelines: Pipelines, namespace: str
) -> None:
    settings = gateway_settings(servers.nats_url, namespace, secure_cookies=True)
    async with running(settings, pipelines) as gateway, browsing(gateway.url) as browser:
        await browser.open("/login")
    assert len(browser.set_cookies) == 1
    assert browser.set_cookies[0].startswith("__Host-headrace_visitor=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} <= set(browser.set_cookies[0].split("; "))


async def test_the_api_takes_no_cookie(gateway: Gateway, browser: Browser) -> None:
    for method, path in (
        ("GET", "/v1/pipelines"),
        ("GET", "/v1/auth/me"),
        ("GET", "/v1/documents/invoices"),
        ("POST", "/v1/documents/invoices"),
        ("GET", "/v1/analytics/invoices"),
        ("GET", "/users"),
    ):
        async with browser.http.request(method, f"{gateway.url}{path}") as answer:
            assert answer.status == 401, path


async def test_pages_take_no_token(gateway: Gateway) -> None:
    status, _, headers = await gateway.ask("GET", "/forms", key=gateway.key(*SCOPES))

    assert (status, headers["Location"]) == (303, "/login?next=%2Fforms")


async def test_no_page_holds_a_token(gateway: Gateway) -> None:
    given = logs_in(gateway, *SCOPES)
    async with browsing(gateway.url) as browser:
        await browser.sign_in()
        for path in ("/forms", "/forms/invoices", "/results", "/forms/nothing"):
            page = await browser.open(path)
            whole = page.source + str(page.headers)
            assert given[0] not in whole
            assert (browser.cookie("headrace_session") or "?") not in whole


async def test_a_wrong_password_keeps_the_name_and_tells(gateway: Gateway) -> None:
    gateway.auth.answers["token"] = AccessError("The username or the password is wrong.", code="invalid_credentials")
    async with browsing(gateway.url) as browser:
        page = await browser.sign_in(username=HOSTILE[:60])
        assert (page.status, page.fields["username"]) == (401, [HOSTILE[:60]])
        assert "The username or the password is wrong." in page.words
        assert page.fields["password"] == [""]
        assert "script" not in page.tags
        gateway.auth.answers["token"] = RateError("Too many failed logins; wait.", retry_after_seconds=7)
        page = await browser.submit("/login", LOGIN)
        assert (page.status, page.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize(
    "asked",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/forms/../\\evil",
        "/forms\r\nSet-Cookie: a=b",
        "/forms?next=//evil.example",
        "/docs",
        "javascript:alert(1)",
        "/forms/invoices\n",
    ],
)
async def test_a_sign_in_leads_to_our_own_pages_only(gateway: Gateway, asked: str) -> None:
    logs_in(gateway, *SCOPES)
    async with browsing(gateway.url) as browser:
        await browser.open("/login")
        page = await browser.submit("/login", {**LOGIN, "next": asked})

    assert (page.status, page.url) == (200, "/forms")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_what_another_site_sends_is_refused_even_with_a_good_token(
    browser: Browser, headers: dict[str, str]
) -> None:
    await browser.open("/forms/invoices")
    for path, fields in (("/forms/invoices", INVOICE), ("/logout", {}), ("/login", LOGIN)):
        page = await browser.submit(path, fields, headers=headers)
        assert (page.status, "Another site sent this form" in page.words) == (403, True)
    assert (await browser.open("/forms")).status == 200


@pytest.mark.parametrize("csrf", ["", "x", "é", csrf_of("another"), csrf_of("A" * 43)])
async def test_a_form_without_this_sessions_token_does_nothing_and_keeps_what_was_typed(
    gateway: Gateway, browser: Browser, csrf: str
) -> None:
    await browser.open("/forms/invoices")
    good = browser.page.hidden["csrf"]
    page = await browser.submit("/forms/invoices", {**INVOICE, "csrf": csrf})

    assert (page.status, page.fields["/InvoiceNo"]) == (403, ["536365"])
    assert page.hidden["csrf"] == good
    assert (await browser.submit("/logout", {"csrf": csrf})).status == 403
    async with browsing(gateway.url) as stranger:
        await stranger.open("/login")
        assert (await stranger.submit("/login", {**LOGIN, "csrf": csrf})).status == 403
        assert stranger.cookie("headrace_session") is None


async def test_signing_out_ends_the_session_and_its_tokens(gateway: Gateway, browser: Browser) -> None:
    old = browser.cookie("headrace_session")
    await browser.open("/forms")
    page = await browser.submit("/logout")

    assert page.url == "/login"
    assert browser.cookie("headrace_session") is None
    asked, _ = gateway.auth.last("revoke")
    assert asked == {"token": "hrr_1"}
    status, _, headers = await gateway.ask("GET", "/forms", headers={"Cookie": f"headrace_session={old}"})
    assert (status, headers["Location"]) == (303, "/login?next=%2Fforms&over=1")


async def test_a_session_whose_token_was_revoked_is_over(gateway: Gateway) -> None:
    given = logs_in(gateway, *SCOPES)
    async with browsing(gateway.url) as browser:
        await browser.sign_in()
        principal = gateway.keys.pop(given[-1])
        gateway.door.authenticator._forget(principal.revocation_keys[0])
        page = await browser.open("/forms")
        assert page.url.startswith("/login")
        assert "Your session is over" in page.words


async def test_of_many_requests_one_renews_the_session(gateway: Gateway) -> None:
    logs_in(gateway, *SCOPES, expires_in=1)
    async with browsing(gateway.url) as browser:
        await browser.sign_in()
        (old,) = {payload["refresh_token"] for name, payload, _ in gateway.auth.asked[-2:] if name == "refresh"}
        newest = logs_in(gateway, *SCOPES)
        pages = await asyncio.gather(*(gateway.ask("GET", "/forms", headers=_cookie(browser)) for _ in range(8)))

    assert [status for status, _, _ in pages] == [200] * 8
    # A refresh token that is used twice ends the session.
    assert len(newest) == 1
    assert gateway.auth.last("refresh")[0] == {"refresh_token": "hrr_2"}
    assert old == "hrr_1"


async def test_a_session_that_cannot_be_renewed_is_over_and_one_that_cannot_now_waits(gateway: Gateway) -> None:
    logs_in(gateway, *SCOPES, expires_in=1)
    async with browsing(gateway.url) as browser:
        await browser.sign_in()
        gateway.auth.answers["refresh"] = UnavailableError("Away.", code="auth_unavailable", retry_after_seconds=2)
        assert (await browser.open("/forms")).status == 503
        gateway.auth.answers["refresh"] = AccessError("Not valid.", code="invalid_refresh_token")
        assert (await browser.open("/forms")).url.startswith("/login")


@pytest.mark.parametrize("cookie", ["", "x", "A" * 43, "é" * 43, "A" * 5000])
async def test_a_made_up_cookie_is_no_session(gateway: Gateway, cookie: str) -> None:
    sent = {"Cookie": f"headrace_session={cookie}".encode().decode("latin-1")}
    status, _, headers = await gateway.ask("GET", "/forms", headers=sent)

    assert (status, headers["Location"].partition("?")[0]) == (303, "/login")


async def test_a_link_on_another_site_meets_a_page_that_asks_again(gateway: Gateway) -> None:
    status, body, _ = await gateway.ask("GET", "/results", headers={"Sec-Fetch-Site": "cross-site"})

    assert status == 200
    assert b'http-equiv="refresh" content="0; url=/results"' in body


async def test_pages_cannot_be_framed_run_nothing_and_ask_nobody(browser: Browser) -> None:
    for path in ("/login", "/forms", "/forms/students", "/results", "/forms/nothing", "/forms/invoices/no-id"):
        page = await browser.open(path)
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'"), path
        assert "unsafe" not in policy
        assert page.headers["X-Frame-Options"] == "DENY"
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "same-origin"
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "script" not in page.tags
        assert "style" not in page.tags
        assert " style=" not in page.source
        assert not re.search(r" on\w+=", page.source)
        assert not re.findall(r"(?:href|src|action)=\"(?:https?:)?//", page.source)
        assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("pipeline", ["invoices", "searches", "students"])
async def test_a_form_has_a_labelled_control_for_every_field(gateway: Gateway, browser: Browser, pipeline: str) -> None:
    page = await browser.open(f"/forms/{pipeline}")
    schema = gateway.door.pipelines[pipeline].accepts.model_json_schema()

    assert {f"/{name}" for name in schema["properties"]} == {name for name in page.controls if name.startswith("/")}
    for name, control in page.controls.items():
        if name.startswith("/") and control.get("type") != "radio":
            assert page.labels[str(control["id"])].strip(), name
        for described in str(control.get("aria-describedby") or "").split():
            assert described in page.ids, name
        if name.removeprefix("/") in schema["required"]:
            assert "required" in control, name


async def test_a_sent_form_is_a_document_of_the_right_types(gateway: Gateway, browser: Browser) -> None:
    await browser.open("/forms/invoices")
    page = await browser.submit("/forms/invoices", INVOICE)
    assert page.url.startswith("/forms/invoices/")
    assert browser.visited[-2:] == [(303, "/forms/invoices"), (404, page.url)]

    assert await accepted(gateway, page) == {
        **{name.removeprefix("/"): text for name, text in INVOICE.items()},
        "Quantity": 6,
    }


async def test_a_form_sent_twice_is_one_document_and_an_edited_one_another(gateway: Gateway, browser: Browser) -> None:
    await browser.open("/forms/invoices")
    form = browser.page
    first = (await browser.submit("/forms/invoices", INVOICE)).url
    browser.page = form
    assert (await browser.submit("/forms/invoices", INVOICE)).url == first

    browser.page = form
    assert (await browser.submit("/forms/invoices", {**INVOICE, "/Quantity": "7"})).url != first
    await browser.open("/forms/invoices")
    assert (await browser.submit("/forms/invoices", INVOICE)).url != first


async def test_errors_stand_beside_their_fields_and_the_rest_is_kept(browser: Browser) -> None:
    await browser.open("/forms/invoices")
    wrong = {**INVOICE, "/Quantity": "six", "/CustomerID": "x", "/Country": "", "/Description": HOSTILE}
    page = await browser.submit("/forms/invoices", wrong)

    assert page.status == 422
    assert "There are 3 problems" in page.words
    for name in ("/Quantity", "/CustomerID", "/Country"):
        control = page.controls[name]
        (error,) = [one for one in str(control["aria-describedby"]).split() if one.endswith("-error")]
        assert page.errors[error].startswith("Error: ")
        assert control["aria-invalid"] == "true"
        assert f"#{control['id']}" in page.links
    assert page.fields["/Description"] == [HOSTILE]
    assert page.fields["/Quantity"] == ["six"]
    assert "script" not in page.tags
    assert "aria-invalid" not in page.controls["/InvoiceNo"]


async def test_json_in_a_field_is_told_with_its_place_beside_what_else_is_wrong(browser: Browser) -> None:
    await browser.open("/forms/searches")
    page = await browser.submit(fields={"/hotel_id": "6 0", "/hotel_advertisers": '{"A": [{}]}'})
    assert "A/0/eurocents: Fill this in, please." in str(page.errors)
    assert page.fields["/hotel_advertisers"] == ['{"A": [{}]}']

    page = await browser.submit(fields={"/hotel_advertisers": '{"A": ['})
    assert "This is not JSON" in str(page.errors)
    assert len(page.errors) == 4


async def test_somebody_who_may_not_send_or_read_is_told_which_scope_is_missing(gateway: Gateway) -> None:
    logs_in(gateway, "documents:write:invoices")
    async with browsing(gateway.url) as browser:
        await browser.sign_in()
        page = await browser.open("/forms")
        assert [link for link in page.links if link.startswith("/forms/")] == ["/forms/invoices"]
        for path, scope in (("/forms/searches", "documents:write"), ("/results/invoices", "analytics:read")):
            page = await browser.open(path)
            assert (page.status, f"lacks the scope {scope}" in page.words) == (403, True)
        await browser.open("/forms/invoices")
        page = await browser.submit("/forms/searches", {})
        assert page.status == 403
        await browser.open("/forms/invoices")
        # Who may send and not read has his receipt all the same; it tells nothing about what is stored.
        page = await browser.submit("/forms/invoices", INVOICE)
        assert (page.status, "documents:read" in page.words) == (200, True)
        assert (await browser.open("/forms/searches/" + page.url.rpartition("/")[2])).status == 403


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"status": "accepted", "sinks": {"documents": "stored", "facts": "pending"}}, ["Accepted", "pending"]),
        ({"status": "stored", "document": {"a": HOSTILE}}, ["Stored", "alert(1)"]),
        (
            {
                "status": "dead",
                "sinks": {"documents": "pending", "facts": "pending"},
                "problem": {
                    "detail": HOSTILE,
                    "code": "transform_refused",
                    "stage": "refine",
                    "dead_at": "2026-11-25T08:15:30Z",
                    "errors": [{"pointer": "/a", "code": "x", "message": HOSTILE}],
                },
            },
            ["Refused", "not stored", "transform_refused"],
        ),
    ],
)
async def test_a_receipt_says_where_the_document_is(
    gateway: Gateway, browser: Browser, state: dict[str, Any], words: list[str]
) -> None:
    found = "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001"
    whole = {
        "id": found,
        "pipeline": "invoices",
        "received_at": "2026-11-25T08:15:30Z",
        "sinks": {"documents": "stored", "facts": "stored"},
        "document": None,
        "problem": None,
        **state,
    }
    gateway.analytics.says("document", whole)
    page = await browser.open(f"/forms/invoices/{found}")

    assert page.status == 200
    assert all(word in page.words for word in words)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1


async def test_results_show_hostile_keys_and_documents_as_text(gateway: Gateway, browser: Browser) -> None:
    gateway.analytics.says(
        "metrics",
        {
            "pipeline": "invoices",
            "metrics": [
                {"metric": "revenue_by_country", "kind": "sum", "count": 1, "data": {HOSTILE: 12.5}},
                {
                    "metric": "per_minute",
                    "kind": "trend",
                    "count": 1,
                    "data": [{"at": "2026-01-01T00:00:00Z", "count": 3}],
                },
            ],
        },
    )
    document = {"id": "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001", "received_at": "2026-11-25T08:15:30Z"}
    gateway.analytics.says("documents", {"items": [{**document, "document": {"invoice_no": HOSTILE}}], "next": None})
    gateway.analytics.answers["ledger"] = UnavailableError("The books are being counted.", code="ledger_pending")
    page = await browser.open("/results/invoices")

    assert page.status == 200
    assert page.words.count("alert(1)") >= 2
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert "12.5" in page.words
    assert "The books are being counted." in page.words
    assert f"/forms/invoices/{document['id']}" in page.links


async def test_results_tell_what_an_analysis_found_or_how_to_get_one(gateway: Gateway, browser: Browser) -> None:
    gateway.analytics.says("metrics", {"pipeline": "students", "metrics": []})
    gateway.analytics.says("documents", {"items": [], "next": None})
    gateway.analytics.says("ledger", {"pipelines": {}})
    terms = [{"term": f"school[{HOSTILE}]", "coefficient": 1, "low": 0.5, "high": 1.5}]
    answer = {
        "documents": 649,
        "computed_at": "2026-11-25T08:15:30Z",
        "result": {"regression": {"target": "G3", "background": {"rows": 649, "r_squared": 0.36, "terms": terms}}},
    }
    gateway.analytics.says("analysis", answer)
    page = await browser.open("/results/students")
    assert "36% of the differences in final mark" in page.words
    assert "alert(1)" in page.words
    assert "script" not in page.tags

    gateway.analytics.answers["analysis"] = RequestError(
        "Run `headrace analyse`.", code="analysis_not_found", status=404
    )
    page = await browser.open("/results/students")
    assert (page.status, "Run `headrace analyse`." in page.words) == (200, True)


async def test_a_service_that_is_away_is_a_page_that_says_so(gateway: Gateway, browser: Browser) -> None:
    gateway.analytics.answers["metrics"] = UnavailableError(
        "No instance of the analytics service is alive.", code="analytics_unavailable", retry_after_seconds=2
    )
    page = await browser.open("/results/invoices")

    assert (page.status, page.headers["Retry-After"]) == (503, "2")
    assert "No instance of the analytics service is alive." in page.words


async def test_a_bug_of_ours_is_a_page_that_says_where_the_log_has_it(gateway: Gateway, browser: Browser) -> None:
    gateway.analytics.says("metrics", {"metrics": ["no metric"]})
    gateway.analytics.says("documents", {"items": [], "next": None})
    gateway.analytics.says("ledger", {"pipelines": {}})
    page = await browser.open("/results/invoices")

    assert (page.status, page.headers["Content-Type"]) == (500, "text/html; charset=utf-8")
    assert page.headers["X-Request-Id"] in page.words
    assert "Error" not in page.words.replace("Internal error", "")


async def test_a_full_stream_keeps_what_was_typed(
    gateway: Gateway, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise UnavailableError("The stream is full.", code="stream_full", retry_after_seconds=9)

    await browser.open("/forms/invoices")
    key = browser.page.hidden["key"]
    monkeypatch.setattr(gateway.door.admission, "admit", full)
    page = await browser.submit("/forms/invoices", INVOICE)

    assert (page.status, page.headers["Retry-After"]) == (503, "9")
    assert (page.fields["/InvoiceNo"], page.hidden["key"]) == (["536365"], key)


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"%ff=1", "application/x-www-form-urlencoded", 422),
        ("é=1".encode(), "application/x-www-form-urlencoded", 422),
        (b"&".join([b"a=1"] * 6000), "application/x-www-form-urlencoded", 422),
        (b"{}", "application/json", 415),
        (b"a" * 1_500_000, "application/x-www-form-urlencoded", 413),
        (b"", "application/x-www-form-urlencoded", 403),
        (b"/InvoiceNo=1;/InvoiceNo=2", "application/x-www-form-urlencoded", 403),
    ],
)
async def test_a_body_that_is_no_form_is_refused_clearly(
    browser: Browser, body: bytes, media_type: str, status: int
) -> None:
    async with browser.http.post(
        f"{browser.url}/forms/invoices", data=body, headers={"Content-Type": media_type}
    ) as answer:
        assert answer.status == status
        assert "Traceback" not in await answer.text()


def _cookie(browser: Browser) -> dict[str, str]:
    return {"Cookie": f"headrace_session={browser.cookie('headrace_session')}"}

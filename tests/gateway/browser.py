"""A browser without JavaScript, as far as the pages need one: cookies, forms, redirects, the headers that it sends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import aiohttp

_VOID = frozenset({"input", "meta", "link", "img", "br", "rect"})


class Page(HTMLParser):
    """What stands on a page.

    Attributes:
        fields: what its main form would send: {name: texts}, as it stands there.
        controls: every control that has a name, by name: its attributes.
        labels: {id: text of the label for it}.
        errors: {id of an error: its text}.
        ids: every id, in order.
    """

    def __init__(self, status: int, url: str, headers: Mapping[str, str], text: str) -> None:
        super().__init__()
        self.status, self.url, self.headers, self.source = status, url, headers, text
        self.fields: dict[str, list[str]] = {}
        self.hidden: dict[str, str] = {}
        self.controls: dict[str, dict[str, str | None]] = {}
        self.labels: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self._within: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.tags.append(tag)
        if tag not in _VOID:
            self._within.append((tag, about))
        if found := about.get("id"):
            self.ids.append(found)
        if tag == "a" and (link := about.get("href")):
            self.links.append(link)
        name = about.get("name")
        if tag == "input" and name:
            value = about.get("value") or ""
            self.controls[name] = about
            if about.get("type") == "hidden":
                self.hidden[name] = value
            if about.get("type") not in ("radio", "checkbox") or "checked" in about:
                self.fields[name] = [value]
        elif tag in ("select", "textarea") and name:
            self.controls[name] = about
            self.fields[name] = [""]
        elif tag == "option" and "selected" in about:
            self.fields[self._named("select")] = [about.get("value") or ""]

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.words += data
        for tag, about in self._within:
            if tag == "label" and (target := about.get("for")):
                self.labels[target] = self.labels.get(target, "") + data
            if (found := about.get("id")) and found.endswith("-error"):
                self.errors[found] = self.errors.get(found, "") + data
        if self._within and self._within[-1][0] == "textarea":
            self.fields[self._named("textarea")] = [data.removeprefix("\n")]

    def _named(self, tag: str) -> str:
        return next(about["name"] or "" for found, about in reversed(self._within) if found == tag)


@dataclass
class Browser:
    """One browser.

    Attributes:
        page: where it is.
        visited: status and path of every answer, redirects included.
    """

    url: str
    http: aiohttp.ClientSession
    page: Page
    visited: list[tuple[int, str]] = field(default_factory=list)
    set_cookies: list[str] = field(default_factory=list)

    async def open(self, path: str) -> Page:
        return await self._go("GET", path)

    async def submit(self, path: str = "", fields: Mapping[str, Any] | None = None, **options: Any) -> Page:
        """Send the form of the page, with these fields filled in, to a path or to where it is."""
        told = {**self.page.fields, **self.page.hidden, **(fields or {})}
        pairs = [
            (name, one) for name, texts in told.items() for one in ([texts] if isinstance(texts, str) else list(texts))
        ]
        options.setdefault("headers", {"Origin": self.url, "Sec-Fetch-Site": "same-origin"})
        return await self._go("POST", path or self.page.url, data=pairs, **options)

    async def sign_in(self, username: str = "ada", password: str = "a mill needs water") -> Page:
        await self.open("/login")
        return await self.submit("/login", {"username": username, "password": password})

    def cookie(self, name: str) -> str | None:
        return next((one.value for one in self.http.cookie_jar if one.key == name), None)

    async def _go(self, method: str, path: str, **options: Any) -> Page:
        for _ in range(5):
            options.setdefault("headers", {"Sec-Fetch-Site": "same-origin"})
            async with self.http.request(method, f"{self.url}{path}", allow_redirects=False, **options) as answer:
                self.visited.append((answer.status, path))
                self.set_cookies += answer.headers.getall("Set-Cookie", [])
                if answer.status != 303:
                    self.page = Page(answer.status, path, answer.headers, await answer.text())
                    return self.page
                path = answer.headers["Location"]
                assert path.startswith("/")
                assert not path.startswith("//")
                method, options = "GET", {}
        raise AssertionError(f"too many redirects: {self.visited[-5:]}")


@contextlib.asynccontextmanager
async def browsing(url: str) -> AsyncIterator[Browser]:
    # Cookies of an address in numbers are kept only by a jar that is told to.
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield Browser(url, http, Page(0, "", {}, ""))

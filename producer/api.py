"""What the load tester asks the gateway besides sending documents: the pipelines, the ledger, the version."""

from __future__ import annotations

from typing import Any, Final, Self

import aiohttp
import msgspec

from headrace.errors import HeadraceError, UnavailableError, error_of
from producer.proof import Books
from producer.target import Headrace

_TIMEOUT_SECONDS: Final = 10.0


class PipelineInfo(msgspec.Struct):
    """What the API says of a pipeline, as far as sending needs it."""

    name: str
    mode: str = "event"
    example: dict[str, Any] | None = None


class Api:
    """Small questions to one gateway; used within `async with`."""

    def __init__(self, headrace: Headrace) -> None:
        self._headrace = headrace

    async def __aenter__(self) -> Self:
        token = self._headrace.token
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def pipeline(self, name: str) -> PipelineInfo:
        return msgspec.convert(await self._get(f"/v1/pipelines/{name}"), PipelineInfo)

    async def pipeline_names(self) -> list[str]:
        answer = await self._get("/v1/pipelines")
        return [item["name"] for item in answer["items"]]

    async def books(self, pipeline: str) -> Books:
        answer = await self._get("/v1/ledger")
        line = answer["pipelines"].get(pipeline, {})
        return msgspec.convert({**line, **{name: answer.get(name, "") for name in ("at", "asked_at")}}, Books)

    async def version(self) -> str:
        answer = await self._get("/version")
        return str(answer.get("version", "")) if isinstance(answer, dict) else ""

    async def _get(self, path: str) -> Any:
        """Return the JSON that a path answers.

        Raises:
            HeadraceError: what the gateway's problem says.
            UnavailableError: no gateway answers there.
        """
        url = self._headrace.url + path
        try:
            async with self._session.get(url) as response:
                body = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UnavailableError(
                f"Nothing answers at {self._headrace.url} ({type(error).__name__}); `headrace up` starts a Headrace."
            ) from error
        try:
            answer = msgspec.json.decode(body)
        except msgspec.DecodeError:
            raise HeadraceError(
                f"{url} answered {status}, and not in JSON: is this a Headrace?", status=status
            ) from None
        if status >= 400:
            raise error_of(
                answer
                if isinstance(answer, dict) and "status" in answer
                else {"status": status, "detail": f"{url} answered {status}."}
            )
        return answer

"""What may be asked of the workbench, and how it is refused."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from headrace.document import digest, rfc3339
from headrace.errors import DocumentError, FieldError
from headrace.moment import Moment
from headrace.patch import Patch, dumps, invalid_patch, loads, patch_of
from headrace.schema import malformed, pointer_of
from headrace.settings import DeadLetterSettings
from headrace.storage.dead_letters import Selection

Body = TypeVar("Body", bound="_Chosen")


def _storable(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "Text must not hold U+0000; remove it")
    return text


_Text = Annotated[str, AfterValidator(_storable)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Filter(_Strict):
    """What the dead letters that are meant have in common; `after` and `before` are of their refusal."""

    pipeline: _Text | None = None
    stage: _Text | None = None
    code: _Text | None = None
    pointer: _Text | None = None
    after: Moment | None = None
    before: Moment | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Filter:
        if not any(value is not None for value in self.__dict__.values()):
            raise PydanticCustomError(
                "empty_filter", "Name at least one of pipeline, stage, code, pointer, after, before"
            )
        return self


class _Chosen(_Strict):
    ids: list[UUID] | None = Field(None, min_length=1)
    filter: Filter | None = None

    @property
    def selection(self) -> Selection:
        if self.ids is not None:
            return Selection(ids=tuple(self.ids))
        assert self.filter, "checked when the request was read"
        return Selection(**self.filter.__dict__)

    @property
    def text(self) -> str:
        """Return what is chosen as JSON, as the audit keeps it."""
        if self.ids is not None:
            return msgspec.json.encode({"ids": self.ids}).decode()
        assert self.filter, "checked when the request was read"
        said = {
            name: rfc3339(value) if name in ("after", "before") else value
            for name, value in self.filter.__dict__.items()
            if value is not None
        }
        return msgspec.json.encode({"filter": said}).decode()


class Replay(_Chosen):
    """A replay, or its dry run. `patches` are of single documents, by id; they choose those documents, too."""

    patch: Any = None
    patches: dict[UUID, Any] | None = Field(None, min_length=1)
    dry_run: bool = False
    after: int = Field(0, ge=0, description="of a dry run: where the one before it ended")
    rate: float | None = Field(None, ge=1)
    force: bool = False
    reason: _Text | None = Field(None, max_length=500)


class Discard(_Chosen):
    reason: _Text = Field(min_length=1, max_length=500, pattern=r"\S")


def replay_of(payload: bytes, settings: DeadLetterSettings) -> tuple[Replay, Patches]:
    """Return a replay and its patches.

    Raises:
        RequestError: it is not JSON.
        DocumentError: it breaks rules (422 `invalid_request` or `invalid_patch`), and which.
    """
    asked = _read(payload, Replay, settings)
    if asked.rate is not None and asked.rate > settings.documents_per_second:
        raise _invalid("/rate", "less_than_equal", f"At most {settings.documents_per_second:g} documents a second.")
    if asked.patch is None and asked.patches is None:
        return asked, Patches(None)
    exact = loads(payload)  # pydantic has read decimals as floats
    if asked.patches is None:
        return asked, Patches(patch_of(exact["patch"]))
    errors: list[FieldError] = []
    found: dict[str, Patch] = {}
    for key, value in exact["patches"].items():
        try:
            found[str(UUID(key))] = patch_of(value, place=f"/patches/{key}")
        except DocumentError as error:
            errors += error.errors
    if errors:
        raise invalid_patch(errors[:20])
    return asked.model_copy(update={"ids": [UUID(key) for key in found]}), Patches(found)


def discard_of(payload: bytes, settings: DeadLetterSettings) -> Discard:
    """Return a discard; raises as `replay_of`."""
    return _read(payload, Discard, settings)


class Patches:
    """One patch for all, one for each of some, or none."""

    def __init__(self, patches: Patch | dict[str, Patch] | None) -> None:
        self._patches = patches

    def of(self, document_id: str) -> Patch | None:
        return self._patches.get(document_id) if isinstance(self._patches, dict) else self._patches

    @property
    def text(self) -> str | None:
        """Return what the audit keeps, as JSON: an array of operations, or an object of those by id."""
        match self._patches:
            case None:
                return None
            case Patch():
                return self._patches.text
        return dumps({key: list(one.operations) for key, one in self._patches.items()}).decode()

    @property
    def sha256(self) -> str | None:
        text = self.text
        return None if text is None else digest(text.encode())


def patches_of(text: str | None) -> Patches:
    """Return what `Patches.text` has kept."""
    if text is None:
        return Patches(None)
    value = loads(text.encode())
    if isinstance(value, list):
        return Patches(patch_of(value))
    return Patches({key: patch_of(one) for key, one in value.items()})


def _read(payload: bytes, kind: type[Body], settings: DeadLetterSettings) -> Body:
    try:
        asked = kind.model_validate_json(payload)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            raise malformed("it cannot be parsed") from None
        errors = [FieldError(pointer_of(item["loc"]), item["type"], f"{item['msg']}.") for item in found[:20]]
        fields = ", ".join(dict.fromkeys(error.pointer or "the body itself" for error in errors))
        raise DocumentError(f"The request is not valid: {fields}.", code="invalid_request", errors=errors) from None
    named = asked.patches if isinstance(asked, Replay) else None
    if sum(one is not None for one in (asked.ids, asked.filter, named)) != 1:
        either = "`ids`, `filter` or `patches`" if isinstance(asked, Replay) else "`ids` or `filter`"
        raise _invalid("", "one_selection", f"Choose the dead letters by exactly one of {either}.")
    if named is not None and isinstance(asked, Replay) and asked.patch is not None:
        raise _invalid("/patch", "one_patch", "Give one `patch` for all, or `patches` by id, not both.")
    count = len(asked.ids or named or ())
    if count > settings.max_ids:
        where = "/ids" if asked.ids else "/patches"
        raise _invalid(where, "too_long", f"Name at most {settings.max_ids} documents at once; use a filter for more.")
    return asked


def _invalid(pointer: str, code: str, advice: str) -> DocumentError:
    where = pointer or "the body itself"
    return DocumentError(
        f"The request is not valid: {where}.", code="invalid_request", errors=[FieldError(pointer, code, advice)]
    )

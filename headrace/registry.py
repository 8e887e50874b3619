"""The pipelines there are: the built-in folder and the user's own, listed by one function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from headrace.errors import HeadraceError, RequestError
from headrace.pipeline import Pipeline

Pipelines = Mapping[str, Pipeline]

_BUILT_IN = Path(__file__).resolve().parent.parent / "pipelines"


class PipelineFileError(HeadraceError):
    """A pipeline's file cannot be used; the message names the file and the reason."""

    default_code = "pipeline_file"


def load_pipelines(folder: Path | None = None) -> Pipelines:
    """Return every pipeline by name: those of `pipelines/`, then those of `folder`, one or more a file.

    Raises:
        PipelineFileError: a file does not import, holds no pipeline, or repeats a name.
    """
    found: dict[str, Pipeline] = {}
    origin: dict[str, Path] = {}
    for path in pipeline_files(folder):
        for pipeline in pipelines_in(path):
            if pipeline.name in found:
                raise PipelineFileError(f"{path}: pipeline {pipeline.name!r} is in {origin[pipeline.name]} already.")
            found[pipeline.name] = pipeline
            origin[pipeline.name] = path
    for name in found:
        # Where an entity keeps its versions (storage/postgres.py).
        if (taken := f"{name}_versions") in found and found[name].entity:
            raise PipelineFileError(f"{origin[taken]}: the tables of {name!r} need the name {taken!r}; choose another.")
    return found


def pipeline_files(folder: Path | None = None) -> list[Path]:
    """Return the files that hold pipelines: the built-in ones, then those of `folder`.

    Raises:
        PipelineFileError: there is no such folder.
    """
    return [*_files(_BUILT_IN), *(_files(folder) if folder else ())]


def pipeline_named(pipelines: Pipelines, name: str) -> Pipeline:
    """Return a pipeline.

    Raises:
        RequestError: there is none of that name (404 `unknown_pipeline`).
    """
    try:
        return pipelines[name]
    except KeyError:
        known = ", ".join(sorted(pipelines)) or "none"
        raise RequestError(
            f"There is no pipeline {name[:80]!r}; there are: {known}.", code="unknown_pipeline", status=404
        ) from None


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise PipelineFileError(f"{folder}: there is no such folder of pipelines.")
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))


def pipelines_in(path: Path) -> list[Pipeline]:
    """Return the pipelines of one file.

    Raises:
        PipelineFileError: it does not import, or holds none.
    """
    try:
        module = _import(path)
    except Exception as error:
        raise PipelineFileError(f"{path}: {type(error).__name__}: {error}") from error
    found = list({id(value): value for value in vars(module).values() if isinstance(value, Pipeline)}.values())
    if not found:
        raise PipelineFileError(f"{path}: it defines no Pipeline; a name that starts with _ is left alone.")
    return found


def _import(path: Path) -> ModuleType:
    if path.parent == _BUILT_IN:
        return importlib.import_module(f"pipelines.{path.stem}")
    name = f"headrace_user_pipelines.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # pydantic looks a model's module up here to resolve its annotations.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

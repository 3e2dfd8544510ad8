"""Operating a memory that a server holds: the methods of ``Memory`` for that, and how all of them are sent."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

from agent_memory import inputs
from agent_memory.errors import AgentMemoryError, InvalidInputError, NotFoundError, StorageError
from agent_memory.files import write_atomically
from agent_memory.formats.payload import from_json
from agent_memory.memory import Memory
from agent_memory.recall.request import RecallOptions
from agent_memory.records import Copy, Erasure
from agent_memory.remote.wire import Wire
from agent_memory.reports import (
    GenerationInfo,
    Imported,
    Job,
    Maintenance,
    ReindexReport,
    Report,
    Schedule,
    Stats,
)
from agent_memory.types import Namespace
from agent_memory.writing.foreign.files import pack_folder
from agent_memory.writing.foreign.registry import Format, find_file, parse_format

if TYPE_CHECKING:
    import threading

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Remote = TypeVar("_Remote")
Given = dict[str, Any]
PAGE = 1000
"""Items of one request."""

_UPLOAD = "the upload"


def like(
    method: Callable[Concatenate[Memory, _P], _R],
) -> Callable[[Callable[[_Remote, Given], _R]], Callable[Concatenate[_Remote, _P], _R]]:
    """Return what gives a method the arguments and the description of one of ``Memory``'s."""
    signature = inspect.signature(method)

    def decorate(send: Callable[[_Remote, Given], _R]) -> Callable[Concatenate[_Remote, _P], _R]:
        @functools.wraps(method)
        def call(self: _Remote, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            inputs.check_progress(kwargs.get("progress"))
            try:
                _, *bound = signature.bind(self, *args, **kwargs).arguments.items()
            except TypeError as error:
                raise TypeError(f"Memory.{method.__name__}() {error}") from error
            given = dict(bound)
            options = given.pop("options", {}) if "options" in RECALLS.get(method.__name__, ()) else {}
            for name in options:
                if name not in RecallOptions.__annotations__:
                    raise TypeError(f"Memory.{method.__name__}() got an unexpected keyword argument {name!r}")
            return send(self, given | options)

        return call

    return decorate


RECALLS: Mapping[str, tuple[str, ...]] = {"recall_many": ("options",), "why": ("options",)}
"""Methods that take the options of recall as further keyword arguments."""


class RemoteOperator:
    """The methods of ``Memory`` for operators, over HTTP.

    Attributes:
        namespace: The scope of this memory.
    """

    namespace: Namespace
    _wire: Wire

    @like(Memory.stats)
    def stats(self, given: Given) -> Stats:  # noqa: D102
        return from_json(Stats, self._wire.send("GET", "/v1/stats"))

    @like(Memory.check)
    def check(self, given: Given) -> Report:  # noqa: D102
        inputs.check_flag("repair", given.get("repair", False))
        return from_json(Report, self._wire.operate("/v1/check", given))

    @like(Memory.reindex)
    def reindex(self, given: Given) -> ReindexReport:  # noqa: D102
        progress = given.pop("progress", None)
        inputs.check_flag("dry_run", given.get("dry_run", False))
        for name in ("encoder", "session_encoder"):
            _check_model(name, given.get(name))
        return from_json(ReindexReport, self._wire.operate("/v1/reindex", given, progress))

    @like(Memory.rollback)
    def rollback(self, given: Given) -> ReindexReport:  # noqa: D102
        progress = given.pop("progress", None)
        _check_model("encoder", given.get("encoder"))
        return from_json(ReindexReport, self._wire.operate("/v1/rollback", given, progress))

    @like(Memory.maintenance)
    def maintenance(self, given: Given) -> Maintenance:  # noqa: D102
        inputs.check_flag("dry_run", given.get("dry_run", False))
        if given.get("only") is not None:
            given["only"] = inputs.check_names("only", given["only"])
        return from_json(Maintenance, self._wire.operate("/v1/maintenance", given))

    @like(Memory.collect_generations)
    def collect_generations(self, given: Given) -> int:  # noqa: D102
        if "grace" in given:
            given["grace"] = inputs.check_timedelta("grace", given["grace"]).total_seconds()
        return int(self._wire.send("POST", "/v1/generations/collect", given)["count"])

    @like(Memory.generations)
    def generations(self, given: Given) -> list[GenerationInfo]:  # noqa: D102
        return [from_json(GenerationInfo, one) for one in self._wire.send("GET", "/v1/generations")["items"]]

    @like(Memory.purge_expired)
    def purge_expired(self, given: Given) -> Erasure:  # noqa: D102
        return Erasure.from_dict(self._wire.send("POST", "/v1/purge"))

    @like(Memory.clear_queries)
    def clear_queries(self, given: Given) -> int:  # noqa: D102
        return int(self._wire.send("POST", "/v1/queries/clear", self._scope(given.get("namespace")))["count"])

    @like(Memory.save_snapshot)
    def save_snapshot(self, given: Given) -> None:  # noqa: D102
        self._wire.send("POST", "/v1/snapshot")

    @like(Memory.jobs)
    def jobs(self, given: Given) -> list[Job]:  # noqa: D102
        limit = inputs.check_count("limit", given.get("limit", 100))
        answer = self._wire.send("GET", "/v1/jobs", params={"limit": min(limit, PAGE)})
        return [from_json(Job, one) for one in answer["items"]]

    @like(Memory.pause_job)
    def pause_job(self, given: Given) -> Job:  # noqa: D102
        return self._set_job(given, "pause")

    @like(Memory.resume_job)
    def resume_job(self, given: Given) -> Job:  # noqa: D102
        return self._set_job(given, "resume")

    @like(Memory.cancel_job)
    def cancel_job(self, given: Given) -> Job:  # noqa: D102
        return self._set_job(given, "cancel")

    def _set_job(self, given: Given, action: str) -> Job:
        job = inputs.check_count("job", given["job"], most=2**62)
        return from_json(Job, self._wire.send("POST", f"/v1/jobs/{job}/{action}"))

    @like(Memory.run_job)
    def run_job(self, given: Given) -> Job:  # noqa: D102
        return from_json(Job, self._wire.operate("/v1/jobs", given))

    def work(self, stop: threading.Event) -> None:
        """Refuse: periodic jobs run where the store is.

        Raises:
            InvalidInputError: Always.
        """
        raise InvalidInputError("periodic jobs run where the store is: agent-memory jobs run")

    @like(Memory.schedules)
    def schedules(self, given: Given) -> list[Schedule]:  # noqa: D102
        return [from_json(Schedule, one) for one in self._wire.send("GET", "/v1/schedules")["items"]]

    @like(Memory.schedule)
    def schedule(self, given: Given) -> Schedule:  # noqa: D102
        name = inputs.check_name("name", given.pop("name", None) or given["kind"])
        return from_json(Schedule, self._wire.send("PUT", f"/v1/schedules/{quote_name(name)}", given))

    @like(Memory.unschedule)
    def unschedule(self, given: Given) -> None:  # noqa: D102
        self._wire.send("DELETE", f"/v1/schedules/{quote_name(inputs.check_name('name', given['name']))}")

    @like(Memory.pause_schedule)
    def pause_schedule(self, given: Given) -> None:  # noqa: D102
        paused = inputs.check_flag("paused", given.get("paused", True))
        name = quote_name(inputs.check_name("name", given["name"]))
        self._wire.send("POST", f"/v1/schedules/{name}/pause", {"paused": paused})

    @like(Memory.backup)
    def backup(self, given: Given) -> int:  # noqa: D102
        return self._download("/v1/backup", given)

    @like(Memory.export)
    def export(self, given: Given) -> int:  # noqa: D102
        return self._download("/v1/export", given)

    def _download(self, path: str, given: Given) -> int:
        file, progress = inputs.parse_path("path", given["path"]), given.get("progress")
        if file.is_dir():
            raise InvalidInputError(f"{file} is a folder; give the name of a file")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._wire.download(path) as (count, parts), write_atomically(file) as target:
                for part in parts:
                    target.write(part)
        except OSError as error:
            raise StorageError(f"cannot write {file}: {error}") from error
        if progress is not None and count:
            progress(count, count)
        return count

    @like(Memory.copies)
    def copies(self, given: Given) -> list[Copy]:  # noqa: D102
        return [from_json(Copy, one) for one in self._wire.send("GET", "/v1/copies")["items"]]

    @like(Memory.import_)
    def import_(self, given: Given) -> Imported:  # noqa: D102
        path, progress = inputs.parse_path("path", given["path"]), given.get("progress")
        form, source = given.get("format"), given.get("source")
        if form is not None and source is not None and form != source:
            raise InvalidInputError(f"format and source are one thing; got {form!r} and {source!r}")
        flags = ("assume_now", "dry_run", "all_branches")
        params: Given = {name: inputs.check_flag(name, given.get(name, False)) for name in flags}
        chosen = params["format"] = parse_format(source if form is None else form)
        try:
            with _open_upload(path, chosen) as file:
                params["name"] = file.name.encode(errors="replace").decode()
                answer = self._wire.operate("/v1/import", None, progress, file=file, params=params)
        except AgentMemoryError as error:
            if _UPLOAD not in str(error):
                raise
            raise type(error)(str(error).replace(_UPLOAD, str(path))) from error
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no file {path}") from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error}") from error
        return Imported.from_dict(answer)

    restore = staticmethod(Memory.restore)
    copy = staticmethod(Memory.copy)

    def _scope(self, namespace: object) -> dict[str, list[str]]:
        """Return the namespace of a call as it is sent; nothing if it is this memory's own."""
        return {} if namespace is None else {"namespace": list(inputs.resolve_namespace(namespace, self.namespace))}


@contextmanager
def _open_upload(path: Path, format_: Format | None) -> Iterator[Path]:
    """Yield the one file that stands for what is to be imported: of a folder of JSON files, an archive of them."""
    file = find_file(path, format_)
    if not file.is_dir():
        if not file.is_file():
            raise NotFoundError(f"there is no file {path}")
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="agent-memory-") as folder:
        packed = Path(folder) / "folder.zip"
        pack_folder(file, packed)
        yield packed


def _check_model(what: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise InvalidInputError(f"{what} must be the name of a model over HTTP, got {inputs.type_name(value)}")


def quote_name(name: str) -> str:
    """Return a name as part of a path. Dots alone would be taken for folders."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")

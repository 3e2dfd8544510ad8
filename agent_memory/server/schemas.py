"""What requests and answers look like: the source of the OpenAPI description.

Bodies are checked for names that nobody knows; their values are checked by the memory itself, whose messages are the
same over HTTP as in Python.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, WithJsonSchema, create_model

from agent_memory import records, reports
from agent_memory.inputs import MAX_K, MAX_NAME_CHARS
from agent_memory.recall.request import Mode, RecallOptions
from agent_memory.types import Namespace
from agent_memory.writing.items import NewEntry

Schema = dict[str, Any]

_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS, "pattern": r"^[^\u0000-\u001f\u007f]+$"}
_TIME: Schema = {
    "type": "string",
    "minLength": 4,
    "description": "ISO 8601: a moment, or a day, week, month or year; without an offset in the zone of the request.",
    "examples": ["2024-05-01T10:30:00+02:00", "2024-05-01", "2024-W18", "2024-05", "2024"],
}
_ZONE: Schema = {
    "type": "string",
    "minLength": 1,
    "description": "Where days begin, and what times without an offset are meant in; the server's zone if left out.",
    "examples": ["Europe/Berlin", "+02:00", "UTC"],
}
_OBJECT: Schema = {"type": "object", "additionalProperties": True}
_VECTOR: Schema = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_NAMESPACE: Schema = {"type": "array", "items": _NAME, "maxItems": 64, "description": "Outermost name first."}
_TEXT: Schema = {"type": "string", "minLength": 1}
_FLAG: Schema = {"type": "boolean"}
_EXPIRY: Schema = {"anyOf": [_TIME, {"type": "null"}]}
_BY_NAME: Mapping[str, Schema] = {
    "text": _TEXT,
    "session": _NAME,
    "speaker": _NAME,
    "key": _NAME,
    "metadata": _OBJECT,
    "where": {**_OBJECT, "description": 'Metadata filter, such as {"year": {"$gte": 2024}}.'},
    "event_time": _TIME,
    "expires_at": _TIME,
    "importance": _SHARE,
    "namespace": _NAMESPACE,
    "vector": {
        "anyOf": [_VECTOR, {"const": False}, {"const": "later"}],
        "description": "The text's vector; false for none, later to encode the text in the background.",
    },
    "k": {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": 5},
    "mode": {"type": "string", "enum": [str(mode) for mode in Mode], "default": "hybrid"},
    "diversity": _SHARE,
    "min_confidence": {**_SHARE, "default": 0},
    "budget_ms": {"type": "number", "exclusiveMinimum": 0},
    "rerank": {
        "anyOf": [{"type": "boolean"}, {"const": "default"}],
        "description": "Score the best candidates again by the server's cross-encoder, or by the embedded one.",
    },
}
_BY_TYPE: Mapping[str, Schema] = {
    "str | None": _NAME,
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "float | None": {"type": "number"},
    "Mapping[str, Any] | None": _OBJECT,
    "Time | None": _TIME,
    "str | tzinfo | None": _ZONE,
    "timedelta | None": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds."},
}
_SPAN: TypeAdapter[timedelta] = TypeAdapter(timedelta)


def raw(schema: Schema, *, optional: bool = True) -> Any:  # noqa: ANN401 - an annotation
    """Return the annotation of a value that is described by a schema, and checked by whoever gets it."""
    shown = {"anyOf": [schema, {"type": "null"}]} if optional else schema
    return Annotated[Any, WithJsonSchema(shown)]


class Body(BaseModel):
    """A request's body; names that it does not have are refused."""

    model_config = ConfigDict(extra="forbid")

    def given(self) -> dict[str, Any]:
        """Return the values that were given, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def _annotations(table: type) -> dict[str, str]:
    """Return the types of a class's fields as they are written."""
    found = table.__annotations__
    return {name: str(getattr(kind, "__forward_arg__", kind)) for name, kind in found.items()}


def _fields(table: type) -> dict[str, Any]:
    """Return the fields of a body from the names and types of a class."""
    return {
        name: (raw(_BY_NAME.get(name) or _BY_TYPE.get(kind, {})), None) for name, kind in _annotations(table).items()
    }


SPANS = frozenset(name for name, kind in _annotations(RecallOptions).items() if kind == "timedelta | None")
"""Options of recall that are seconds in JSON."""

_ITEM_FIELDS: dict[str, Any] = {**_fields(NewEntry), "text": (raw(_TEXT, optional=False), ...)}
_OPTIONS: dict[str, Any] = {**_fields(RecallOptions), "namespace": (raw(_NAMESPACE), None)}

NewItem = create_model("NewEntry", __base__=Body, **_ITEM_FIELDS)
Options = create_model("RecallOptions", __base__=Body, **_OPTIONS)


class Items(Body):
    """Many entries."""

    items: Annotated[
        list[Any],
        WithJsonSchema(
            {
                "type": "array",
                "maxItems": 1000,
                "items": {"anyOf": [_TEXT, {"$ref": "#/components/schemas/NewEntry"}]},
            }
        ),
    ]
    session: raw(_NAME) = None  # type: ignore[valid-type]


_QUERY = {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 10_000}, _VECTOR]}
_QUERIES = {"type": "array", "maxItems": 1000, "items": {"type": "string", "minLength": 1, "maxLength": 10_000}}
Search = create_model(
    "Search",
    __base__=Body,
    query=(raw(_QUERY), None),
    queries=(raw(_QUERIES), None),
    **_OPTIONS,
)
_PLACE = _NAMESPACE | {"description": "The namespace that holds the entry, where another is searched."}
Why = create_model(
    "Why", __base__=Body, query=(raw(_QUERY, optional=False), ...), entry_namespace=(raw(_PLACE), None), **_OPTIONS
)
_CHANGEABLE = ("text", "speaker", "metadata", "event_time", "expires_at", "importance")
_CHANGES: dict[str, Any] = {
    name: (raw(_BY_NAME[name], optional=name not in ("text", "event_time")), None) for name in _CHANGEABLE
}
Changed = create_model("EntryUpdate", __base__=Body, **_CHANGES)


class Keys(Body):
    """Entries by their keys."""

    keys: raw({"type": "array", "items": _NAME, "maxItems": 1000}, optional=False)  # type: ignore[valid-type]
    namespace: raw(_NAMESPACE) = None  # type: ignore[valid-type]


class Expiries(Body):
    """When entries expire, by their keys; null for never."""

    expiries: raw({"type": "object", "additionalProperties": _EXPIRY, "maxProperties": 1000}, optional=False)  # type: ignore[valid-type]
    namespace: raw(_NAMESPACE) = None  # type: ignore[valid-type]


class Encode(Body):
    """Texts to encode."""

    texts: raw({"type": "array", "items": _TEXT, "maxItems": 1000}, optional=False)  # type: ignore[valid-type]
    queries: bool = False


class Passages(BaseModel):
    """Where the passages of a text begin and end, in characters; one, if the text is short."""

    items: list[tuple[int, int]]


class Vectors(BaseModel):
    """Vectors, in the order of the texts."""

    vectors: list[list[float]]


class Forget(Body):
    """What to forget: a key, a filter, a session, or everything."""

    key: raw(_NAME) = None  # type: ignore[valid-type]
    where: raw(_BY_NAME["where"]) = None  # type: ignore[valid-type]
    session: raw(_NAME) = None  # type: ignore[valid-type]
    everything: raw({"type": "boolean"}, optional=False) = False  # type: ignore[valid-type]
    namespace: raw(_NAMESPACE) = None  # type: ignore[valid-type]
    deferred: raw(_FLAG | {"description": "Leave traces in files to maintenance."}, optional=False) = False  # type: ignore[valid-type]
    dry_run: raw(_FLAG | {"description": "Only tell what would go."}, optional=False) = False  # type: ignore[valid-type]


class Supersede(Body):
    """Which entry takes the place of another."""

    by: raw(_NAME, optional=False)  # type: ignore[valid-type]
    namespace: raw(_NAMESPACE) = None  # type: ignore[valid-type]


class Likeness(Body):
    """A question, to be compared with the turns of a session."""

    query: raw({"type": "string", "minLength": 1, "maxLength": 10_000}, optional=False)  # type: ignore[valid-type]
    namespace: raw(_NAMESPACE) = None  # type: ignore[valid-type]
    steps: int = Field(default=16, ge=1, le=64)


class Reindex(Body):
    """How to re-index."""

    encoder: raw({"type": "string"}) = None  # type: ignore[valid-type]
    session_encoder: raw({"type": "string"}) = "auto"  # type: ignore[valid-type]
    tiers: raw({"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 3}) = None  # type: ignore[valid-type]
    rotation: raw({"type": "string", "enum": ["fit"]}) = None  # type: ignore[valid-type]
    dry_run: raw({"type": "boolean"}, optional=False) = False  # type: ignore[valid-type]
    batch_size: raw({"type": "integer", "minimum": 1}, optional=False) = 256  # type: ignore[valid-type]
    max_cpu: raw({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, optional=False) = 1.0  # type: ignore[valid-type]
    workers: raw({"type": "integer", "minimum": 1}, optional=False) = 1  # type: ignore[valid-type]
    join: raw({"type": "boolean"}, optional=False) = False  # type: ignore[valid-type]


class Rollback(Body):
    """How to roll back."""

    encoder: raw({"type": "string"}) = None  # type: ignore[valid-type]


class Check(Body):
    """How to check."""

    repair: raw({"type": "boolean"}, optional=False) = False  # type: ignore[valid-type]


class Maintain(Body):
    """Which maintenance to do."""

    dry_run: raw({"type": "boolean"}, optional=False) = False  # type: ignore[valid-type]
    only: raw({"type": "array", "items": _NAME}) = None  # type: ignore[valid-type]


class Collect(Body):
    """Which former generations to delete."""

    grace: raw({"type": "number", "minimum": 0}) = None  # type: ignore[valid-type]


class NewSchedule(Body):
    """A periodic job."""

    kind: raw({"type": "string"}, optional=False)  # type: ignore[valid-type]
    trigger: raw({"type": "string"}, optional=False)  # type: ignore[valid-type]
    options: raw(_OBJECT) = None  # type: ignore[valid-type]


class Paused(Body):
    """Whether a schedule is paused."""

    paused: raw({"type": "boolean"}, optional=False) = True  # type: ignore[valid-type]


class RunJob(Body):
    """A periodic job to run now."""

    kind: raw({"type": "string"}, optional=False)  # type: ignore[valid-type]
    options: raw(_OBJECT) = None  # type: ignore[valid-type]


class Scope(Body):
    """A namespace."""

    namespace: raw(_NAMESPACE) = None  # type: ignore[valid-type]


class NewKey(Body):
    """A key to make."""

    namespace: raw(_NAMESPACE) = None  # type: ignore[valid-type]
    role: raw({"type": "string", "enum": [str(role) for role in reports.Role]}, optional=False) = "reader"  # type: ignore[valid-type]
    name: raw({"type": "string", "maxLength": MAX_NAME_CHARS}, optional=False) = ""  # type: ignore[valid-type]
    expires_at: raw(_TIME) = None  # type: ignore[valid-type]
    rate_per_minute: raw({"type": "integer", "minimum": 1}) = None  # type: ignore[valid-type]
    max_entries: raw({"type": "integer", "minimum": 1}) = None  # type: ignore[valid-type]


# --- answers -------------------------------------------------------------------------------------------


@cache
def model_of(record: type) -> type[BaseModel]:
    """Return the model that describes a record in JSON."""
    hints = get_type_hints(record, localns={"Namespace": Namespace})
    kinds = {name: _in_json(kind) for name, kind in hints.items()}
    fields: dict[str, Any] = {field.name: (kinds[field.name], ...) for field in dataclasses.fields(record)}
    return create_model(record.__name__, __doc__=(record.__doc__ or "").partition("\n")[0], **fields)


def _in_json(kind: Any) -> Any:  # noqa: ANN401 - an annotation
    if kind is Any:
        return JsonValue
    if dataclasses.is_dataclass(kind):
        return model_of(kind)  # type: ignore[arg-type]
    arguments = getattr(kind, "__args__", ())
    if any(dataclasses.is_dataclass(part) for part in arguments):
        changed = tuple(_in_json(part) for part in arguments)
        origin = getattr(kind, "__origin__", None)
        return origin[changed] if origin is not None else changed[0] | changed[1]
    return kind


Entry = model_of(records.Entry)
Hit = create_model(
    "Hit",
    __base__=Entry,
    rank=(int, ...),
    score=(float, ...),
    confidence=(Annotated[float, Field(ge=0, le=1)] | None, ...),
    stale_by=(str | None, None),
    passage=(Annotated[list[int], Field(min_length=2, max_length=2)] | None, None),
    trace=(dict[str, JsonValue] | None, None),
)


class Hits(BaseModel):
    """The hits of one question, best first."""

    hits: list[Hit]
    tier_reached: int | None
    evidence: records.Evidence


class Answers(BaseModel):
    """The hits of several questions, in their order."""

    answers: list[Hits]


class EntryPage(BaseModel):
    """Entries, and the cursor to those that follow."""

    items: list[Entry]  # type: ignore[valid-type]
    next: str | None
    total: int | None = Field(default=None, description="Number of matching entries, if it was asked for.")


class EntryList(BaseModel):
    """Entries."""

    items: list[Entry]  # type: ignore[valid-type]


class EntryMap(BaseModel):
    """Entries by key."""

    items: dict[str, Entry]  # type: ignore[valid-type]


class VectorMap(BaseModel):
    """Vectors by key."""

    items: dict[str, list[float]]


_RECEIPT: dict[str, Any] = {
    name: (kind, None) if name in ("backups", "exports") else (kind, ...)
    for name, kind in get_type_hints(records.Erasure).items()
}
Forgotten = create_model(
    "Forgotten",
    __doc__="A receipt of what was forgotten. It holds no content; `backups` and `exports` are for the operator alone.",
    **{"forgotten": (int, ...), **_RECEIPT},
)


_COUNTS: dict[str, Any] = {name: (kind, ...) for name, kind in get_type_hints(reports.Imported).items()}
Imported = create_model(
    "Imported",
    __doc__="What an import did; `written` is the sum of `new` and `updated`.",
    **{"written": (int, ...), **_COUNTS},
)


class Preview(Forgotten):
    """What would be forgotten: the receipt that there would be, and up to 20 of the rows, former versions included."""

    would_forget: int
    sample: list[Entry]  # type: ignore[valid-type]


class NamespaceList(BaseModel):
    """Namespaces."""

    items: list[list[str]]
    next: str | None


class Count(BaseModel):
    """A number of entries, rows or the like."""

    count: int


class MadeKey(BaseModel):
    """A key with its text, which is shown once."""

    key: model_of(reports.ApiKey)  # type: ignore[valid-type]
    text: str


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


def page_of(record: type) -> type[BaseModel]:
    """Return the model of a page of records."""
    item = model_of(record)
    return create_model(f"{record.__name__}Page", items=(list[item], ...), next=(str | None, None))  # type: ignore[valid-type]


def parse_spans(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with those that are seconds in JSON as timedeltas; what is no such number stays as it is."""
    for name in SPANS & options.keys():
        options[name] = parse_span(options[name])
    return options


def parse_span(value: Any) -> Any:  # noqa: ANN401 - whatever was sent
    """Return a number of seconds as a timedelta; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    try:
        return _SPAN.validate_python(value)
    except (ValidationError, OverflowError):
        return value

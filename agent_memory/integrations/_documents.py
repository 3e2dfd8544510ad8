"""How LangChain documents are stored as entries."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.formats.names import decode_name, encode_name, is_too_long, own_key
from agent_memory.formats.prompt import without_recalled
from agent_memory.inputs import is_blank
from agent_memory.integrations._document_filters import PLACE
from agent_memory.integrations._erasing import check_ids, forget_all
from agent_memory.integrations._plain import plain, restored
from agent_memory.integrations._text import NO_TEXT, usable_text
from agent_memory.integrations._vectors import UNRANKED, anywhere, direction
from agent_memory.memory import Memory
from agent_memory.records import Entry
from agent_memory.types import Namespace

try:
    from langchain_core.documents import Document
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error

_TEXT = own_key("text")  # the text of a document, where the entry's is another
_KEY = own_key("key")  # the id of a document, where that is too long for a key; imports from Chroma use it too
_OWN = (PLACE, _TEXT, _KEY, UNRANKED)
_ENTRY_FIELDS = ("session", "speaker", "event_time", "expires_at", "importance")
_MOST = 10_000  # values in one filter
_FEW = 8  # deleting so many by their keys costs less than one look at all metadata


def as_items(
    texts: Sequence[str],
    metadatas: Sequence[Mapping[str, Any]] | None,
    ids: Sequence[str | None] | None,
    scope: Namespace,
    fields: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the entries of documents, all but their vectors.

    Args:
        texts: Their texts, which may be blank.
        metadatas: Their metadata; see ``_plain`` for what is converted.
        ids: Their ids; None for one to be made up.
        scope: Where they live.
        fields: Keyword arguments; those that are fields of an entry are, the others are the framework's own.

    Raises:
        InvalidInputError: The lists differ in length, or metadata are no mapping.
    """
    if isinstance(ids, str):
        check_ids("ids", ids)
    for name, values in (("metadatas", metadatas), ("ids", ids)):
        if values is not None and len(values) != len(texts):
            raise InvalidInputError(f"{name} must have one item per text: {len(values)} for {len(texts)} texts")
    if ids is not None:
        check_ids("ids", [key for key in ids if key is not None])
    keys = [uuid.uuid4().hex if key is None else encode_name(key) for key in ids or [None] * len(texts)]
    shared = {name: fields[name] for name in _ENTRY_FIELDS if name in fields}
    return [
        {**shared, "namespace": scope, "key": key, **_content(text, metadata, _place(scope, key), given)}
        for text, key, metadata, given in zip(
            texts, keys, metadatas or [{}] * len(texts), ids or [None] * len(texts), strict=True
        )
    ]


def _content(text: str, metadata: Mapping[str, Any], place: str, given: str | None) -> dict[str, Any]:
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata must be a mapping, got {type(metadata).__name__}")
    if not isinstance(text, str):
        raise InvalidInputError(f"the text of a document must be a string, got {type(text).__name__}")
    usable = usable_text(text)
    kept = without_recalled(usable)
    marks: dict[str, Any] = {PLACE: place}
    if given is not None and is_too_long(given):
        marks[_KEY] = given
    if is_blank(kept):
        kept, marks[UNRANKED] = NO_TEXT, True
    if kept != usable:
        marks[_TEXT] = usable
    return {"text": kept, "metadata": {**plain(metadata), **marks}}


def has_text(item: Mapping[str, Any]) -> bool:
    """Return whether there is anything to embed in an entry from ``as_items``."""
    return UNRANKED not in item["metadata"]


def with_vectors(
    items: Sequence[Mapping[str, Any]], vectors: Sequence[Sequence[float]], dimension: int
) -> list[dict[str, Any]]:
    """Return entries with the vectors of those that have text; those without, or of a zero vector, are not ranked."""
    given = iter(vectors)
    whole = []
    for item in items:
        vector = direction(next(given)) if has_text(item) else None
        marks = {UNRANKED: True} if vector is None else {}
        vector = anywhere(dimension) if vector is None else vector
        whole.append({**item, "vector": vector, "metadata": {**item["metadata"], **marks}})
    return whole


def document(entry: Entry) -> Document:
    """Return an entry as a LangChain document."""
    metadata = {name: value for name, value in entry.metadata.items() if name not in _OWN}
    text = str(entry.metadata.get(_TEXT, entry.text))
    return Document(page_content=text, metadata=restored(metadata), id=document_id(entry))


def document_id(entry: Entry) -> str:
    """Return the id that a document was given."""
    return str(entry.metadata.get(_KEY, decode_name(entry.key)))


def forget_keys(memory: Memory, keys: Sequence[str], scope: Namespace, *, later: bool) -> None:
    """Delete documents by their keys for good, many of them in one transaction; ``later`` is as for ``forget_all``."""
    left: Sequence[str] = list(dict.fromkeys(keys))
    selections: list[dict[str, Any]] = []
    if len(left) > _FEW:
        for start in range(0, len(left), _MOST):
            places = [_place(scope, key) for key in left[start : start + _MOST]]
            selections.append({"where": {PLACE: {"$in": places}}, "namespace": scope})
        known = memory.get_many(left, namespace=scope)
        left = [key for key, entry in known.items() if PLACE not in entry.metadata]  # not added through LangChain
    selections += [{"key": key, "namespace": scope} for key in left]
    forget_all(memory, selections, later=later)


def _place(scope: Namespace, key: str) -> str:
    return "\x1f".join((*scope, key))  # no name holds a control character

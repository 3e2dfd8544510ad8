"""This package's own forms: exports, conversations as lists of segments, items as ``Memory.add_many`` has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent_memory.errors import InvalidInputError
from agent_memory.writing.foreign.found import Found, Keys, Options, get_object, refuse
from agent_memory.writing.foreign.values import Value

FORMAT = 1
"""Version of the export format; others are refused."""

MARK = "agent_memory_export"
"""Key of the header, the first line of an export."""

# The first of these that a segment has; it is not copied to the metadata.
_TEXTS, _SPEAKERS = ("text", "content"), ("speaker", "role")
_TIMES = ("time", "timestamp", "created_at", "event_time")


def is_export(value: object) -> bool:
    """Return whether a value is the header of an export."""
    return isinstance(value, Mapping) and MARK in value


def is_conversation(value: object) -> bool:
    """Return whether a value is a conversation with segments."""
    return isinstance(value, Mapping) and "segments" in value


def is_item(value: object) -> bool:
    """Return whether a value is an item: a text, or an object that has one and nothing that only others have."""
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, Mapping) and isinstance(value.get("text"), str) and not {"type", "role"} & value.keys()


def read_export(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield the entries of an export, namespaces in full; see ``registry.Format``."""
    promised, number = None, 0
    for number, (line, value) in enumerate(values):
        place = f"line {line}"
        entry = get_object(place, value, "it")
        if number == 0:
            promised = entry.get("entries")
            if entry.get(MARK) != FORMAT:
                raise InvalidInputError(
                    f"{place}: export format {entry.get(MARK)!r}; this version of agent-memory reads format {FORMAT}"
                )
            continue
        item = {name: part for name, part in entry.items() if name not in ("created_at", "updated_at")}
        if not isinstance(item.get("key"), str):
            refuse(place, "an exported entry must have a key")
        if "vector" in item:
            refuse(place, "an export holds no vectors; texts are encoded again")
        item.setdefault("namespace", [])
        yield Found(place, item)
    if isinstance(promised, int) and promised != number:
        raise InvalidInputError(
            f"line 1 promises {promised} entries, and {number} follow: the file was cut, or lines were taken out. "
            "If that was meant, put their number there"
        )


def read_conversations(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield the segments of conversations; see ``registry.Format``."""
    keys = Keys()
    for line, value in values:
        place = f"line {line}"
        conversation = get_object(place, value, "it")
        name, segments = conversation.get("id"), conversation.get("segments")
        if not isinstance(name, str) or not isinstance(segments, list):
            refuse(place, "a conversation needs an id and a list of segments")
        for position, segment in enumerate(segments):
            yield _read_segment(segment, place, name, position, keys)


def read_items(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield items, one a line or one an element of a list; see ``registry.Format``.

    An item without a key gets one of what it says, so that it is kept once however often it is read.
    """
    keys = Keys()
    for line, value in values:
        place = f"line {line}"
        item = {"text": value} if isinstance(value, str) else dict(get_object(place, value, "an item"))
        if "vector" in item:
            refuse(place, "a file of items holds no vectors; texts are encoded when they are read")
        text = item.get("text")
        if text is None or (isinstance(text, str) and not text.strip()):
            yield Found(place, reason="empty")
            continue
        if item.get("key") is None:
            digest = hashlib.sha256(repr(sorted(item.items())).encode("utf-8", "replace")).hexdigest()[:32]
            key = keys.take(digest, item)
            if key is None:
                yield Found(place, reason="repeated")
                continue
            item["key"] = key
        yield Found(place, item)


def _read_segment(segment: object, place: str, name: str, position: int, keys: Keys) -> Found:
    if not isinstance(segment, Mapping):
        refuse(place, f"segment {position} of {name} is not an object")
    text_name, speaker_name = _find(segment, _TEXTS), _find(segment, _SPEAKERS)
    if text_name is None and not any(one in segment for one in _TEXTS):
        refuse(place, f"segment {position} of {name} has no text")
    text, speaker = segment.get(text_name or ""), segment.get(speaker_name or "")
    if text is None or (isinstance(text, str) and not text.strip()):
        return Found(place, reason="empty")
    index: Any = segment.get("idx", position)
    time = segment.get(_find(segment, _TIMES) or "")
    key = keys.take(f"{name}:{index}", segment)
    if key is None:
        return Found(place, reason="repeated")
    own = ("idx", text_name, speaker_name)
    item = {
        "key": key,
        "text": text,
        "session": name,
        "speaker": speaker or None,
        "event_time": time,
        "metadata": {field: part for field, part in segment.items() if field not in own} | {"idx": index},
    }
    return Found(place, item)


def _find(segment: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the first of some names that a segment has."""
    return next((name for name in names if segment.get(name) is not None), None)

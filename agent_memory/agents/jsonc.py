"""Edits JSON settings of other people in place: every byte that is not ours stays, comments and commas included.

A file is parsed by tree-sitter, which says where each value stands; what is put in or taken out is spliced there. To
take out what was put in gives back the very bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from agent_memory.errors import InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

Path = Sequence[str]
"""Names of members, from the root down."""

_CLOSERS = ("}", "]")
_MARKS = ("{", "[", ",", *_CLOSERS, "comment")


@cache
def _get_parser() -> Parser:
    try:
        import tree_sitter_json
        from tree_sitter import Language, Parser
    except ModuleNotFoundError as error:
        raise MissingDependencyError("tree-sitter-json", "coding-agents") from error
    return Parser(Language(tree_sitter_json.language()))


def parse(text: bytes) -> Node:
    """Return the root object of a JSON text, with comments and trailing commas allowed.

    Raises:
        InvalidInputError: It is no such text; the message says in which line.
    """
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"byte {error.start} is not UTF-8") from error
    document = _get_parser().parse(text).root_node
    if document.has_error:
        _check_errors(document)
    roots = [child for child in document.children if child.type != "comment"]
    if len(roots) != 1 or roots[0].type != "object":
        raise InvalidInputError(f"a JSON object is expected, got {len(roots)} values" if roots else "it is empty")
    return roots[0]


def _check_errors(node: Node) -> None:
    """Raise if something is wrong but commas after last members, which many programs allow."""
    for place, child in enumerate(node.children):
        before = node.children[place - 1] if place else None
        after = next((one for one in node.children[place + 1 :] if one.type != "comment"), None)
        comma = child.text == b"," and before is not None and before.type not in ("{", "[", ",")
        missing = child.is_missing and before is not None and before.type in (",", "comment")
        closed = after is not None and after.type in _CLOSERS
        if (child.type == "ERROR" or child.is_missing) and not (closed and (comma or missing)):
            raise InvalidInputError(f"line {child.end_point[0] + 1}: this is not JSON")
        if child.has_error and child.type != "ERROR":
            _check_errors(child)


def find(text: bytes, path: Path) -> Node | None:
    """Return the value that an object has under a path; of a name that occurs twice, the last one counts."""
    node: Node | None = parse(text)
    for name in path:
        pair = _find_pair(node, name)
        node = None if pair is None else pair.child_by_field_name("value")
        if node is None:
            return None
    return node


def read(node: Node | None) -> Any:  # noqa: ANN401 - whatever JSON has
    """Return a value as Python has it; None for no value."""
    if node is None:
        return None
    if node.type == "object":
        pairs = [child for child in node.children if child.type == "pair"]
        return {_name(pair): read(pair.child_by_field_name("value")) for pair in pairs}
    if node.type == "array":
        return [read(child) for child in _members(node)]
    return json.loads(node.text or b"null", strict=False)


def put(text: bytes, path: Path, value: object) -> bytes:
    """Return a text in which a member has a value; objects above it are made where they are missing.

    Raises:
        InvalidInputError: The text is no JSON, or something above the member is no object.
    """
    depth = len(path)
    while depth and find(text, path[:depth]) is None:
        depth -= 1
    above = find(text, path[:depth])
    assert above is not None
    if depth == len(path):
        indent = _indent_of(text, above)
        return _splice(text, above.start_byte, above.end_byte, _dump(text, value, indent))
    if above.type != "object":
        raise InvalidInputError(f"{'.'.join(path[:depth])} must be an object, got {above.type}")
    for name in reversed(path[depth + 1 :]):
        value = {name: value}
    return _insert(text, above, value, name=path[depth])


def append(text: bytes, path: Path, value: object) -> bytes:
    """Return a text in which an array has one more item; the array is made if it is missing.

    Raises:
        InvalidInputError: The text is no JSON, or what is there is no array.
    """
    array = find(text, path)
    if array is None:
        return put(text, path, [value])
    if array.type != "array":
        raise InvalidInputError(f"{'.'.join(path)} must be an array, got {array.type}")
    return _insert(text, array, value)


def remove(text: bytes, path: Path) -> bytes:
    """Return a text without a member, which need not be there."""
    above = find(text, path[:-1])
    pair = None if above is None else _find_pair(above, path[-1])
    return text if above is None or pair is None else _take_out(text, above, pair)


def remove_item(text: bytes, path: Path, place: int) -> bytes:
    """Return a text in which an array lacks its item at a place."""
    array = find(text, path)
    assert array is not None
    return _take_out(text, array, _members(array)[place])


def replace_item(text: bytes, path: Path, place: int, value: object) -> bytes:
    """Return a text in which an array has another item at a place."""
    array = find(text, path)
    assert array is not None
    item = _members(array)[place]
    return _splice(text, item.start_byte, item.end_byte, _dump(text, value, _indent_of(text, item)))


def _members(node: Node) -> list[Node]:
    return [child for child in node.children if child.type not in (*_MARKS, "ERROR") and not child.is_missing]


def _find_pair(node: Node | None, name: str) -> Node | None:
    if node is None or node.type != "object":
        return None
    return next((pair for pair in reversed(_members(node)) if pair.type == "pair" and _name(pair) == name), None)


def _name(pair: Node) -> str:
    key = pair.child_by_field_name("key")
    return str(json.loads((key.text if key else None) or b'""', strict=False))


def _insert(text: bytes, container: Node, value: object, name: str | None = None) -> bytes:
    """Return a text with one more member at the end of an object or array."""
    newline = _newline(text)
    inner, outer = _member_indent(text, container), _indent_of(text, container)
    member = (json.dumps(name, ensure_ascii=False).encode() + b": " if name is not None else b"") + _dump(
        text, value, inner
    )
    tokens = [child for child in container.children if child.type not in _CLOSERS and not child.is_missing]
    last = tokens[-1]
    if not _members(container):
        after = newline + outer if len(tokens) == 1 else b""
        return _splice(text, _end(last), _end(last), newline + inner + member + after)
    closing = [token for token in tokens if token.type != "comment"][-1]
    if closing.text == b",":  # a comma after the last member is the custom here
        return _splice(text, _end(last), _end(last), newline + inner + member + b",")
    text = _splice(text, _end(last), _end(last), newline + inner + member)
    return _splice(text, closing.end_byte, closing.end_byte, b",")


def _take_out(text: bytes, container: Node, member: Node) -> bytes:
    """Undo ``_insert``; a member in the middle takes the comma after it along."""
    tokens = [child for child in container.children if not child.is_missing]
    place = next(number for number, token in enumerate(tokens) if token.start_byte == member.start_byte)
    start, end = _end(tokens[place - 1]), member.end_byte
    if tokens[place + 1].text == b",":
        return _splice(text, start, tokens[place + 1].end_byte, b"")
    comma = next((token for token in reversed(tokens[:place]) if token.type != "comment"), tokens[0])
    if comma.text == b",":
        return _splice(_splice(text, start, end, b""), comma.start_byte, comma.end_byte, b"")
    if place == 1 and len(tokens) == 3:  # the only one: with it goes the line break that came after it
        gap = _newline(text) + _indent_of(text, container)
        end += len(gap) if text[end:].startswith(gap) else 0
    return _splice(text, start, end, b"")


def _end(token: Node) -> int:
    """Return where a token ends; the first half of a line's end is no part of a comment."""
    return token.end_byte - (token.type == "comment" and (token.text or b"").endswith(b"\r"))


def _splice(text: bytes, start: int, end: int, new: bytes) -> bytes:
    return text[:start] + new + text[end:]


def _newline(text: bytes) -> bytes:
    return b"\r\n" if b"\r\n" in text else b"\n"


def _indent_of(text: bytes, node: Node) -> bytes:
    """Return the white space at the beginning of the line in which a node begins."""
    start = text.rfind(b"\n", 0, node.start_byte) + 1
    found = re.match(rb"[ \t]*", text[start : node.start_byte])
    return found[0] if found else b""


def _member_indent(text: bytes, container: Node) -> bytes:
    members = _members(container)
    if members and b"\n" in text[container.start_byte : members[0].start_byte]:
        return _indent_of(text, members[0])
    return _indent_of(text, container) + _unit(text)


def _unit(text: bytes) -> bytes:
    """Return what a text indents one level by."""
    found = re.search(rb"\{[ \t]*\r?\n([ \t]+)[\"/]", text)
    return found[1] if found else b"  "


def _dump(text: bytes, value: object, indent: bytes) -> bytes:
    lines = json.dumps(value, ensure_ascii=False, indent=_unit(text).decode()).encode().split(b"\n")
    return (_newline(text) + indent).join(lines)

"""Other people's settings: what is put in and taken out again leaves every byte as it was."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_memory.agents import jsonc, toml
from agent_memory.errors import InvalidInputError

ITEM = {"hooks": [{"type": "command", "command": "'/a b/$x\\y\"z' hook Stop", "timeout": 10}]}

# --- JSON as people write it: any order, comments, trailing commas, tabs, CRLF, one line or many ----------------------

NAMES = st.sampled_from(["hooks", "Stop", "mcpServers", "a", "ü", 'q"q', "$x"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from(["", "x // y", "{[", "a\\b", "é"]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
SPACES = st.sampled_from(["", " ", "\n", "\n  ", "\n\t", "\n\n    ", " /* c */ ", " // c, {\n"])


@st.composite
def texts(draw, value):
    """A way to write a value."""

    def write(value):
        space = lambda: draw(SPACES)  # noqa: E731
        if not isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=draw(st.booleans()))
        pairs = isinstance(value, dict)
        parts = [f"{json.dumps(name)}{space()}:{space()}{write(value[name])}" for name in value] if pairs else []
        parts = parts or [write(one) for one in value]
        comma = "," if parts and draw(st.booleans()) else ""
        inside = ",".join(f"{space()}{part}{space()}" for part in parts) + comma + space()
        return ("{%s}" if pairs else "[%s]") % inside

    return draw(SPACES) + write(value) + draw(SPACES)


@st.composite
def files(draw):
    value = draw(st.dictionaries(NAMES, VALUES, max_size=4))
    for name, kind in (("hooks", dict), ("mcpServers", dict)):
        if name in value and not isinstance(value[name], kind):
            del value[name]
    if isinstance(value.get("hooks", {}).get("Stop", []), list) is False:
        del value["hooks"]["Stop"]
    text = draw(texts(value))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return value, (mark + text).replace("\n", newline).encode()


@settings(max_examples=400, deadline=None)
@given(files())
def test_json_is_understood_however_it_is_written(file):
    value, text = file
    assert jsonc.read(jsonc.parse(text)) == value


@settings(max_examples=400, deadline=None)
@given(files())
def test_a_member_and_an_item_go_in_and_out_without_a_trace(file):
    value, text = file
    made = [path for path in [("hooks",), ("hooks", "Stop"), ("mcpServers",)] if jsonc.find(text, path) is None]
    added = jsonc.append(text, ("hooks", "Stop"), ITEM)
    added = jsonc.put(added, ("mcpServers", "agent-memory"), {"command": "x"})
    wanted = json.loads(json.dumps(value))
    wanted.setdefault("hooks", {}).setdefault("Stop", []).append(ITEM)
    wanted.setdefault("mcpServers", {})["agent-memory"] = {"command": "x"}
    assert jsonc.read(jsonc.parse(added)) == wanted
    rest = iter(added)
    assert all(byte in rest for byte in text), "every byte of theirs is still there, in its order"
    gone = jsonc.remove(added, ("mcpServers", "agent-memory"))
    gone = jsonc.remove_item(gone, ("hooks", "Stop"), len(wanted["hooks"]["Stop"]) - 1)
    for path in sorted(made, key=len, reverse=True):
        gone = jsonc.remove(gone, path)
    assert gone == text


@settings(max_examples=200, deadline=None)
@given(files(), st.data())
def test_what_others_put_after_ours_stays_when_ours_goes(file, data):
    value, text = file
    added = jsonc.append(text, ("hooks", "Stop"), ITEM)
    added = jsonc.append(added, ("hooks", "Stop"), {"theirs": 1})
    added = jsonc.put(added, ("later",), {"x": [1]})
    place = len(value.get("hooks", {}).get("Stop", []))
    gone = jsonc.read(jsonc.parse(jsonc.remove_item(added, ("hooks", "Stop"), place)))
    assert gone["hooks"]["Stop"] == [*value.get("hooks", {}).get("Stop", []), {"theirs": 1}]
    assert gone["later"] == {"x": [1]}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": }',
        b'{"a" 1}',
        b"{a: 1}",
        b'{"a": 1} x',
        b'{"a": 1 "b": 2}',
        b"{,}",
        b'{"a": [,]}',
        b"\xff{}",
    ],
)
def test_what_is_no_json_is_refused(text):
    with pytest.raises(InvalidInputError):
        jsonc.parse(text)


def test_the_line_of_a_mistake_is_named():
    with pytest.raises(InvalidInputError, match="line 3"):
        jsonc.parse(b'{\n  "a": 1,\n  "b" 2\n}')


def test_new_lines_look_like_the_ones_around_them():
    text = b'{\r\n\t"hooks": {\r\n\t\t"Stop": [\r\n\t\t\t{"a": 1}\r\n\t\t]\r\n\t}\r\n}\r\n'
    added = jsonc.append(text, ("hooks", "Stop"), {"b": 2})
    assert added == text.replace(b'{"a": 1}', b'{"a": 1},\r\n\t\t\t{\r\n\t\t\t\t"b": 2\r\n\t\t\t}')


# --- TOML -------------------------------------------------------------------------------------------------------------

VALUES_OF_OURS = {"command": "/a b/$x\\y\"z'", "args": ["mcp", "--project", ".", "é\\n"]}
PATH = ("mcp_servers", "agent-memory")
PIECES = st.lists(
    st.sampled_from(
        ["# a comment", "", "[mcp_servers.other]\ncommand = 'x' # why", "[features]\nhooks = true", "[[list]]\na = 1"]
    ),
    max_size=5,
    unique=True,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["", "model = 'x'", "mcp_servers.other2.command = 'y'", "# only a comment"]),
    PIECES,
    st.sampled_from(["", "\n", "\n\n"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_table_goes_in_and_out_without_a_trace(head, pieces, end, newline):
    text = ("\n".join([head, *pieces]) + end).replace("\n", newline).encode()
    added = toml.put_table(text, PATH, VALUES_OF_OURS)
    assert toml.read(added)["mcp_servers"]["agent-memory"] == VALUES_OF_OURS
    assert added.startswith(text)
    assert toml.remove_table(added, PATH, VALUES_OF_OURS) == text


@pytest.mark.parametrize(
    "text",
    [
        b"mcp_servers = {}\n",
        b"mcp_servers = { other = { command = 'x' } } # kept\na = 1\n",
        b"\xef\xbb\xbfmcp_servers = {}\n",
    ],
)
def test_a_table_in_one_line_is_opened(text):
    added = toml.put_table(text, PATH, VALUES_OF_OURS)
    assert toml.read(added)["mcp_servers"]["agent-memory"] == VALUES_OF_OURS
    gone = toml.remove_table(added, PATH, VALUES_OF_OURS)
    assert toml.read(gone) == toml.read(text)
    assert gone[:3] == text[:3] or b"\xef" not in text
    assert b"# kept" in gone or b"# kept" not in text


def test_a_table_that_somebody_has_changed_goes_with_its_lines_alone():
    added = toml.put_table(b"a = 1\n", PATH, VALUES_OF_OURS).replace(b"command =", b"env = {}\ncommand =")
    added += b"\n# theirs\n[next]\nb = 2\n"
    gone = toml.remove_table(added, PATH, VALUES_OF_OURS)
    assert b"agent-memory" not in gone
    assert b"\n# theirs\n[next]\nb = 2\n" in gone


def test_what_is_no_toml_is_refused():
    with pytest.raises(InvalidInputError, match="line 1"):
        toml.put_table(b"a = \n", PATH, VALUES_OF_OURS)
    with pytest.raises(InvalidInputError, match="must be a table"):
        toml.put_table(b"mcp_servers = 3\n", PATH, VALUES_OF_OURS)


@pytest.mark.parametrize("base", [b"", b"[features]\nhooks = true\n", b"[mcp_servers.other]\ncommand = 'x'\n"])
@pytest.mark.parametrize(
    ("former", "edited"),
    [
        (b"[mcp_servers.agent-memory]\n", b"[mcp_servers.agent-memory]\n# slow machine\nstartup_timeout_sec = 20\n"),
        (b"[mcp_servers.agent-memory]\n", b"[mcp_servers.agent-memory]\n\n"),
        (b'args = ["mcp", "."]\n', b'args = ["mcp", "."]\nstartup_timeout_sec = 20\n'),
        (b'args = ["mcp", "."]\n', b'args = [\n  "mcp",\n  ".",\n]\n'),
    ],
)
def test_keys_of_our_table_never_become_those_of_the_table_above(base, former, edited):
    path, values = ("mcp_servers", "agent-memory"), {"command": "agent-memory", "args": ["mcp", "."]}
    changed = toml.put_table(base, path, values).replace(former, edited)
    assert toml.read(changed)["mcp_servers"]["agent-memory"]["command"] == "agent-memory"
    assert toml.read(toml.remove_table(changed, path, values)) == toml.read(base)
    tail = changed + b"\n[tail]\nx = 1\n"
    assert toml.read(toml.remove_table(tail, path, values)) == {**toml.read(base), "tail": {"x": 1}}

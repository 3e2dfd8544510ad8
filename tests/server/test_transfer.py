"""Imports over HTTP, held against those of Python; copies of the store; and what goes through periods and zones."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
from support import WordEncoder

from agent_memory import AgentMemoryError, Config, Memory
from agent_memory.records import Copy
from agent_memory.reports import Imported

DATA = Path(__file__).parents[1] / "data"
TALK = [{"role": "user", "content": "Where is Ann?"}, {"role": "assistant", "content": "In Rome."}]
SEGMENTS = {"id": "c1", "segments": [{"idx": 0, "text": "tea"}, {"idx": 1, "text": "rain", "time": "05/08/2023"}]}


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def unpack(folder: Path, name: str, target: str) -> Path:
    (folder / target).write_bytes(gzip.decompress((DATA / name).read_bytes()))
    return folder / target


def messages(folder):
    return write(folder / "my trip.json", TALK), {}


def packed(folder):
    path = folder / "my trip.json.gz"
    path.write_bytes(gzip.compress(json.dumps(TALK).encode()))
    return path, {"format": "messages"}


def folder_of_talks(folder):
    write(folder / "all" / "monday.json", TALK)
    write(folder / "all" / "deep" / "tuesday.json", TALK)
    return folder / "all", {"format": "messages"}


def folder_without_format(folder):
    return folder_of_talks(folder)[0], {}


def chroma(folder):
    unpack(folder, "chroma-1.5.9.sqlite3.gz", "chroma.sqlite3")
    return folder, {"source": "chroma"}


def mem0(folder):
    return unpack(folder, "mem0-2.2.1-history.db.gz", "history.db"), {}


def odd_times(folder):
    return write(folder / "odd.json", SEGMENTS), {}


def odd_times_taken(folder):
    return write(folder / "odd.json", SEGMENTS), {"assume_now": True}


def branches(folder):
    return messages(folder)[0], {"all_branches": True, "format": "messages"}


def counted_only(folder):
    return messages(folder)[0], {"dry_run": True}


def of_another_format(folder):
    return messages(folder)[0], {"format": "mem0"}


def of_no_format(folder):
    return messages(folder)[0], {"format": "word"}


def of_two_formats(folder):
    return messages(folder)[0], {"format": "messages", "source": "chroma"}


def missing(folder):
    return folder / "none.json", {}


def not_json(folder):
    (folder / "x.json").write_text('{"a": ')
    return folder / "x.json", {}


def a_flag_that_is_none(folder):
    return messages(folder)[0], {"dry_run": "no"}


CASES = [
    messages,
    packed,
    folder_of_talks,
    folder_without_format,
    chroma,
    mem0,
    odd_times,
    odd_times_taken,
    branches,
    counted_only,
    of_another_format,
    of_no_format,
    of_two_formats,
    missing,
    not_json,
    a_flag_that_is_none,
]


def outcome(memory, path, options):
    try:
        found = memory.import_(path, **options)
    except AgentMemoryError as error:
        return type(error), str(error)
    assert isinstance(found, Imported)
    return found.as_dict(), [(one.key, one.text, one.session, one.namespace) for one in memory.entries()]


def test_an_import_over_http_does_what_one_in_python_does(serve, tmp_path):
    served = serve()
    for case in CASES:
        folder = tmp_path / case.__name__
        folder.mkdir()
        path, options = case(folder)
        scope = (case.__name__,)
        with Memory(folder / "local", encoder=WordEncoder(), namespace=scope) as local:
            for _ in range(2):  # a second one finds all of it there
                expected = outcome(local, path, options)
                assert outcome(served.remote(namespace=scope), path, options) == expected, case.__name__


def test_the_whole_result_is_answered_and_a_dry_run_is_not_recorded(served):
    content = json.dumps(TALK).encode()
    given = {"content": content, "headers": {"content-type": "application/octet-stream"}}
    counted = served.client.post("/v1/import", params={"dry_run": True, "name": "a trip.json"}, **given).json()
    assert counted.keys() == {"written", *Imported.__annotations__}
    assert (counted["new"], counted["dry_run"], counted["formats"]) == (2, True, ["messages"])
    assert (served.memory.entries(), served.client.get("/v1/audit").json()["items"]) == ([], [])
    done = served.client.post("/v1/import", params={"name": "a trip.json"}, **given).json()
    assert (done["written"], done["new"], done["dry_run"]) == (2, 2, False)
    assert all(entry.session.startswith("a trip") for entry in served.memory.entries())
    again = served.client.post("/v1/import", params={"name": "a trip.json"}, **given).json()
    assert (again["written"], again["unchanged"]) == (0, 2)
    assert [one["count"] for one in served.client.get("/v1/audit").json()["items"]] == [0, 2]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", ".", "a/b", "a\nb", "é" * 200])
def test_an_upload_cannot_be_called_what_is_no_name(served, name):
    answer = served.client.post("/v1/import", params={"name": name}, content=b"[]")
    assert answer.status_code == 422, answer.text


def test_a_quota_counts_what_is_new(serve):
    served = serve()
    client = served.as_key("acme", role="writer", max_entries=3)
    for expected in (2, 0):  # what is there already needs no room
        answer = client.post("/v1/import", params={"name": "one"}, content=json.dumps(TALK).encode())
        assert (answer.status_code, answer.json()["new"]) == (200, expected)
    answer = client.post("/v1/import", params={"name": "two"}, content=json.dumps(TALK).encode())
    assert (answer.status_code, answer.json()["left"]) == (507, 1)
    counted = client.post("/v1/import", params={"name": "two", "dry_run": True}, content=json.dumps(TALK).encode())
    assert counted.json()["new"] == 2


def test_copies_are_the_operators_to_see(served, tmp_path):
    served.memory.add("tea", key="a")
    served.memory.backup(tmp_path / "copy.db")
    served.memory.export(tmp_path / "copy.jsonl")
    served.memory.forget("a")
    found = served.remote().copies()
    assert found == served.memory.copies()
    assert [(type(one), one.kind, one.holds) for one in found] == [(Copy, "backup", 1), (Copy, "export", None)]
    clients = [served.as_key("acme", role="admin"), served.as_key(role="writer"), served.as_key(role="reader")]
    for client in clients:
        answer = client.get("/v1/copies")
        assert answer.status_code == 403
        assert "copy.db" not in answer.text
    assert served.as_key(role="admin").get("/v1/copies").status_code == 200


BERLIN = ZoneInfo("Europe/Berlin")
LATE = datetime(2024, 5, 1, 23, 30, tzinfo=UTC)  # already the second of May in Berlin
NOWS = [None, LATE, LATE.astimezone(BERLIN), LATE.astimezone(timezone(timedelta(hours=-7)))]
ZONES = [None, "Europe/Berlin", "-07:00", BERLIN, UTC, timezone(timedelta(hours=5, minutes=45)), "Mars/Olympus", 5]
PERIODS = [
    {"since": "2024-05-01", "until": "2024-05-01"},
    {"since": date(2024, 5, 1), "until": date(2024, 5, 1)},
    {"until": "2024"},
    {"since": "2024-W18", "until": "2024-05"},
    {"since": datetime(2024, 5, 1, 22)},
    {"as_of": date(2999, 1, 1)},
    {"since": "2024-13"},
]


def fill(memory):
    for hour in range(-6, 36, 3):
        moment = datetime(2024, 5, 1, tzinfo=UTC) + timedelta(hours=hour)
        memory.add(f"tea at {hour}", key=str(hour), event_time=moment)
    memory.add("tea on a day", key="day", event_time=date(2024, 5, 1))
    memory.add("tea in a month", key="month", event_time="2024-05", expires_at=date(2099, 12, 31))


@pytest.mark.parametrize("home", ["UTC", "Asia/Tokyo"])
def test_days_begin_where_they_do_in_python(serve, tmp_path, home):
    config = Config(timezone=home)
    served = serve(config=config)
    remote = served.remote()
    assert remote.config.timezone == home

    def ask(memory, name, *arguments, **options):
        try:
            found = getattr(memory, name)(*arguments, **options)
        except AgentMemoryError as error:
            return type(error), str(error)
        hits = found[0] if name == "recall_many" else found
        return [one.entry.key for one in hits] if name != "why" else (found.stage, found.reason, found.rank)

    with Memory(tmp_path / "local", encoder=WordEncoder(), config=config) as local:
        fill(local)
        fill(remote)
        times = [(one.key, one.event_time, one.expires_at) for one in local.entries()]
        assert [(one.key, one.event_time, one.expires_at) for one in remote.entries()] == times
        calls = [("recall", ("tea yesterday",)), ("recall_many", (["tea today"],)), ("why", ("tea today", "21"))]
        cases = [{"now": now, "timezone": zone} for now in NOWS for zone in ZONES]
        cases += [period | {"timezone": zone} for period in PERIODS for zone in ZONES]
        for number, options in enumerate(cases):
            name, arguments = calls[number % 3] if "now" in options else calls[0]
            expected = (
                ask(local, name, *arguments, k=50, **options)
                if name != "why"
                else ask(local, name, *arguments, **options)
            )
            found = (
                ask(remote, name, *arguments, k=50, **options)
                if name != "why"
                else ask(remote, name, *arguments, **options)
            )
            assert found == expected, (name, options)
        for period in PERIODS:
            if "as_of" not in period:
                expected = outcome_of_entries(local, period)
                assert outcome_of_entries(remote, period) == expected, period


def outcome_of_entries(memory, period):
    try:
        return [one.key for one in memory.entries(**period)]
    except AgentMemoryError as error:
        return type(error), str(error)


def test_the_description_shows_the_options_of_recall_with_zones_and_periods(served):
    parts = served.client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("Search", "Why"):
        shown = parts[name]["properties"]
        assert "Europe/Berlin" in shown["timezone"]["anyOf"][0]["examples"]
        assert "2024-W18" in shown["since"]["anyOf"][0]["examples"]


def test_rules_of_retention_are_told_to_those_alone_who_see_all(serve):
    served = serve(config={"retention": {"acme": {"max_age": timedelta(days=3)}, "other": {"max_entries": 5}}})
    assert served.remote().config == served.memory.config
    key = served.key("acme", role="admin")
    assert served.remote(key=key).config.retention == {}
    assert "other" not in served.as_key("acme").get("/v1/me").text


def test_a_key_works_to_the_end_of_the_day_it_names(served):
    today = datetime.now(UTC).date() + timedelta(days=1)
    made = served.as_key(role="admin").post("/v1/keys", json={"role": "reader", "expires_at": today.isoformat()}).json()
    assert made["key"]["expires_at"] == f"{today + timedelta(days=1)}T00:00:00+00:00"


def test_each_kind_of_write_is_in_the_audit_log_by_its_key_and_without_content(serve):
    served = serve()
    ours = served.as_key(role="admin", name="ours")

    def send(method: str, path: str, **options) -> httpx.Response:
        answer = ours.request(method, path, **options)
        assert answer.is_success, answer.text
        return answer

    send("POST", "/v1/memories", json={"text": "Ada keeps bees", "key": "bees"})
    send("POST", "/v1/memories", json={"items": ["Ada sold the hives", {"text": "Bob rows", "key": "rows"}]})
    send("PATCH", "/v1/memories/bees", json={"text": "Ada kept bees"})
    send("POST", "/v1/memories/bees/supersede", json={"by": "rows"})
    exported = send("GET", "/v1/export").content
    send("DELETE", "/v1/memories/bees")
    send("POST", "/v1/memories/forget", json={"key": "rows"})
    send("POST", "/v1/import", content=exported)
    send("POST", "/v1/reindex", json={"tiers": [32, 96]})
    send("POST", "/v1/rollback", json={})
    send("POST", "/v1/purge", json={})
    refused = ours.post("/v1/memories/none/supersede", json={"by": "rows"})
    log = send("GET", "/v1/audit").json()["items"][::-1]
    assert [(one["action"], one["status"]) for one in log] == [
        *[("add", 201), ("add", 201), ("update", 200), ("supersede", 200), ("forget", 200), ("forget", 200)],
        *[("import", 200), ("reindex", 200), ("rollback", 200), ("purge", 200), ("supersede", refused.status_code)],
    ]
    assert {one["key_id"] for one in log} == {send("GET", "/v1/keys").json()["items"][0]["id"]}
    assert not any(word in json.dumps(log) for word in ("Ada", "bees", "rows", "hives"))

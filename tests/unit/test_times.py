"""Times as callers write them: one parser, periods where periods are named, clear errors for everything else."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from agent_memory import Config, InvalidInputError, NewEntry
from agent_memory.times import parse_period, parse_zone

BERLIN = ZoneInfo("Europe/Berlin")
LA = ZoneInfo("America/Los_Angeles")


def bounds(value, zone=UTC):
    period = parse_period("since", value, zone)
    return [f"{moment:%Y-%m-%dT%H:%M:%S.%f}".removesuffix(".000000") for moment in (period.start, period.end)]


@pytest.mark.parametrize(
    ("written", "start", "end"),
    [
        ("2024", "2024-01-01", "2025-01-01"),
        ("2024-02", "2024-02-01", "2024-03-01"),
        ("2023-12", "2023-12-01", "2024-01-01"),
        ("2024-05-01", "2024-05-01", "2024-05-02"),
        ("20240501", "2024-05-01", "2024-05-02"),
        ("2024-W18", "2024-04-29", "2024-05-06"),
        ("2024W18", "2024-04-29", "2024-05-06"),
        ("2024-W18-3", "2024-05-01", "2024-05-02"),
        ("2024W183", "2024-05-01", "2024-05-02"),
        ("2020-W53-7", "2021-01-03", "2021-01-04"),
        ("2024-123", "2024-05-02", "2024-05-03"),
        ("2024366", "2024-12-31", "2025-01-01"),
        (date(2024, 5, 1), "2024-05-01", "2024-05-02"),
    ],
)
def test_a_date_of_any_precision_is_a_period(written, start, end):
    assert bounds(written) == [f"{start}T00:00:00", f"{end}T00:00:00"]


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2024-05-01T10", "2024-05-01T10:00:00"),
        ("2024-05-01T10:30", "2024-05-01T10:30:00"),
        ("2024-05-01 10:30:15", "2024-05-01T10:30:15"),
        ("20240501T103015Z", "2024-05-01T10:30:15"),
        ("2024-05-01T10:30:15.5Z", "2024-05-01T10:30:15.500000"),
        ("2024-05-01T10:30:15,123456789z", "2024-05-01T10:30:15.123456"),
        ("2024-05-01T10.5", "2024-05-01T10:30:00"),
        ("2024-05-01T10:30+02:00", "2024-05-01T08:30:00"),
        ("2024-05-01T10:30\u22120530", "2024-05-01T16:00:00"),
        ("2024-05-01T10:30 UTC", "2024-05-01T10:30:00"),
        ("2024-W18-3T10:30", "2024-05-01T10:30:00"),
        ("2024-122T10:30", "2024-05-01T10:30:00"),
        ("2024-05-01T24:00", "2024-05-02T00:00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00"),
        (datetime(2024, 5, 1, 10, 30), "2024-05-01T10:30:00"),
        (datetime(2024, 5, 1, 10, 30, tzinfo=timezone(timedelta(hours=2))), "2024-05-01T08:30:00"),
    ],
)
def test_a_time_of_day_is_a_moment(written, moment):
    assert bounds(written) == [moment, moment]


def test_days_and_longer_begin_at_the_midnight_of_the_zone():
    assert bounds("2024", BERLIN) == ["2023-12-31T23:00:00", "2024-12-31T23:00:00"]
    assert bounds(date(2024, 3, 31), BERLIN) == ["2024-03-30T23:00:00", "2024-03-31T22:00:00"], "it has 23 hours"
    assert bounds("2024-10-27", BERLIN) == ["2024-10-26T22:00:00", "2024-10-27T23:00:00"], "it has 25 hours"
    assert bounds("2024-03-31T02:30", BERLIN)[0] == "2024-03-31T01:30:00", "the clocks skipped it"
    assert bounds("2024-05-01T10:00Z", BERLIN)[0] == "2024-05-01T10:00:00", "it names a zone itself"
    assert bounds("2018-11-04", ZoneInfo("America/Sao_Paulo"))[0] == "2018-11-04T03:00:00", "there was no midnight"


@pytest.mark.parametrize(
    "bad",
    [
        *(
            "12",
            "-5",
            "0",
            "1e9",
            "5",
            "202405",
            "1683554160",
            "1683554160000",
            "0000",
            "00000000",
            "2024-13",
            "2024-02-30",
        ),
        *(
            "2024-02-30",
            "",
            " ",
            "now",
            "yesterday",
            "garbage",
            "2024-W54",
            "2024-W18-8",
            "2024-000",
            "2023-366",
            "2024-05-01T10:60",
        ),
        *("2024-5-1", "05/08/2023", "2024/05/01", "2024-05-01T", "2024-05-01T25:00", "2024-05T10:00", "--05-01"),
        *("2024-05-01T10:00+25:00", "2024-05-01T10:00 CET", " 2024-05-01", "2024-05-01\n", "２０２４", "P3D"),
        *("2024-05-01/2024-05-02", "+02024-05-01", "24-05-01", "2024-05-01T10:00:00Z[UTC]", "\u0662\u0660\u0662\u0664"),
        *(12, 1683554160, 1.5, True, b"2024", [2024], datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))),
    ],
    ids=repr,
)
def test_everything_else_is_an_error_that_shows_the_value(bad, memory):
    with pytest.raises(InvalidInputError, match="since") as raised:
        parse_period("since", bad)
    if isinstance(bad, str):
        assert repr(bad) in str(raised.value)
    for call in (
        lambda: memory.add("tea", event_time=bad),
        lambda: memory.add("tea", expires_at=bad),
        lambda: memory.recall("tea", since=bad),
        lambda: memory.recall("tea", until=bad),
        lambda: memory.recall("tea", as_of=bad),
        lambda: memory.recall("tea", now=bad),
        lambda: memory.entries(since=bad),
    ):
        with pytest.raises(InvalidInputError):
            call()
    assert memory.stats().entries == 0


@pytest.mark.parametrize(
    "bad", ["Mars/Base", "", "../../etc/passwd", "Europe", "+25:00", "+02:75", "local\0", 3, object()]
)
def test_an_unknown_zone_is_an_error(bad, memory):
    with pytest.raises(InvalidInputError):
        parse_zone("timezone", bad)
    with pytest.raises(InvalidInputError, match="timezone"):
        memory.recall("tea", timezone=bad)
    with pytest.raises(ValueError, match="timezone"):
        Config(timezone=bad)


def test_since_begins_with_a_period_and_until_ends_with_it(memory):
    memory.add("Went to the dentist", key="old", event_time="2021-01-01")
    memory.add("Went to the doctor", key="new", event_time="2024-06-01T15:00:00Z")

    def found(**options):
        recalled = {hit.entry.key for hit in memory.recall("went to", **options)}
        assert recalled == {entry.key for entry in memory.entries(**options)}
        return recalled

    assert found(since="2024") == found(since="20240101") == found(since="2024-W22") == {"new"}
    assert found(until="2024") == {"old", "new"}
    assert found(until="2024-06-01") == found(until="2024-153") == found(until=date(2024, 6, 1)) == {"old", "new"}
    assert found(since="2024-06-01", until="2024-06-01") == found(since="2024-06", until="2024-06") == {"new"}
    assert found(until="2024-06-01T14:59:59Z") == found(until="2024-05") == {"old"}


def test_the_beginning_of_a_period_is_stored_as_event_time(open_memory):
    memory = open_memory(config={"timezone": "America/Los_Angeles"})
    assert memory.add("a", event_time="2024-05").event_time == datetime(2024, 5, 1, tzinfo=LA)
    assert memory.add("b", event_time=date(2024, 5, 1)).event_time == datetime(2024, 5, 1, tzinfo=LA)
    assert memory.add("c", event_time="2024-05-01T10:00").event_time == datetime(2024, 5, 1, 10, tzinfo=LA)
    assert memory.add_many([NewEntry(text="d", event_time="2024")])[0].event_time == datetime(2024, 1, 1, tzinfo=LA)


def test_as_of_a_day_is_its_end(memory):
    memory.add("first", key="k")
    memory.update("k", text="second")
    today = datetime.now(UTC).date()
    assert [hit.text for hit in memory.recall("second", as_of=today + timedelta(days=1))] == ["second"]
    assert memory.recall("second", as_of=today - timedelta(days=2)) == []


def test_an_expiry_that_has_passed_is_refused(memory):
    for past in ("2020-01-01", "2020", date(2020, 1, 1), datetime.now(UTC) - timedelta(seconds=1)):
        with pytest.raises(InvalidInputError, match="expires_at .* has passed; it is"):
            memory.add("tea", expires_at=past)
        with pytest.raises(InvalidInputError, match="item 1: expires_at"):
            memory.add_many(["good", {"text": "tea", "expires_at": past}])
    memory.add("tea", key="k")
    with pytest.raises(InvalidInputError, match="has passed"):
        memory.update("k", expires_at="2020-01-01")
    assert memory.get("k").expires_at is None and memory.stats().entries == 1


def test_a_day_is_the_last_on_which_an_entry_is_returned(memory):
    assert memory.add("tea", expires_at="2999-05-01").expires_at == datetime(2999, 5, 2, tzinfo=UTC)
    assert memory.add("tea", expires_at="2999-05-01T00:00Z").expires_at == datetime(2999, 5, 1, tzinfo=UTC)
    today = datetime.now(UTC).date()
    assert memory.add("tea", expires_at=today).expires_at > datetime.now(UTC)


def test_imported_times_are_read_by_the_same_rules(open_memory, tmp_path):
    memory = open_memory(config={"timezone": "Europe/Berlin"})
    times = ["2023-05", "2024-W18-3", "May-08-2023", "2023/05/08 (Mon) 13:56", "1:56 pm on 8 May, 2023", None]
    segments = [{"idx": n, "text": f"tea {n}", "time": time} for n, time in enumerate(times)]
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"id": "c", "segments": segments}))
    assert memory.import_(file) == 6
    assert [memory.get(f"c:{n}").event_time.astimezone(BERLIN).isoformat()[:16] for n in range(5)] == [
        "2023-05-01T00:00",
        "2024-05-01T00:00",
        "2023-05-08T00:00",
        "2023-05-08T13:56",
        "2023-05-08T13:56",
    ]
    for bad in ("soon", 12, "12"):
        file.write_text(json.dumps({"id": "d", "segments": [{"text": "x", "time": bad}]}))
        with pytest.raises(InvalidInputError, match="line 1: event_time"):
            memory.import_(file)
    assert memory.stats().entries == 6


def test_what_expired_since_an_export_is_left_out(open_memory, tmp_path):
    file = tmp_path / "export.jsonl"
    entries = [{"key": "old", "text": "x", "expires_at": "2020-01-01T00:00:00+00:00"}, {"key": "new", "text": "y"}]
    lines = [{"agent_memory_export": 1}, *entries]
    file.write_text("\n".join(map(json.dumps, lines)))
    memory = open_memory()
    assert memory.import_(file) == 1 and [entry.key for entry in memory.entries()] == ["new"]

"""Expressions of time, as people write them in nine languages."""

import random
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent_memory import Config
from agent_memory.recall.ranking import MENTION_BONUS, RELATIVE_TIME_BONUS, TIME_BONUS
from agent_memory.timewords import intervals

NOW = datetime(2024, 6, 12, 9, 0, tzinfo=UTC)  # a Wednesday
ROWS = [
    line.split("\t")
    for line in (Path(__file__).parents[1] / "data" / "expressions.tsv").read_text("utf-8").splitlines()
]
TOKYO, BERLIN, LA = (ZoneInfo(name) for name in ("Asia/Tokyo", "Europe/Berlin", "America/Los_Angeles"))


def write(moment):
    if not 2 < moment.year < 9999:
        return ".."
    return f"{moment:%Y-%m-%d}" if (moment.hour, moment.minute) == (0, 0) else f"{moment:%Y-%m-%dT%H:%M}"


def spans(text, now=NOW, **options):
    found = intervals(text, now, **options)
    zone = now.tzinfo
    return " ".join(
        f"{write(one.start if one.start.year < 3 else one.start.astimezone(zone))}/"
        f"{write(one.end if one.end.year == 9999 else one.end.astimezone(zone))}"
        for one in found
    )


@pytest.mark.parametrize(("language", "text", "expected"), ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS])
def test_an_expression_means(language, text, expected):
    assert spans(text) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What did Ann say about the flat last week, and who was there?", "2024-06-03/2024-06-10"),
        ("Which restaurants have I been to since May 2023?", "2023-05-01/.."),
        ("Was habe ich letzten Freitag mit Anna gegessen?", "2024-06-07/2024-06-08"),
        ("Qu'est-ce que j'ai acheté il y a deux semaines ?", "2024-05-27/2024-06-03"),
        ("¿Qué hice el 5 de mayo de 2023 en Madrid?", "2023-05-05/2023-05-06"),
        ("O que eu fiz ontem à noite?", "2024-06-11T18:00/2024-06-12T06:00"),
        ("Dove sono andato l'estate scorsa?", "2023-06-01/2023-09-01"),
        ("Wat heb ik gisteren gegeten?", "2024-06-11/2024-06-12"),
        ("先週の金曜日に誰と会いましたか？", "2024-06-07/2024-06-08"),
        ("我昨天晚上和谁吃饭？", "2024-06-11T18:00/2024-06-12T06:00"),
        ("Where was I between 3 March 2022 and 5 April 2022?", "2022-03-03/2022-04-06"),
        ("Will I be in Rome on 10 May?", "2025-05-10/2025-05-11"),
    ],
)
def test_a_question_means(question, expected):
    assert spans(question) == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "We may visit 12 museums, and 3 marvellous ones.",
        "The 2 septic tanks and 9 decimal places",
        "Wait a second, 5 secretaries sat in the sun",
        "Seven maybes and 1 janitor",
        "Mary met 31 marsupials",
        "I read Chapter 3 Mark and Chapter 4 April",
        "der Markt und die 7 Augen, 4 Dezibel",
        "Das ist hier 3 Meter",
        "sept personnes et 4 marchés",
        "ocho mares y 2 marcas",
        "dez marcas e 3 maiores",
        "sette mari e 2 maglie",
        "3 maarten",
        "3匹の犬",
        "他有三本书",
        "Is it 7/8 inch or 3/4?",
        "call 555-2024 or version 2.5.2023.1",
    ],
)
def test_no_date_is_read_into(sentence):
    assert spans(sentence) == ""


def test_days_are_those_of_the_zone_of_now():
    morning = datetime(2024, 1, 2, 8, tzinfo=TOKYO)
    assert spans("lunch yesterday", morning) == "2024-01-01/2024-01-02"
    (interval,) = intervals("lunch yesterday", morning)
    assert interval.start == datetime(2024, 1, 1, tzinfo=TOKYO) and interval.end == datetime(2024, 1, 2, tzinfo=TOKYO)
    evening = datetime(2024, 1, 1, 18, tzinfo=LA)
    assert spans("today", evening) == "2024-01-01/2024-01-02", "in UTC it is the 2nd already"
    assert spans("this month", datetime(2024, 2, 29, 23, tzinfo=LA)) == "2024-02-01/2024-03-01"
    assert (
        spans("this year", datetime(2024, 12, 31, 23, tzinfo=timezone(-timedelta(hours=11)))) == "2024-01-01/2025-01-01"
    )


def test_days_on_which_clocks_change_have_23_and_25_hours():
    for day, hours in (((2024, 3, 31), 23), ((2024, 10, 27), 25), ((2024, 6, 1), 24)):
        (interval,) = intervals("today", datetime(*day, 12, tzinfo=BERLIN))
        assert interval.end - interval.start == timedelta(hours=hours)
    (week,) = intervals("last week", datetime(2024, 4, 3, 12, tzinfo=BERLIN))
    assert week.end - week.start == timedelta(hours=7 * 24 - 1)
    (hour,) = intervals("3 hours ago", datetime(2024, 6, 1, 12, tzinfo=BERLIN))
    assert hour.start <= datetime(2024, 6, 1, 9, tzinfo=BERLIN) < hour.end


def test_the_order_of_day_and_month_is_told_by_an_option_another_date_or_the_language():
    assert spans("on 5/8/2023") == "2023-05-08/2023-05-09"
    assert spans("on 5/8/2023", date_order="day-first") == "2023-08-05/2023-08-06"
    assert spans("am 5/8/2023 war ich da") == "2023-08-05/2023-08-06"
    assert spans("am 5/8/2023 war ich da", date_order="month-first") == "2023-05-08/2023-05-09"
    assert spans("from 5/8/2023 to 25/8/2023") == "2023-08-05/2023-08-26"
    assert spans("13/8/2023") == "2023-08-13/2023-08-14" and spans("8/13/2023") == "2023-08-13/2023-08-14"
    assert spans("5.8.2023") == "2023-08-05/2023-08-06", "with points the day is always first"
    assert Config(date_order="day-first").date_order == "day-first"


def test_a_date_without_a_year_lies_where_the_tense_says():
    assert spans("What did I do in October?") == "2023-10-01/2023-11-01"
    assert spans("What will I do in October?") == "2024-10-01/2024-11-01"
    assert spans("What did I do on Friday?") == "2024-06-07/2024-06-08"
    assert spans("What is due on Friday?") == "2024-06-14/2024-06-15"
    assert spans("on 29 February") == "2024-02-29/2024-03-01"


def test_a_date_at_the_end_of_time_is_none():
    assert spans("9999 years ago, in 9999 days") == ""
    assert spans("next year", datetime(9999, 6, 1, tzinfo=UTC)) == ""
    assert spans("yesterday", datetime(1, 1, 1, tzinfo=UTC)) == ""
    assert spans("31 April and 30.02.2023 and 2023-02-30") == ""


def test_lunch_yesterday_is_that_of_the_asker(open_memory):
    memory = open_memory()
    memory.add("Lunch at the ramen place.", key="right", event_time=datetime(2024, 1, 1, 12, tzinfo=TOKYO))
    memory.add("Lunch at the sushi place.", key="wrong", event_time=datetime(2023, 12, 31, 12, tzinfo=TOKYO))
    moment = datetime(2024, 1, 2, 8, tzinfo=TOKYO)

    def best(memory=memory, **options):
        hits = memory.recall("Where was lunch yesterday?", explain=True, **options)
        many = memory.recall_many(["Where was lunch yesterday?"], **options)
        assert [hit.entry.key for hit in many[0]] == [hit.entry.key for hit in hits]
        return [hit.entry.key for hit in hits if hit.trace["time"]["adds"] == RELATIVE_TIME_BONUS]

    assert best(now=moment) == ["right"]
    assert best(now=moment.astimezone(UTC), timezone="Asia/Tokyo") == ["right"]
    assert best(now=moment.astimezone(UTC), timezone=TOKYO) == ["right"]
    assert best(now=moment, timezone="+09:00") == ["right"]
    assert best(now="2024-01-02T08:00", timezone="Asia/Tokyo") == ["right"], "a time without a zone is meant in it"
    assert best(now=moment.astimezone(UTC)) == ["wrong"], "UTC is what nobody named another zone for"
    trace = memory.why("Where was lunch yesterday?", "right", now=moment.astimezone(UTC), timezone="Asia/Tokyo")
    assert trace.detail["time"]["adds"] == RELATIVE_TIME_BONUS
    memory.close()
    home = open_memory(config={"timezone": "Asia/Tokyo"})
    assert best(home, now=moment.astimezone(UTC)) == ["right"], "a time in UTC names no place"
    assert best(home, now=moment.astimezone(UTC), timezone="UTC") == ["wrong"]


def test_since_and_before_lift_what_lies_on_their_side(open_memory):
    memory = open_memory()
    for year in (2021, 2022, 2023, 2024):
        memory.add("The heating was repaired.", key=str(year), event_time=f"{year}-07-01")

    def lifted(question):
        hits = memory.recall(question, now=NOW, k=4, explain=True)
        return {hit.entry.key for hit in hits if hit.trace["time"]["adds"]}

    assert lifted("heating repaired since 2023") == {"2023", "2024"}
    assert lifted("heating repaired after 2022") == {"2023", "2024"}
    assert lifted("heating repaired before 2023") == {"2021", "2022"}
    assert lifted("heating repaired until 2022") == {"2021", "2022"}
    assert lifted("heating repaired between 2022 and 2023") == {"2022", "2023"}
    assert lifted("heating repaired in 2023") == {"2023"}


def test_words_of_time_in_any_order_and_at_any_time_make_no_error():
    chance = random.Random(0)
    words = [word for _, text, _ in ROWS for word in text.split()]
    days = [datetime(1, 1, 1), datetime(2024, 2, 29, 23, 59), datetime(2024, 3, 31, 2, 30), datetime(9999, 12, 31, 23)]
    for _ in range(300):
        text = " ".join(chance.choices(words, k=chance.randint(1, 12)))
        now = chance.choice(days).replace(tzinfo=chance.choice([UTC, TOKYO, BERLIN, LA]))
        for interval in intervals(text, now):
            assert interval.start < interval.end and interval.words in text


SAID = datetime(2024, 5, 3, 12, tzinfo=UTC)
ASKED = datetime(2024, 7, 1, 12, tzinfo=UTC)


def time_added(memory, question, key, **options):
    trace = memory.why(question, key, now=options.pop("now", ASKED), **options)
    return round(trace.detail["time"]["adds"] / MENTION_BONUS, 3)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("I'll be in Rome next Friday.", "Who is in Rome on 10 May 2024?"),
        ("We fly on 12 June 2024.", "Who flies on 2024-06-12?"),
        ("My exam is tomorrow.", "Whose exam was on 4 May 2024?"),
        ("The report was due last Monday.", "What was due on April 29?"),
        ("Nächsten Freitag bin ich in Rom.", "Wer ist am 10. Mai 2024 in Rom?"),
        ("来週の金曜日はローマにいます。", "2024年5月10日は誰がローマにいますか？"),
        ("The fair is in June.", "What is there in June 2024?"),
        ("The fair is on 12 June.", "What is there in June 2024?"),
    ],
)
def test_a_question_about_a_day_finds_what_mentions_it(open_memory, text, question):
    memory = open_memory()
    memory.add(text, key="mentions", event_time=SAID)
    memory.add("Nothing of the kind.", key="other", event_time=SAID)
    assert time_added(memory, question, "mentions") == 1
    assert time_added(memory, question, "other") == 0


def test_of_a_longer_time_the_share_counts_that_is_asked_for(open_memory):
    memory = open_memory()
    memory.add("I am away next week.", key="week", event_time=SAID)
    memory.add("I am away this year.", key="year", event_time=SAID)
    memory.add("I have lived here since 2019.", key="open", event_time=SAID)
    memory.add("I was away.", key="then", event_time=datetime(2024, 5, 8, 9, tzinfo=UTC))
    asked = "Who was away on 8 May 2024?"
    assert [time_added(memory, asked, key) for key in ("week", "year", "open", "then")] == [0.143, 0.003, 0, 5]


def test_a_day_is_that_of_the_zone_of_the_store(open_memory):
    memory = open_memory(config={"timezone": "Asia/Tokyo"})
    memory.add("Lunch tomorrow at the ramen place.", key="a", event_time=datetime(2024, 1, 1, 16, tzinfo=UTC))
    assert time_added(memory, "Where was lunch on 3 January 2024?", "a") == 1, "it was said on 2 January in Tokyo"
    assert time_added(memory, "Where was lunch on 2 January 2024?", "a") == 5, "and happened then"
    assert time_added(memory, "Where was lunch on 4 January 2024?", "a") == 0


def test_a_mentioned_time_follows_the_text_and_its_event_time(open_memory):
    memory = open_memory()
    memory.add("In Rome next Friday.", key="a", event_time=SAID)
    memory.update("a", importance=0.5)
    assert time_added(memory, "Who is in Rome on 10 May 2024?", "a") == 1
    memory.update("a", event_time=SAID - timedelta(days=7))
    assert time_added(memory, "Who is in Rome on 10 May 2024?", "a") == 0
    assert time_added(memory, "Who is in Rome on 3 May 2024?", "a") == 1
    memory.update("a", text="In Rome some day.")
    assert time_added(memory, "Who is in Rome on 3 May 2024?", "a") == 0


def test_long_texts_are_not_read_for_times_and_reading_can_be_turned_off(open_memory):
    memory = open_memory(config={"max_mention_chars": 30})
    memory.add("In Rome next Friday.", key="short", event_time=SAID)
    memory.add("In Rome next Friday." + " Well." * 3, key="long", event_time=SAID)
    asked = "Who is in Rome on 10 May 2024?"
    assert [time_added(memory, asked, key) for key in ("short", "long")] == [1, 0]
    memory.close()
    memory = open_memory(config={"max_mention_chars": 0})
    memory.add("In Rome next Friday.", key="off", event_time=SAID)
    assert time_added(memory, asked, "off") == 0


@pytest.mark.parametrize(
    ("words", "dated"),
    [
        ("in May", True),
        ("since 2019", True),
        ("on 5/8/2023", True),
        ("in the nineties", True),
        ("last year in May", True),
        ("le 5 mai", True),
        ("im Sommer 2022", True),
        ("今年の5月", True),
        ("last week", False),
        ("three days ago", False),
        ("on Friday", False),
        ("last summer", False),
        ("vor 3 Tagen", False),
        ("三个月前", False),
        ("3か月前", False),
    ],
)
def test_a_date_is_told_from_a_time_that_is_told_from_now(words, dated):
    assert [period.dated for period in intervals(words, NOW)] == [dated]


def test_a_time_told_from_now_counts_for_less_than_a_date(open_memory):
    memory = open_memory()
    memory.add("We went rowing.", key="rowing", event_time=SAID)
    relative, dated = round(RELATIVE_TIME_BONUS / MENTION_BONUS, 3), round(TIME_BONUS / MENTION_BONUS, 3)
    assert relative < dated
    assert time_added(memory, "What was two months ago?", "rowing", now=SAID + timedelta(days=61)) == relative
    assert time_added(memory, "What was on 3 May?", "rowing") == dated
    assert time_added(memory, "What was two months ago, on 3 May?", "rowing") == dated

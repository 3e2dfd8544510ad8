"""Expressions of time in invented sentences: the short cuts to them miss none."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_memory import timewords
from agent_memory.timewords.languages import SPACED, UNSPACED
from agent_memory.timewords.line import Line

NOW = datetime(2024, 6, 12, 9, 0, tzinfo=UTC)
ROWS = [
    line.split("\t")[1]
    for line in (Path(__file__).parents[1] / "data" / "expressions.tsv").read_text("utf-8").splitlines()
]
PHRASES = sorted({" ".join(phrase) for language in SPACED for phrase in language.lexicon})
SIGNS = sorted({"".join(phrase) for language in UNSPACED for phrase in language.lexicon})
NUMBERS = (
    "2023 '69 12 3rd 5/8/2023 13.4. 2024-05-08 5:30 5pm 5 pm 90s Q3 h2 18 mar5 kw18 1,200 10º 2023年 令和5年 二〇二三年"
).split()
PLAIN = (
    "Ann Ann's o'clock e-mail said the cat x_y İstanbul straße ﬁrst 😀 猫 です 吃饭 Иван 's don’t A.M. Sept.".split()
)
PIECES = st.one_of(
    st.sampled_from(ROWS),
    st.sampled_from(PHRASES),
    st.sampled_from(SIGNS),
    st.sampled_from(NUMBERS),
    st.sampled_from(PLAIN),
    st.sampled_from(ROWS).flatmap(lambda row: st.sampled_from(row.split())),
)
SENTENCES = st.lists(st.tuples(PIECES, st.sampled_from([" ", "", ", ", ". ", "-", "\n", "'", "/"])), max_size=14).map(
    lambda pairs: "".join(piece + gap for piece, gap in pairs)
)


def read(text, order="auto"):
    return [(one.words, one.start, one.end) for one in timewords.intervals(text, NOW, date_order=order)]


def read_whole(text, order="auto"):
    """Read a text without the tests that tell early that nothing is there: all languages, tokens and readers."""

    def choose(text):
        if timewords._ASIAN.search(text):
            return timewords._read_unspaced(timewords.write_digits(text))
        pieces = timewords.split(text)
        words, numeric = [piece.text for piece in pieces], timewords._may_mention(pieces)
        languages = list(timewords._list_likely(words, numeric=numeric))
        return [(language, timewords.give_meanings(pieces, language)) for language in languages]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timewords, "_choose_languages", choose)
        patch.setattr(Line, "list_openings", lambda self: list(range(len(self.tokens))))
        patch.setattr(Line, "begins", lambda self, at, kinds: 0 <= at < len(self.tokens))
        return read(text, order)


@pytest.mark.parametrize("order", ["auto", "day-first", "month-first"])
def test_no_short_cut_misses_an_expression_of_the_list(order):
    differing = [text for text in ROWS if read(text, order) != read_whole(text, order)]
    assert differing == []


@settings(max_examples=400)
@given(SENTENCES, st.sampled_from(["auto", "day-first", "month-first"]))
def test_no_short_cut_misses_an_expression_in_an_invented_sentence(text, order):
    assert read(text, order) == read_whole(text, order)

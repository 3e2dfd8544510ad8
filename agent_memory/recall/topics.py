"""Topics: what entries are about. Groups by meaning, words that tell them apart, and near-duplicates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from agent_memory.index.clusters import group_vectors
from agent_memory.recall.duplicates import find_leaders
from agent_memory.recall.ranking import DUPLICATE_COSINE
from agent_memory.records import Entry, Topic, Topics
from agent_memory.storage.words.common import COMMON
from agent_memory.storage.words.terms import list_terms
from agent_memory.types import FloatArray, RowArray

_GUESSES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
_LEAST_OF_TOPIC = 8  # entries that a guess must leave for each topic on average
_SAMPLE = 2000  # rows that a guess is judged by
_WORDS = 6
_EXAMPLES = 3
_COMMON = frozenset(word for words in COMMON.values() for word in words.split())


def find_topics(
    entries: Sequence[Entry], vectors: FloatArray, *, k: int | None, previous: Topics | None, threads: int = 1
) -> Topics:
    """Group entries.

    Args:
        entries: In the order they were added.
        vectors: Their vectors, float32 (n, dimension), of unit length.
        k: Number of topics; None to find it.
        previous: Topics of before, which stay: their entries stay together, and new ones join the closest.
        threads: Maximum number of threads.
    """
    if not entries:
        return Topics((), duplicates=(), entries=0)
    if previous is not None and len(previous):
        groups, names = _join(entries, vectors, previous, threads)
    else:
        count = _guess(vectors, threads) if k is None else min(k, len(entries))
        groups, names = group_vectors(vectors, count, threads=threads)[0], {}
    members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    words = _find_words([[entries[row] for row in rows.tolist()] for rows in members])
    topics = [
        _describe(entries, vectors, rows, said, names.get(group))
        for group, (rows, said) in enumerate(zip(members, words, strict=True))
        if len(rows)
    ]
    ordered = sorted(topics, key=lambda topic: (-topic.size, topic.name))
    return Topics(ordered, duplicates=_find_duplicates(entries, vectors), entries=len(entries))


def _guess(vectors: FloatArray, threads: int) -> int:
    """Return the number of groups by which vectors are most clearly closer to their own centre than to the next."""
    rows = vectors[:: -(-len(vectors) // _SAMPLE)]
    best, chosen = 0.0, 1
    for count in _GUESSES:
        if count * _LEAST_OF_TOPIC > len(rows):
            break
        _, centres = group_vectors(rows, count, threads=threads)
        near = np.sort(rows @ centres.T, axis=1)
        own, other = 1 - near[:, -1], 1 - near[:, -2]
        clear = float(np.mean((other - own) / np.maximum(np.maximum(other, own), 1e-6)))
        if clear > best:
            best, chosen = clear, count
    return chosen


def _join(
    entries: Sequence[Entry], vectors: FloatArray, previous: Topics, threads: int
) -> tuple[RowArray, dict[int, str]]:
    """Return the groups of entries whose former ones stay as they are, and the groups' names.

    What is farther from every topic than all but a few of its own entries is grouped by itself.
    """
    places = {member: number for number, topic in enumerate(previous) for member in topic.members}
    groups = np.array([places.get((entry.namespace, entry.key), -1) for entry in entries], np.int64)
    names = {number: topic.name for number, topic in enumerate(previous)}
    kept = [number for number in names if (groups == number).any()]
    new = np.flatnonzero(groups < 0)
    if not len(new):
        return groups, names
    if kept:
        centres = np.stack([_find_centre(vectors[groups == number]) for number in kept])
        floors = np.array(
            [np.quantile(vectors[groups == number] @ centre, 0.1) for number, centre in zip(kept, centres, strict=True)]
        )
        near = vectors[new] @ centres.T
        closest = near.argmax(axis=1)
        joins = near.max(axis=1) >= floors[closest]
        groups[new[joins]] = np.array(kept)[closest[joins]]
        new = new[~joins]
    if len(new):
        count = _guess(vectors[new], threads)
        groups[new] = len(previous) + group_vectors(vectors[new], count, threads=threads)[0]
    return groups, names


def _find_centre(vectors: FloatArray) -> FloatArray:
    centre = vectors.mean(axis=0)
    unit: FloatArray = centre / max(float(np.linalg.norm(centre)), 1e-9)
    return unit


def _describe(
    entries: Sequence[Entry], vectors: FloatArray, rows: RowArray, words: Sequence[str], name: str | None
) -> Topic:
    near = vectors[rows] @ _find_centre(vectors[rows])
    central = [int(rows[place]) for place in np.argsort(-near, kind="stable")]
    distinct: dict[str, int] = {}
    for row in central:
        distinct.setdefault(entries[row].text, row)
    return Topic(
        name=name or "-".join(words[:3]) or "topic",
        words=tuple(words),
        size=len(rows),
        cohesion=float(near.mean()),
        examples=tuple(entries[row] for row in list(distinct.values())[:_EXAMPLES]),
        members=tuple((entries[row].namespace, entries[row].key) for row in rows.tolist()),
    )


def _find_words(groups: Sequence[Sequence[Entry]]) -> list[list[str]]:
    """Return the words that tell each group from the others, best first, by c-TF-IDF (Grootendorst 2022)."""
    counts = [Counter(word for entry in group for word in set(_list_words(entry.text))) for group in groups]
    whole: Counter[str] = Counter()
    for count in counts:
        whole.update(count)
    average = sum(whole.values()) / max(1, len(counts))

    def rank(count: Counter[str]) -> list[str]:
        total = max(1, sum(count.values()))
        worth = {word: often / total * math.log(1 + average / whole[word]) for word, often in count.items()}
        return sorted(worth, key=lambda word: (-worth[word], word))[:_WORDS]

    return [rank(count) for count in counts]


def _list_words(text: str) -> Iterable[str]:
    for word in list_terms(text).split():
        bare = word.strip("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        if len(bare) > 1 and "'" not in bare and not bare.isdigit() and bare not in _COMMON:
            yield bare


def _find_duplicates(entries: Sequence[Entry], vectors: FloatArray) -> tuple[tuple[Entry, ...], ...]:
    """Return the groups of entries that say nearly the same, oldest first in each."""
    groups: dict[int, list[Entry]] = {}
    for place, leader in enumerate(find_leaders(vectors, DUPLICATE_COSINE).tolist()):
        groups.setdefault(leader, []).append(entries[place])
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)

"""Fits and measures confidence: ``python benchmarks/confidence.py DATA/train/* --fit``.

Each question is asked as it is, inside its conversation and without naming it; with the entries that answer it hidden;
and inside another conversation, where nothing answers it. Questions that have no evidence in the data are asked too.
``--fit`` writes ``agent_memory/recall/confidence.json``. Both the calibration and the limit of *none* are chosen on
sets that a fit has not seen (leave one set out); what is printed was measured so, and, with ``--fit``, on conversations
that the final fit has not seen. Without it, the calibration of the package is measured on the given sets. Stores and
answers are kept in ``--cache``, so an interrupted run goes on. After the weights of the ranking or an encoder have
changed, give ``--ask-again``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from agent_memory import Memory
from agent_memory.encoders import load_encoder
from agent_memory.evaluation.questions import Question, read_questions
from agent_memory.evaluation.reliability import Answer, Reliability, measure_reliability
from agent_memory.recall import confidence
from agent_memory.recall.confidence import FEATURES, RATED, WORDS, Calibration, parse_calibration

FILE = Path(confidence.__file__).with_name("confidence.json")
MODES = ("hybrid", "dense", "lexical")
RATED_HITS = 5  # of a question; most recalls return no more
NO_COSINE = {"lexical": {"cosine", "best_cosine"}}
NO_WORDS = {"dense": {"words", "best_words", "asked", "neighbour", "time"}}
LOSS = 0.018  # share of the answerable questions of which "none" may be said
STRONG = 0.7  # from here on, the first hit is right eight times of ten on sets that a fit has not seen (hybrid)
NONE_SHARE = 1 / 3  # weight of the questions that nothing answers
HALVES = 2


class OnceEncoder:
    """An encoder that encodes each question once, however often it is asked."""

    def __init__(self, name: str) -> None:
        self._encoder = load_encoder(name)
        self.spec, self.scripts = self._encoder.spec, getattr(self._encoder, "scripts", None)
        self.encode_documents = self._encoder.encode_documents
        self._vectors: dict[str, np.ndarray] = {}

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of questions; see ``Encoder``."""
        if missing := [text for text in dict.fromkeys(texts) if text not in self._vectors]:
            self._vectors |= dict(zip(missing, self._encoder.encode_queries(missing), strict=True))
        return np.stack([self._vectors[text] for text in texts])


def fill(folder: Path, place: Path, turns: int, encoder: str) -> None:
    """Store the first conversations, or passages, of a data set; nothing is stored twice if this was interrupted."""
    if (place / "filled").exists():
        return
    with Memory(place, encoder=encoder) as memory:
        if (passages := folder / "passages.jsonl").exists():
            lines = [json.loads(line) for line in passages.read_text("utf-8").splitlines()[:turns]]
            memory.add_many({"key": line["id"], "text": line["text"]} for line in lines if line["text"].strip())
            (place / "filled").touch()
            return
        kept: list[str] = []
        for line in (folder / "conversations.jsonl").read_text("utf-8").splitlines():
            turns -= len(json.loads(line)["segments"])
            if turns < 0 and len(kept) > 1:
                break
            kept.append(line)
        part = place / "part.jsonl"
        part.write_text("\n".join(kept), "utf-8")
        memory.import_(part, assume_now=True)
    (place / "filled").touch()


def choose(questions: Sequence[Question], memory: Memory, most: int) -> tuple[list[Question], list[Question]]:
    """Return questions about what was stored, with evidence (at most so many) and without."""
    sessions, keys = {one.name for one in memory.sessions()}, {entry.key for entry in memory.entries()}
    inside = [one for one in questions if one.session in sessions or (not one.session and keys >= {*one.evidence})]
    known, unknown = ([one for one in inside if bool(one.evidence) is has] for has in (True, False))
    random.Random(0).shuffle(known)
    return known[:most], unknown


def vary(question: Question, sessions: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the ways in which a question is asked: what each is called, and its options."""
    yield "asked", {"session": question.session, "where": question.where}
    if not question.evidence or question.session is None:
        return
    yield "anywhere", {"where": question.where}
    hidden = {"idx": {"$nin": [int(key.rpartition(":")[2]) for key in question.evidence]}}
    where = {"$and": [question.where, hidden]} if question.where else hidden
    yield "hidden", {"session": question.session, "where": where}
    others = [name for name in sessions if name != question.session]
    if others:
        chosen = int(hashlib.sha256(question.text.encode()).hexdigest(), 16) % len(others)
        yield "elsewhere", {"session": others[chosen]}


def ask(folder: Path, place: Path, most: int, encoder: str, again: bool) -> list[dict[str, Any]]:
    """Return every way of asking the questions of a set: the features of the hits, and which hold evidence."""
    file = place / f"answers-{most}.json"
    if file.exists() and not again:
        rows: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
        return rows
    rows = []
    with Memory(place, encoder=OnceEncoder(encoder)) as memory:
        sessions = sorted(one.name for one in memory.sessions())
        for question in [one for group in choose([*read_questions(folder)], memory, most) for one in group]:
            for way, options in vary(question, sessions):
                for mode in MODES:
                    hits = memory.recall(question.text, k=RATED, mode=mode, explain=True, **options)
                    evidence = set(question.evidence) if way in ("asked", "anywhere") else set()
                    parts = [(hit.trace or {})["confidence"]["from"] for hit in hits]
                    features = [[part[name] for name in FEATURES] for part in parts]
                    right = [hit.entry.key in evidence for hit in hits]
                    about = {"set": folder.name, "conversation": question.session or question.text, "way": way}
                    about |= {"category": question.category, "mode": mode, "answerable": bool(evidence)}
                    rows.append({**about, "features": features, "right": right})
    file.write_text(json.dumps(rows), "utf-8")
    return rows


def used(mode: str) -> list[int]:
    """Return the places of the features that a mode has."""
    missing = NO_COSINE.get(mode, set()) | NO_WORDS.get(mode, set())
    return [at for at, name in enumerate(FEATURES) if name not in missing]


def weigh(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the weight of each row: questions count alike, but those that nothing answers a third together."""
    known = sum(row["answerable"] for row in rows)
    share = {True: (1 - NONE_SHARE) / max(1, known), False: NONE_SHARE / max(1, len(rows) - known)}
    return np.array([share[row["answerable"]] for row in rows])


def regress(rows: Sequence[Mapping[str, Any]], mode: str) -> Calibration:
    """Return the calibration that a logistic regression gives; needs scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    places = used(mode)
    features, right, weights = [], [], []
    for row, weight in zip(rows, weigh(rows), strict=True):
        features += row["features"][:RATED_HITS]
        right += row["right"][:RATED_HITS]
        weights += [weight] * len(row["right"][:RATED_HITS])
    matrix = np.array(features)[:, places]
    scale = matrix.std(axis=0) + 1e-6
    scaled = np.array(weights) * len(weights) / sum(weights)
    model = LogisticRegression(C=1, max_iter=1000).fit(matrix / scale, right, sample_weight=scaled)
    whole = np.zeros(len(FEATURES), np.float32)
    whole[places] = model.coef_[0] / scale
    return Calibration(weights=whole, offset=float(model.intercept_[0]), weak=0.0, strong=STRONG)


def best_of(row: Mapping[str, Any], calibration: Calibration) -> float:
    """Return the confidence of the best hit; 0 if there is none."""
    if not row["features"]:
        return 0.0
    return float(calibration.rate(np.array(row["features"], np.float32)).max())


def judge(rows: Sequence[Mapping[str, Any]], calibration: Calibration) -> list[Answer]:
    """Return what a calibration says of answers."""
    answers = []
    for row in rows:
        rated = calibration.rate(np.array(row["features"], np.float32).reshape(-1, len(FEATURES))).tolist()
        hits = [*zip(rated, row["right"], strict=True)][:RATED_HITS]
        evidence = calibration.judge(max(rated, default=None))
        answers.append(Answer(answerable=row["answerable"], evidence=evidence, hits=hits))
    return answers


def limit(pairs: Sequence[tuple[Mapping[str, Any], float]]) -> float:
    """Return the confidence below which at most ``LOSS`` of the answerable questions have their best hit."""
    known = [(best, row) for row, best in pairs if row["answerable"]]
    order = np.argsort([best for best, _ in known])
    weights = weigh([row for _, row in known])[order]
    place = int(np.searchsorted(np.cumsum(weights) / weights.sum(), LOSS))
    return known[int(order[place])][0]


def cross(rows: Sequence[Mapping[str, Any]], mode: str, part: str) -> tuple[float, dict[str, list[Answer]]]:
    """Return the limit of *none*, and the answers of each set, judged by fits that have not seen it.

    Args:
        rows: The answers of one mode.
        mode: The mode.
        part: What a fit leaves out: ``set``, or a half of the ``conversation``s of each set.
    """

    def group(row: Mapping[str, Any]) -> str:
        if part == "set":
            return str(row["set"])
        return str(int(hashlib.sha256(row["conversation"].encode()).hexdigest(), 16) % HALVES)

    fits = {name: regress([row for row in rows if group(row) != name], mode) for name in {group(row) for row in rows}}
    weak = limit([(row, best_of(row, fits[group(row)])) for row in rows])
    answers: dict[str, list[Answer]] = {}
    for row in rows:
        fit = fits[group(row)]
        found = judge([row], Calibration(weights=fit.weights, offset=fit.offset, weak=weak, strong=STRONG))
        answers.setdefault(row["set"], []).extend(found)
    return weak, answers


def show(title: str, by_set: Mapping[str, Sequence[Answer]]) -> Reliability:
    """Print what confidences are worth, set by set and together."""
    print(f"\n{title}\n| set | hits | ECE | answerable | lost | without | found out | precision | strong right |")
    print("|---|---|---|---|---|---|---|---|---|")
    together = [answer for name, answers in by_set.items() if ": " not in name for answer in answers]
    for name, answers in {**by_set, "all": together}.items():
        one = measure_reliability(answers)
        shares = ["" if share is None else f"{100 * share:.1f}" for share in (one.lost, one.found_out, one.precision)]
        strong = "" if one.strong is None else f"{100 * one.strong:.0f}"
        counts = f"{one.hits} | {one.error:.3f} | {one.answerable} | {shares[0]} | {one.unanswerable}"
        print(f"| {name} | {counts} | {shares[1]} | {shares[2]} | {strong} |", flush=True)
    return measure_reliability(together)


def fit(rows: Sequence[Mapping[str, Any]], encoder: str) -> None:
    """Fit every mode, print what it is worth, and write the calibrations beside those of other encoders."""
    spec = load_encoder(encoder).spec
    kept = {(one["mode"], one["fingerprint"]): one for one in json.loads(FILE.read_text("utf-8"))}
    # The calibration of the words needs no encoder; it is fitted with the default one.
    for mode in MODES if encoder == "default" else MODES[:2]:
        mine = [row for row in rows if row["mode"] == mode]
        weak, answers = cross(mine, mode, "set")
        worth = show(f"{mode}, each set judged by a fit on the others", answers)
        halves = cross(mine, mode, "conversation")[1]
        show(f"{mode}, each half of the conversations judged by a fit on the other", halves)
        final = regress(mine, mode)
        name, fingerprint = (WORDS, WORDS) if mode == "lexical" else (spec.name, spec.fingerprint)
        weights = {one: round(float(final.weights[at]), 4) for at, one in enumerate(FEATURES) if final.weights[at]}
        facts = {"mode": mode, "encoder": name, "fingerprint": fingerprint, "weights": weights}
        facts |= {"offset": round(final.offset, 4), "weak": round(weak, 4), "strong": STRONG}
        kept[mode, fingerprint] = facts | {"error": round(worth.error, 4), "sets": sorted({row["set"] for row in mine})}
    FILE.write_text(json.dumps([kept[key] for key in sorted(kept)], indent=1) + "\n", "utf-8")


def measure(rows: Sequence[Mapping[str, Any]], encoder: str) -> None:
    """Print what the calibrations of the package are worth on the given sets."""
    fingerprint = load_encoder(encoder).spec.fingerprint
    known = {(one["mode"], one["fingerprint"]): parse_calibration(one) for one in json.loads(FILE.read_text("utf-8"))}
    for mode in MODES:
        calibration = known[mode, WORDS if mode == "lexical" else fingerprint]
        by_set: dict[str, list[Answer]] = {}
        for row in rows:
            if row["mode"] == mode:
                for name in (row["set"], f"{row['set']}: {row['way']}", f"none: {row['category']}"):
                    if not name.startswith("none") or (row["way"] == "asked" and not row["answerable"]):
                        by_set.setdefault(name, []).extend(judge([row], calibration))
        one = show(f"{mode}, as the package has it", by_set)
        print("curve:", json.dumps([asdict(part) for part in one.curve]))


def main() -> None:
    """Ask, then fit or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--encoder", default="default")
    parser.add_argument("--turns", type=int, default=3000, help="of a set, in whole conversations")
    parser.add_argument("--questions", type=int, default=80, help="of a set, with evidence")
    parser.add_argument("--cache", type=Path, default=Path("confidence-cache"))
    parser.add_argument("--ask-again", action="store_true")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in given.folders:
        place = given.cache / f"{folder.name}-{load_encoder(given.encoder).spec.fingerprint[:8]}"
        fill(folder, place, given.turns, given.encoder)
        rows += ask(folder, place, given.questions, given.encoder, given.ask_again)
        print(f"{folder.name}: asked", flush=True)
    (fit if given.fit else measure)(rows, given.encoder)


if __name__ == "__main__":
    main()

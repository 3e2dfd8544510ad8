"""How well and how fast a router picks: ``python benchmarks/routing.py``.

On the invented tools of tests/data/routes.tsv: whether the right tool is first, or among the first five; what the
confidence is worth on half B, whose tools and texts its constants were not fitted on; and, with many invented tools,
what a route costs beyond encoding the text. ``--fit`` prints the constants that half A gives.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from timing import summarise, time_calls

from agent_memory import Router
from agent_memory.encoders import load_encoder

DATA = Path(__file__).parents[1] / "tests" / "data" / "routes.tsv"
PLAIN, OBLIQUE, NONE, REMOVED = "plain", "oblique", "for no tool", "tool removed"
SIZES = (3, 10, 30, 100)


class Asked(NamedTuple):
    """A text, the tool it is for (None for none), and its kind."""

    text: str
    tool: str | None
    kind: str


class Vectors(dict[str, np.ndarray]):
    """The vectors of texts, encoded together, which is quicker."""

    def __init__(self) -> None:
        texts = [each.text for each in read_tools("AB")[1]]
        super().__init__(zip(texts, load_encoder().encode_queries(texts), strict=True))


def read_tools(half: str) -> tuple[dict[str, str], list[Asked]]:
    """Return the tools of a half, or of both ("AB"), and the texts about them."""
    rows = [line.split("\t") for line in DATA.read_text("utf-8").splitlines() if not line.startswith("#")]
    tools, asked = {}, []
    for where, _, name, description, *texts in rows:
        if where not in half:
            continue
        if name == "-":
            asked += [Asked(text, None, NONE) for text in texts]
            continue
        tools[name] = description
        asked += [Asked(text, name, PLAIN if at == 0 else OBLIQUE) for at, text in enumerate(texts)]
    return tools, asked


def rate_half(half: str, size: int, vectors: Vectors, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the confidence in the best of so many tools of a half, whether it is right, and the kind of the text.

    Tools are drawn until 100 were; texts of tools that were not drawn, or of all tools once each is removed, have none.
    """
    tools, asked = read_tools(half)
    random, names = np.random.default_rng(seed), list(tools)
    rated: list[tuple[float, bool, str]] = []

    def rate(router: Router, texts: Iterable[Asked], kind: str | None = None) -> None:
        for each in texts:
            best = router.route_vector(vectors[each.text], 1, 0)[0]
            rated.append((best.confidence, best.name == each.tool and kind is None, kind or each.kind))

    for _ in range(max(1, 100 // size)):
        drawn = set(random.choice(names, size, replace=False).tolist())
        router = Router(load_encoder(), {name: tools[name] for name in names if name in drawn})
        rate(router, [each for each in asked if each.tool is None or each.tool in drawn])
        left = [each for each in asked if each.tool is not None and each.tool not in drawn]
        rate(router, [left[at] for at in random.permutation(len(left))[:60]], REMOVED)
        for name in names[::5] if not left else ():
            router.remove(name)
            rate(router, [each for each in asked if each.tool == name], REMOVED)
            router.add({name: tools[name]})
    confidences, right, kinds = zip(*rated, strict=True)
    return np.array(confidences), np.array(right), list(kinds)


def report_hits(vectors: Vectors) -> None:
    """Print how often the right one of all tools is found."""
    tools, asked = read_tools("AB")
    router = Router(routes=tools)
    print(f"{len(tools)} tools: the right one is first / among the first five, %")
    for kind in (PLAIN, OBLIQUE):
        chosen = [(each, router.route_vector(vectors[each.text], 5, 0)) for each in asked if each.kind == kind]
        first = np.mean([found[0].name == each.tool for each, found in chosen])
        five = np.mean([each.tool in {choice.name for choice in found} for each, found in chosen])
        print(f"  {kind:10} {100 * first:5.1f} / {100 * five:5.1f}   ({len(chosen)} texts)")
    taught = Router(routes=tools)
    oblique = [each for each in asked if each.kind == OBLIQUE]
    for each in oblique[::2]:
        taught.feedback(each.text, each.tool)
    five = np.mean(
        [
            each.tool in {choice.name for choice in taught.route_vector(vectors[each.text], 5, 0)}
            for each in oblique[1::2]
        ]
    )
    before = np.mean(
        [
            each.tool in {choice.name for choice in router.route_vector(vectors[each.text], 5, 0)}
            for each in oblique[1::2]
        ]
    )
    print(
        f"  the second oblique text, among the first five: {100 * before:.1f}; after a correction of the first "
        f"{100 * five:.1f}"
    )


def report_confidence(half: str, vectors: Vectors) -> None:
    """Print what the confidence is worth."""
    print(
        f"half {half}: precision of what is chosen; plain and oblique texts that get the right one; texts for no tool, "
        "and those whose tool is missing, that get none"
    )
    for size in SIZES:
        confidences, right, kinds = rate_half(half, size, vectors, 1)
        kind = np.array(kinds)
        for floor in (0.3, 0.5):
            kept = confidences >= floor
            shares = [np.mean((kept & right)[kind == name]) for name in (PLAIN, OBLIQUE)]
            shares += [np.mean(~kept[kind == name]) for name in (NONE, REMOVED)]
            precision = np.mean(right[kept & (kind != REMOVED)])
            figures = ", ".join(f"{value:.3f}" for value in shares)
            print(f"  {size:3} tools, min_confidence {floor}: {precision:.3f}; {figures}")


def report_none(vectors: Vectors) -> None:
    """Print how many texts for no tool get none from all tools."""
    tools, asked = read_tools("AB")
    router = Router(routes=tools)
    none = [not router.route_vector(vectors[each.text]) for each in asked if each.kind == NONE]
    right = [
        [choice.name for choice in router.route_vector(vectors[each.text], 1)] == [each.tool]
        for each in asked
        if each.kind == PLAIN
    ]
    print(
        f"all tools, {len(none)} texts for none of them: {100 * np.mean(none):.1f} % get none; of the plain texts "
        f"{100 * np.mean(right):.1f} % get the right one"
    )


def fit_constants(half: str, vectors: Vectors) -> Iterable[float]:
    """Return height, lead and offset that a logistic regression gives a half; needs scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    from agent_memory.routing.confidence import Scale

    measured, right, weights = [], [], []
    rate = Scale.rate
    for size in SIZES:
        seen: list[tuple[float, float]] = []
        # Of the routes that are rated for a text, the best comes first: it has no rival above it.
        Scale.rate = lambda self, score, rival, seen=seen: (
            seen.append((*self.measure(score, rival), score, rival)) or 1.0
        )
        _, labels, _ = rate_half(half, size, vectors, 0)
        best = [each[:2] for each in seen if each[3] is None or each[2] >= each[3]]
        measured, right = [*measured, *best], [*right, *labels]
        weights += [1000 / len(labels)] * len(labels)
    Scale.rate = rate
    model = LogisticRegression(C=10).fit(np.array(measured), right, sample_weight=weights)
    return [*model.coef_[0], model.intercept_[0]]


def report_time(counts: Iterable[int], calls: int) -> None:
    """Print what a route costs beyond encoding, with several sentences a tool."""
    encoder, random = load_encoder(), np.random.default_rng(0)
    tools, asked = read_tools("AB")
    for count in counts:
        routes = {
            f"{name}_{at}": [text, f"{text} ({at})"]
            for at in range(-(-count // len(tools)))
            for name, text in tools.items()
        }
        router = Router(encoder, dict(list(routes.items())[:count]))
        vectors = encoder.encode_queries([each.text for each in asked[:200]])
        router.route_vector(vectors[0])
        picked = random.integers(0, len(vectors), calls)
        times = time_calls(lambda at, router=router, vectors=vectors: router.route_vector(vectors[at]), picked)
        print(f"{count} tools of two sentences: {summarise(times)} ms a route beyond encoding")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="print the constants of the confidence, from half A")
    parser.add_argument("--tools", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    vectors = Vectors()
    if options.fit:
        print("height, lead, offset:", ", ".join(f"{value:.3f}" for value in fit_constants("A", vectors)))
        return
    started = time.perf_counter()
    report_hits(vectors)
    report_confidence("B", vectors)
    report_none(vectors)
    report_time(options.tools, options.calls)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

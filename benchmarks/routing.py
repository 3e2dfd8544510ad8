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


class Asked(NamedTuple):
    """A text, the tool it is for (None for none), and its kind."""

    text: str
    tool: str | None
    kind: str


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


def rate_half(half: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the confidence in the best tool, whether it is right, and the kind, with the tools removed once more."""
    tools, asked = read_tools(half)
    router, confidences, right, kinds = Router(routes=tools), [], [], []
    for text, tool, kind in asked:
        best = router.route(text, k=1, min_confidence=0)[0]
        confidences, right, kinds = [*confidences, best.confidence], [*right, best.name == tool], [*kinds, kind]
    for name in tools:
        texts = [each.text for each in asked if each.tool == name]
        router.remove(name)
        for text in texts:
            confidences.append(router.route(text, k=1, min_confidence=0)[0].confidence)
            right.append(False)
            kinds.append(REMOVED)
        router.add({name: tools[name]})
    return np.array(confidences), np.array(right), kinds


def report_hits() -> None:
    """Print how often the right one of all tools is found."""
    tools, asked = read_tools("AB")
    router = Router(routes=tools)
    print(f"{len(tools)} tools: the right one is first / among the first five, %")
    for kind in (PLAIN, OBLIQUE):
        chosen = [(each, router.route(each.text, k=5, min_confidence=0)) for each in asked if each.kind == kind]
        first = np.mean([found[0].name == each.tool for each, found in chosen])
        five = np.mean([each.tool in {choice.name for choice in found} for each, found in chosen])
        print(f"  {kind:10} {100 * first:5.1f} / {100 * five:5.1f}   ({len(chosen)} texts)")
    taught = Router(routes=tools)
    oblique = [each for each in asked if each.kind == OBLIQUE]
    for each in oblique[::2]:
        taught.feedback(each.text, each.tool)
    five = np.mean([each.tool in {choice.name for choice in taught.route(each.text, 5, 0)} for each in oblique[1::2]])
    before = np.mean([each.tool in {choice.name for choice in router.route(each.text, 5, 0)} for each in oblique[1::2]])
    print(
        f"  the second oblique text, among the first five: {100 * before:.1f}; after a correction of the first "
        f"{100 * five:.1f}"
    )


def report_confidence(half: str) -> None:
    """Print what the confidence is worth."""
    confidences, right, kinds = rate_half(half)
    kind = np.array(kinds)
    asked = (kind == PLAIN) | (kind == OBLIQUE) | (kind == NONE)
    print(
        f"half {half}, by min_confidence: precision of what is chosen; chosen rightly, of plain and oblique texts; "
        "none chosen where there is none, and where the tool was removed"
    )
    for floor in (0.2, 0.3, 0.4, 0.5, 0.7):
        kept = confidences >= floor
        shares = [np.mean((kept & right)[kind == name]) for name in (PLAIN, OBLIQUE)]
        refused = [np.mean(~kept[kind == name]) for name in (NONE, REMOVED)]
        precision = np.mean(right[kept & asked])
        print(
            f"  {floor:.1f}: {precision:.3f}; "
            + ", ".join(f"{x:.3f}" for x in shares)
            + "; "
            + ", ".join(f"{x:.3f}" for x in refused)
        )


def fit_constants(half: str) -> Iterable[float]:
    """Return height, lead and offset that a logistic regression gives a half; needs scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    from agent_memory.routing import confidence

    measured: list[tuple[float, float]] = []
    rate = confidence.Scale.rate
    confidence.Scale.rate = lambda self, score, rival: measured.append(self.measure(score, rival)) or 1.0
    _, right, kinds = rate_half(half)
    confidence.Scale.rate = rate
    # Each call rates the best route and its rival: the first of two is the best.
    weights = [{NONE: 3.0, REMOVED: 0.33}.get(kind, 1.0) for kind in kinds]
    model = LogisticRegression(C=10).fit(np.array(measured[::2]), right, sample_weight=weights)
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
    if options.fit:
        print("height, lead, offset:", ", ".join(f"{value:.3f}" for value in fit_constants("A")))
        return
    started = time.perf_counter()
    report_hits()
    report_confidence("B")
    report_time(options.tools, options.calls)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

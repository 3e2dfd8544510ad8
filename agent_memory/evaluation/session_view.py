"""How a question's hits and the latent memory change while a session grows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent_memory.errors import InvalidInputError, MissingDependencyError, NotFoundError, StorageError
from agent_memory.evaluation.vectors import evolved_session, read_vectors
from agent_memory.memory import Memory
from agent_memory.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A question asked again and again while a session grows.

    Attributes:
        session: The session's name.
        query: What is asked.
        texts: All segments, in their order.
        after: How many segments the session had, at each step.
        top: Positions of the best segments at each step, best first, by meaning alone.
        scores: Their cosines.
        question: Cosine between the question's vectors of any two steps, float32 (steps, steps).
        latents: Cosine between the mean latents of the memory of any two steps, float32 (steps, steps).
    """

    session: str
    query: str
    texts: list[str]
    after: list[int]
    top: list[list[int]]
    scores: list[list[float]]
    question: FloatArray
    latents: FloatArray


def session_view(memory: Memory, session: str, query: str | None = None, *, steps: int = 12, k: int = 3) -> SessionView:
    """Ask one question at several moments of a session.

    Args:
        memory: The store.
        session: The session's name.
        query: What to ask; the session's first text if None.
        steps: At how many moments, evenly spread; the last is the present.
        k: How many hits to keep of each.

    Raises:
        NotFoundError: There is no such session.
        InvalidInputError: The store has no session encoder.
    """
    entries = memory.entries(session=session)
    if not entries:
        raise NotFoundError(f"no session {session!r}")
    encoder = memory.session_encoder
    if encoder is None:
        raise InvalidInputError("this store has no session encoder: its vectors do not evolve")
    asked = query or entries[0].text
    static = read_vectors(memory, [entry.key for entry in entries])
    evolved, memory_before = evolved_session(encoder, entries, static)
    plain = memory.encoder.encode_queries([asked])[0]
    after = sorted({int(point) for point in np.linspace(1, len(entries), max(1, min(steps, len(entries))))})
    questions, means, top, scores = [], [], [], []
    for count in after:
        queue = memory_before(count)
        vector = encoder.embed_query(plain, asked, queue)
        cosines = evolved[:count] @ vector
        best = np.argsort(-cosines, kind="stable")[:k]
        top.append(best.tolist())
        scores.append(cosines[best].tolist())
        questions.append(vector)
        means.append(queue.latents.mean(0))
    return SessionView(
        session=session,
        query=asked,
        texts=[entry.text for entry in entries],
        after=after,
        top=top,
        scores=scores,
        question=_cosines(np.stack(questions)),
        latents=_cosines(np.stack(means)),
    )


def _cosines(rows: FloatArray) -> FloatArray:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    result: FloatArray = unit @ unit.T
    return result


def plot_session_view(view: SessionView, path: Path) -> None:
    """Draw a view: the best segments over the session's length, and how far question and memory have moved.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(1, 3, figsize=(16, 5), width_ratios=(2, 1, 1))
    for rank in range(max(map(len, view.top))):
        points = [(after, top[rank]) for after, top in zip(view.after, view.top, strict=True) if rank < len(top)]
        axes[0].plot(*zip(*points, strict=True), "o-" if rank == 0 else ".", label=f"hit {rank + 1}")
    axes[0].plot(view.after, [after - 1 for after in view.after], ":", color="grey", label="latest segment")
    axes[0].set(xlabel="segments in the session", ylabel="position of the hit", title=_short(view.query, 70))
    axes[0].legend()
    panels = zip(axes[1:], (view.question, view.latents), ("question's vector", "mean latents"), strict=True)
    for axis, matrix, what in panels:
        image = axis.imshow(matrix, vmin=min(0.0, float(matrix.min())), vmax=1, origin="lower")
        ticks = range(0, len(view.after), max(1, len(view.after) // 6))
        axis.set_xticks(list(ticks), [str(view.after[i]) for i in ticks])
        axis.set_yticks(list(ticks), [str(view.after[i]) for i in ticks])
        axis.set(title=f"{what}: cosine between steps", xlabel="segments")
        figure.colorbar(image, ax=axis, shrink=0.7)
    save_figure(figure, path)


def load_pyplot() -> Any:  # noqa: ANN401 - matplotlib may be absent
    """Return pyplot, drawing to files only."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, path: Path) -> None:  # noqa: ANN401 - as above
    """Write a figure as PNG, or whatever the suffix says.

    Raises:
        StorageError: The file cannot be written.
    """
    pyplot = load_pyplot()
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    finally:
        pyplot.close(figure)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

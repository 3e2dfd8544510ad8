"""Plans a re-index: which embedding space to build, and where its vectors come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory import inputs
from agent_memory.encoders.registry import load_encoder
from agent_memory.errors import InvalidInputError
from agent_memory.live.space import Space
from agent_memory.live.spaces import get_base, read_rotation
from agent_memory.live.store import Store
from agent_memory.reports import GenerationState
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Generation

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.encoders.rotation import Rotation

_FITTED_ON = 4_096  # vectors that a rotation is fitted on


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexRequest:
    """The arguments of ``Memory.reindex``.

    Raises:
        InvalidInputError: One of them is unusable.
    """

    encoder: Encoder | str | Path | None = None
    session_encoder: SessionEncoder | str | None = "auto"
    tiers: Sequence[int] | None = None
    rotation: str | None = None
    batch_size: int = 256
    max_cpu: float = 1.0
    workers: int = 1

    def __post_init__(self) -> None:
        inputs.check_encoder("encoder", self.encoder)
        inputs.check_encoder("session_encoder", self.session_encoder)
        if self.rotation is not None and (not isinstance(self.rotation, str) or self.rotation != "fit"):
            raise InvalidInputError(f"rotation must be None or 'fit', got {inputs.describe(self.rotation)}")
        inputs.check_count("batch_size", self.batch_size, most=1_000_000)
        inputs.check_count("workers", self.workers, most=256)
        if not inputs.check_share("max_cpu", self.max_cpu):
            raise InvalidInputError("max_cpu must be more than 0")


class Source(StrEnum):
    """Where the vectors of a new generation come from."""

    COPY = "copy"
    ROTATE = "rotate"
    ENCODE = "encode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The generation to build.

    Attributes:
        space: Makes its vectors.
        source: Where they come from.
        tiers: Ascending prefix dimensions.
        step: With ``rotate``: the rotation from the live generation's vectors to the new ones.
    """

    space: Space
    source: Source
    tiers: tuple[int, ...]
    step: Rotation | None = None


def plan_reindex(store: Store, request: ReindexRequest, current: Space) -> Target:
    """Return the generation that a request asks for.

    Args:
        store: The store.
        request: The arguments of ``Memory.reindex``.
        current: Embedding space of the live generation in this process.

    Raises:
        InvalidInputError: The store is empty, its live generation is the requested one already, or the tiers are
            unusable.
    """
    with store.read() as tx:
        live = tx.generations.live()
        if live is None:
            raise InvalidInputError("the store is empty: there is nothing to re-index")
        base = get_base(current.encoder if request.encoder is None else load_encoder(request.encoder))
        keeps_model = request.encoder is None and current.fingerprint == live.fingerprint
        encoder, step = (current.encoder if keeps_model else base), None
        if request.rotation == "fit":
            encoder, step = _fit_rotation(tx, live, base, keeps_model=keeps_model)
        same_space = encoder.spec.fingerprint == live.fingerprint and encoder.spec.dtype == live.dtype
        recorded = live.session_encoder or {} if same_space else None
        session_encoder = store.spaces.find_session_encoder(request.session_encoder, encoder, recorded)
    tiers = _choose_tiers(request, live, encoder)
    space = store.spaces.build(encoder, session_encoder)
    if same_space:
        if tiers == live.tiers and space.sessions.fits(live):
            raise InvalidInputError("the store has this embedding space and layout already")
        return Target(space=space, source=Source.COPY, tiers=tiers)
    return Target(space=space, source=Source.ENCODE if step is None else Source.ROTATE, tiers=tiers, step=step)


def _fit_rotation(
    tx: Transaction, live: Generation, base: Encoder, *, keeps_model: bool
) -> tuple[Encoder, Rotation | None]:
    """Return a rotated encoder, and the rotation that turns live vectors into its own if both share a model.

    A generation that a killed process began to build keeps its rotation, so that it can be continued.
    """
    from agent_memory.encoders.rotation import RotatedEncoder, Rotation, fit_rotation

    former = read_rotation(tx, live) if keeps_model else None
    for begun in tx.generations.find_in_state(GenerationState.BUILDING):
        rotation = read_rotation(tx, begun)
        if rotation is not None and rotation.dimension == base.spec.dimension:
            encoder = RotatedEncoder(base, rotation)
            if encoder.spec.fingerprint == begun.fingerprint:
                step = rotation if former is None else Rotation(former.matrix.T @ rotation.matrix)
                return encoder, step if keeps_model else None
    ids = tx.vectors.sample_ids(live, _FITTED_ON)
    if keeps_model:
        _, matrix = tx.vectors.read(live, ids, static=True)
        step = fit_rotation(matrix.astype(np.float32))
        total = step if former is None else Rotation(former.matrix @ step.matrix)
        return RotatedEncoder(base, total), step
    texts = [entry.text for entry in tx.vectors.select_texts(ids[: 2 * base.spec.dimension])]
    return RotatedEncoder(base, fit_rotation(base.encode_documents(texts))), None


def _choose_tiers(request: ReindexRequest, live: Generation, encoder: Encoder) -> tuple[int, ...]:
    spec = encoder.spec
    if request.tiers is None:
        return live.tiers if request.encoder is None else spec.tiers
    try:
        tiers = tuple(int(tier) for tier in request.tiers)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"tiers must be dimensions, got {inputs.type_name(request.tiers)}") from error
    if not 1 <= len(tiers) <= 3 or tuple(sorted(set(tiers))) != tiers or tiers[0] < 1 or tiers[-1] != spec.dimension:
        raise InvalidInputError(
            f"tiers must be one to three ascending dimensions that end at {spec.dimension}, got {tiers}"
        )
    return tiers

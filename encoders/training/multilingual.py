"""Train the multilingual head: ``python -m agent_memory.encoders.training.multilingual DATA WORK``.

DATA is the folder of the unpacked sets, of which only ``train`` is read. WORK holds caches and checkpoints; run the
same command again to resume. The backbone stays as it is; the result is ``WORK/multilingual-matryoshka.safetensors``
with ``WORK/curve.png`` and ``WORK/log.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from agent_memory.encoders.files import E5_FILE, E5_SHA256, find_e5, verify_file
from agent_memory.encoders.rotation import fit_rotation
from agent_memory.encoders.static.multilingual import PASSAGE, QUERY, PieceTokenizer, frame_pieces, make_bert
from agent_memory.encoders.static.packed import PackedModel
from agent_memory.encoders.static.windows import normalise
from agent_memory.encoders.training.axes import rotate_head
from agent_memory.encoders.training.data import (
    Conversation,
    collect_texts,
    read_training_sets,
    read_validation_sets,
)
from agent_memory.encoders.training.features import VectorCache
from agent_memory.encoders.training.student import HeadStudent
from agent_memory.encoders.training.train import Recipe, Run, compute_features
from agent_memory.files import SHARED, write_bytes
from agent_memory.types import FloatArray

LAYERS = (9, 10, 11, 12)

SIZES: Mapping[str, tuple[int, int]] = {
    "friendsqa_dev": (10_000, 10_000),
    "qmsum_train": (8, 10_000),
    "sgdmem_train": (8, 4),
    "syn_persona_chat": (6, 4),
    "mrda_ap": (20, 8),
    "irc_reply": (8, 3),
    "realmem": (80, 30),
    "crd3": (30, 12),
    "beam_500k": (20, 10_000),
    "selqa_dev": (1000, 600),
    "pubmedqa_l": (100, 100),
    "kdconv_zh": (16, 8),
}
"""As ``data.LIMITS``: fewer texts, because this backbone takes twice as long, and a Chinese set."""


class MultilingualStudent(HeadStudent):
    """A head on frozen multilingual-e5-small."""

    layers = LAYERS
    backbone = E5_SHA256

    def __init__(self) -> None:
        super().__init__()
        weights = find_e5() / E5_FILE
        verify_file(weights, E5_SHA256)
        model = PackedModel(weights)
        self.tokenizer, self.frame = PieceTokenizer(model.pieces), frame_pieces(model.pieces)
        self.bert = make_bert(model, "fp32")


def add_prompts(sets: Mapping[str, Sequence[Conversation]]) -> dict[str, list[Conversation]]:
    """Return sets whose questions and turns begin as the model was trained to read them."""
    return {
        name: [
            replace(
                conversation,
                turns=tuple(PASSAGE + turn for turn in conversation.turns),
                questions=tuple(replace(q, text=QUERY + q.text) for q in conversation.questions),
            )
            for conversation in conversations
        ]
        for name, conversations in sets.items()
    }


def compute_statistics(features: VectorCache, passages: Sequence[str], path: Path) -> dict[str, Tensor]:
    """Compute the arguments of ``HeadStudent.add_head``; they are stored in a file, so that a resumed run has the same.

    All vectors of this backbone lie close together, so their mean is taken from them: that of documents, which are
    what questions are compared with.

    Args:
        features: Frozen features; their last numbers are the backbone's own output.
        passages: Texts of documents whose features are there.
        path: The file.
    """
    from safetensors.torch import load_file, save

    if path.is_file():
        return dict(load_file(path))
    sample = features.get(passages[:: max(1, len(passages) // 30_000)])
    unit = normalise(sample[:, -sample.shape[1] // len(LAYERS) :])
    centre = unit.mean(0)
    facts = {
        "rotation": torch.from_numpy(fit_rotation(normalise(unit - centre)).matrix),
        "mean": torch.from_numpy(sample.mean(0)),
        "scale": torch.from_numpy(sample.std(0) + 1e-4),
        "centre": torch.from_numpy(centre),
    }
    write_bytes(path, save(facts), mode=SHARED)
    return facts


class _FrozenEncoder:
    """Encodes texts whose features are known, with a trained head."""

    def __init__(self, student: HeadStudent, features: VectorCache) -> None:
        self._student, self._features = student, features

    def encode_documents(self, texts: Sequence[str]) -> FloatArray:
        return self._project(texts, query=False)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        return self._project(texts, query=True)

    def _project(self, texts: Sequence[str], *, query: bool) -> FloatArray:
        with torch.inference_mode():
            known = torch.from_numpy(self._features.get(texts))
            return normalise(self._student.project(known, query=query).numpy())


def train(data: Path, work: Path, recipe: Recipe, every: int) -> Path:
    """Train the head, then its axes.

    Args:
        data: Folder of the unpacked sets.
        work: Folder of caches, checkpoints and results.
        recipe: The settings; of the steps, ``head_steps`` and ``axes_steps``.
        every: Steps between checkpoints.

    Returns:
        The head file.
    """
    work.mkdir(parents=True, exist_ok=True)
    sets = add_prompts(read_training_sets(data, recipe.left_out, recipe.seed, SIZES))
    checks = add_prompts(read_validation_sets(data, recipe.left_out, limit=1))
    features = VectorCache(work / "features")
    torch.manual_seed(recipe.seed)
    student = MultilingualStudent()
    texts = [text for conversations in sets.values() for text in collect_texts(conversations)]
    features.fill(texts, lambda missing: compute_features(student, missing))
    passages = [text for text in texts if text.startswith(PASSAGE)]
    student.add_head(**compute_statistics(features, passages, work / "statistics.safetensors"))
    student.widen(recipe.seed)
    log = work / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    run = Run(recipe, work, sets, checks, features, VectorCache(work / "teacher"), entries)
    run.train_stage("head", student, recipe.head_steps, every)
    trained, result = work / "trained.safetensors", work / "multilingual-matryoshka.safetensors"
    student.export(trained, {"recipe": json.dumps(asdict(recipe))})
    encoder = _FrozenEncoder(student, features)
    rotate_head(trained, result, sets, recipe.axes_steps, recipe.seed, encoder=encoder)
    return result


def main() -> None:
    """Train with the settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=75, help="steps between checkpoints")
    parser.add_argument("--head-steps", type=int, default=225)
    parser.add_argument("--axes-steps", type=int, default=300)
    parser.add_argument("--head-rate", type=float, default=1e-3)
    parser.add_argument("--own", type=float, default=20.0)
    parser.add_argument("--left-out", nargs="*", default=["casino"], help="training sets to leave out")
    given = vars(parser.parse_args())
    data, work, threads, every = (given.pop(name) for name in ("data", "work", "threads", "every"))
    torch.set_num_threads(threads)
    recipe = Recipe(left_out=tuple(given.pop("left_out")), delta_steps=0, last_steps=0, rank=0, teacher=0.0, **given)
    train(data, work, recipe, every)


if __name__ == "__main__":
    main()

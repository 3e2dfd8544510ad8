"""The embedded default: what is shipped, and what its parts do."""

import numpy as np
import pytest

from agent_memory.encoders import MatryoshkaEncoder, MiniLMEncoder, load_encoder, needs_rotation
from agent_memory.encoders.files import MINILM_SHA256
from agent_memory.encoders.static.matryoshka import HEAD, Head, merge_deltas, project, read_head
from agent_memory.errors import CheckpointError

TEXTS = ["Alice moved to Berlin in May.", "The soup was cold.", "ok", "He plays the drums in a band. " * 30]


@pytest.fixture(scope="module")
def encoder():
    return MatryoshkaEncoder(precision="fp32")


def unit(vectors, dimension):
    cut = vectors[:, :dimension]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def test_is_the_default(encoder):
    assert load_encoder(None).spec == encoder.spec
    assert encoder.spec.dimension == 768
    assert encoder.spec.tiers == (64, 256, 768)
    assert not needs_rotation(encoder)


def test_head_file_is_small_and_has_a_card():
    assert HEAD.stat().st_size <= 8_000_000
    card = HEAD.with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    for needed in ("CC BY-SA 4.0", "recall@10", "all-mpnet-base-v2", "Limits"):
        assert needed in card


@pytest.mark.parametrize("dimension", [64, 128, 256, 512, 768])
def test_every_prefix_finds_the_answer(encoder, dimension):
    turns = [
        "I work as a nurse at the city hospital.",
        "My brother bought a motorcycle last spring.",
        "We had pizza and watched a film.",
        "The dog chewed my favourite shoes again.",
        "I am learning to play the violin.",
    ]
    questions = ["What instrument is she learning?", "Where does she work?", "What did the dog destroy?"]
    scores = unit(encoder.encode_queries(questions), dimension) @ unit(encoder.encode_documents(turns), dimension).T
    assert scores.argmax(1).tolist() == [4, 0, 3]


def test_vectors_are_unit_and_independent_of_their_batch(encoder):
    together = encoder.encode_documents(TEXTS)
    alone = np.concatenate([encoder.encode_documents([t]) for t in TEXTS])
    assert together.shape == (4, 768)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.998), ("int8", 0.95)])
def test_lower_precision_stays_close(encoder, precision, least):
    other = MatryoshkaEncoder(precision=precision)
    cosines = (encoder.encode_documents(TEXTS) * other.encode_documents(TEXTS)).sum(1)
    assert cosines.min() > least


def test_an_untrained_head_is_minilm(tmp_path):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "head.safetensors"
    tensors = {
        "head.rotation": torch.eye(384, 768),
        "head.weight": torch.zeros(1536, 768),
        "head.bias": torch.zeros(768),
        "head.question.down": torch.zeros(1536, 4),
        "head.question.up": torch.zeros(4, 768),
        "head.question.bias": torch.zeros(768),
    }
    save_file(tensors, path, metadata={"backbone": MINILM_SHA256, "layers": "3,4,5,6"})
    vectors = MatryoshkaEncoder(path, precision="fp32").encode_documents(TEXTS)
    np.testing.assert_allclose(vectors[:, :384], MiniLMEncoder(precision="fp32").encode_documents(TEXTS), atol=2e-6)
    assert not vectors[:, 384:].any()


def test_low_rank_deltas_equal_the_sum():
    import torch

    size = 6
    parts = ("query", "key", "value")
    weights = {f"encoder.layer.0.attention.self.{n}.weight": torch.randn(size, size) for n in parts}
    down, up = torch.randn(2, size), torch.randn(3 * size, 2)
    result = merge_deltas(weights, {"delta.0.qkv": (down, up)})
    for i, n in enumerate(parts):
        name = f"encoder.layer.0.attention.self.{n}.weight"
        torch.testing.assert_close(result[name], weights[name] + (up @ down)[i * size : (i + 1) * size])
    with pytest.raises(CheckpointError, match="does not fit"):
        merge_deltas(weights, {"delta.1.qkv": (down, up)})
    with pytest.raises(CheckpointError, match="no part"):
        merge_deltas(weights, {"delta.0.what": (down, up)})


def test_questions_take_their_own_addition():
    import torch

    pooled = [torch.randn(3, 384) for _ in range(2)]
    question = (torch.randn(768, 4), torch.randn(4, 768), torch.randn(768))
    head = Head((5, 6), torch.eye(384, 768), torch.randn(768, 768), torch.randn(768), question, {})
    difference = project(pooled, head, query=True) - project(pooled, head, query=False)
    expected = torch.cat(pooled, 1) @ question[0] @ question[1] + question[2]
    torch.testing.assert_close(difference, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"), [("cut", "not a readable head"), ("backbone", "other"), ("part", "incomplete")]
)
def test_damaged_heads_are_refused(tmp_path, change, said):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "head.safetensors"
    if change == "cut":
        path.write_bytes(HEAD.read_bytes()[:5000])
    else:
        with safe_open(HEAD, framework="pt") as file:
            facts = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys() if name != "head.bias" or change != "part"}
        if change == "backbone":
            facts["backbone"] = "other"
        save_file(tensors, path, metadata=facts)
    with pytest.raises(CheckpointError, match=said):
        read_head(path)
    with pytest.raises(CheckpointError):
        MatryoshkaEncoder(tmp_path / "absent.safetensors").encode_documents(["text"])

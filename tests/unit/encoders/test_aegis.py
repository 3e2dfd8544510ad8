"""AegisEncoder against transformers and sentence-transformers, on small random weights."""

import numpy as np
import pytest

from agent_memory.encoders import AegisEncoder, SentenceTransformerEncoder
from agent_memory.errors import CheckpointError, InvalidInputError, ModelNotFoundError

TEXTS = ["the cat sat on the mat.", "a", "where is the cat?", "", "numbers 12345 and words " * 6]


def reference(folder, texts, layers, dimension, norm=True):
    """Hidden states of the full model, one text at a time: no padding, no shortening."""
    import torch
    from transformers import AutoTokenizer, ModernBertModel

    model = ModernBertModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    depth = model.config.num_hidden_layers
    caught = {}
    model.layers[layers - 1].register_forward_hook(
        lambda _m, _i, out: caught.update(state=out[0] if isinstance(out, tuple) else out)
    )
    rows = []
    for text in texts:
        with torch.no_grad():
            model(**tokenizer(text, return_tensors="pt"))
            state = caught["state"].reshape(1, -1, model.config.hidden_size)
            state = model.final_norm(state) if norm or layers == depth else state
        row = state[0].mean(0)[:dimension].numpy()
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


@pytest.mark.parametrize("layers", [6, 3, 1])
@pytest.mark.parametrize("norm", [True, False])
def test_every_depth_equals_the_full_model_stopped_there(modernbert, layers, norm):
    encoder = AegisEncoder(modernbert, dimension=64, layers=layers, final_norm=norm)
    vectors = encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(vectors, reference(modernbert, TEXTS, layers, 64, norm), atol=3e-6)


def test_full_depth_equals_sentence_transformers(modernbert):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(modernbert), device="cpu", truncate_dim=64)
    expected = model.encode(TEXTS, normalize_embeddings=True)
    encoder = AegisEncoder(modernbert, dimension=64, layers=6)
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), expected, atol=3e-6)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), expected, atol=3e-6)
    whole = SentenceTransformerEncoder(modernbert)
    assert whole.spec.dimension == 96
    np.testing.assert_allclose(
        whole.encode_documents(TEXTS),
        SentenceTransformer(str(modernbert), device="cpu").encode(TEXTS),
        atol=3e-6,
    )


def test_padding_and_order_do_not_matter(modernbert):
    encoder = AegisEncoder(modernbert, dimension=64, layers=6)
    texts = [f"text {i} " + "abc " * (7 * i % 23) for i in range(24)]
    together = encoder.encode_documents(texts)
    alone = np.concatenate([encoder.encode_documents([t]) for t in texts])
    np.testing.assert_allclose(together, alone, atol=3e-6)
    np.testing.assert_allclose(encoder.encode_documents(texts[::-1])[::-1], together, atol=3e-6)


def test_longer_than_the_window_is_pooled_over_windows(modernbert):
    encoder = AegisEncoder(modernbert, dimension=64, layers=6, max_tokens=32)
    parts = ["abcdefghijklmnopqrstuvwxyz0123", "zyxwvutsrqponmlkjihgfedcba9876"]
    unit = encoder.encode_documents(parts)
    expected = unit.sum(0) / np.linalg.norm(unit.sum(0))
    np.testing.assert_allclose(encoder.encode_documents(["".join(parts)])[0], expected, atol=3e-6)


def test_bf16_stays_close(modernbert):
    full = AegisEncoder(modernbert, dimension=64, layers=6)
    half = AegisEncoder(modernbert, dimension=64, layers=6, precision="bf16")
    cosines = (full.encode_documents(TEXTS) * half.encode_documents(TEXTS)).sum(1)
    assert cosines.min() > 0.995


def test_mixed_depths_only_on_request(modernbert):
    with pytest.raises(InvalidInputError, match="6 layers and queries at 3"):
        AegisEncoder(modernbert, dimension=64, layers=6, query_layers=3)
    mixed = AegisEncoder(modernbert, dimension=64, layers=6, query_layers=3, allow_mixed_layers=True)
    np.testing.assert_allclose(mixed.encode_documents(TEXTS), reference(modernbert, TEXTS, 6, 64), atol=3e-6)
    np.testing.assert_allclose(mixed.encode_queries(TEXTS), reference(modernbert, TEXTS, 3, 64), atol=3e-6)
    assert mixed.spec.fingerprint != AegisEncoder(modernbert, dimension=64, layers=6).spec.fingerprint


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dimension": 100}, "100"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"max_tokens": 40_000}, "40000"),
        ({"precision": "int8"}, "int8"),
    ],
)
def test_wrong_options_are_refused_at_once(modernbert, wrong, said):
    with pytest.raises(InvalidInputError, match=said):
        AegisEncoder(modernbert, **wrong)


def test_what_the_model_cannot_give_is_refused(modernbert):
    with pytest.raises(InvalidInputError, match="6 layers, fewer than 22"):
        AegisEncoder(modernbert, dimension=64).encode_documents(["text"])
    with pytest.raises(InvalidInputError, match="96 dimensions, fewer than 256"):
        AegisEncoder(modernbert, dimension=256, layers=6).encode_documents(["text"])


def test_fingerprint_tells_depths_and_weights_apart(modernbert):
    prints = {
        AegisEncoder(modernbert, dimension=64, layers=n, final_norm=norm).spec.fingerprint
        for n in (6, 3)
        for norm in (True, False)
    }
    assert len(prints) == 4


def test_absent_and_foreign_models(tmp_path, monkeypatch):
    from agent_memory.encoders import load_encoder
    from agent_memory.encoders.files import find_minilm

    monkeypatch.setenv("AGENT_MEMORY_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="agent-memory models pull aegis"):
        load_encoder("aegis")
    with pytest.raises(CheckpointError, match="bert model, expected modernbert"):
        AegisEncoder(find_minilm(), dimension=64).encode_documents(["text"])

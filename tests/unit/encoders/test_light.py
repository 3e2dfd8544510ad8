"""The network without torch against torch's: the same vectors, whatever the texts, and when which of them is used."""

import math

import numpy as np
import pytest
from support import python

from agent_memory.encoders import MatryoshkaEncoder, MiniLMEncoder
from agent_memory.encoders.static import runtime
from agent_memory.encoders.static.light import gelu, map_tensors, multiply
from agent_memory.errors import CheckpointError

TEXTS = [
    "Alice moved to Berlin in May.",
    "ok",
    "",
    "Wo wohnt Alice? Где живёт Алиса? 爱丽丝住在哪里？",
    "a" * 3000,
    "The quick brown fox jumps over the lazy dog. " * 12,
    "The committee discussed the budget of the harbour. " * 90,
]


@pytest.mark.parametrize("kind", [MiniLMEncoder, MatryoshkaEncoder])
@pytest.mark.parametrize("way", ["encode_documents", "encode_queries"])
def test_its_vectors_are_those_of_torch(kind, way, monkeypatch):
    encoder = kind(precision="fp32")
    monkeypatch.setattr(runtime, "_QUICK", 10**9)
    light = getattr(encoder, way)(TEXTS)
    assert encoder._loaded is None
    monkeypatch.setattr(runtime, "_QUICK", -1)
    monkeypatch.setattr(runtime, "_WORTH", -1)
    heavy = getattr(encoder, way)(TEXTS)
    assert encoder._loaded is not None
    np.testing.assert_allclose(light, heavy, atol=2e-6)
    automatic = kind()
    assert automatic.spec == encoder.spec
    assert (getattr(automatic, way)(TEXTS) * light).sum(1).min() > 0.9999


def test_a_short_text_has_the_same_bits_whatever_was_encoded_before(monkeypatch):
    monkeypatch.setitem(runtime.sys.modules, "torch", None)  # as in a process that has not imported it
    encoder = MiniLMEncoder()
    before = encoder.encode_queries(["Where does Alice live?"])
    assert encoder._loaded is None
    monkeypatch.undo()
    encoder.encode_documents([f"note {number}: " + "word " * 50 for number in range(200)])
    assert encoder._loaded is not None
    np.testing.assert_array_equal(encoder.encode_queries(["Where does Alice live?"]), before)
    assert encoder._loaded is not encoder._light


def test_torch_is_loaded_when_it_pays(monkeypatch):
    loads = []
    encoder = MiniLMEncoder()
    monkeypatch.setattr(encoder, "_load_heavy", lambda: (loads.append(1), encoder._load_light())[1])
    monkeypatch.delitem(runtime.sys.modules, "torch", raising=False)
    text = "word " * 198  # 200 tokens
    for _ in range(20):
        encoder.encode_documents([text])
    assert not loads
    encoder.encode_documents([text])
    assert loads == [1]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_precisions_that_only_torch_has_do_without_it(precision):
    encoder = MiniLMEncoder(precision=precision)
    encoder.encode_queries(["a question"])
    assert encoder._loaded is encoder._light is not None


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 45, 100])
@pytest.mark.parametrize(("outputs", "inputs"), [(384, 384), (1536, 384), (384, 1536), (16, 384), (7, 300)])
def test_products_that_are_cut_are_whole(rows, outputs, inputs):
    rng = np.random.default_rng(rows)
    x, weight = (rng.normal(size=(count, inputs)).astype(np.float32) for count in (rows, outputs))
    np.testing.assert_allclose(multiply(x, weight), x.astype(np.float64) @ weight.T, rtol=1e-4, atol=1e-3)


def test_gelu_is_that_of_the_error_function():
    x = np.concatenate([np.linspace(-12, 12, 4001), [0, 1e-30, -1e-30]]).astype(np.float32)
    expected = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(gelu(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"12",
        b"\xff" * 100,
        (9).to_bytes(8, "little") + b"[1, 2, 3]",
        (4).to_bytes(8, "little") + b"null",
        (64).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'.ljust(64),
    ],
)
def test_files_that_cannot_be_mapped_are_refused(tmp_path, content):
    (tmp_path / "some.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="some.safetensors"):
        map_tensors(tmp_path / "some.safetensors")


def test_a_forged_header_is_refused_by_the_digest_of_the_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="SHA-256"):
        MatryoshkaEncoder(folder=tmp_path).encode_queries(["a question"])


TOGETHER = """
import sys, threading
from agent_memory.encoders import MatryoshkaEncoder
sys.setswitchinterval(1e-6)
encoder, begin, wrong = MatryoshkaEncoder(), threading.Barrier(8), []
def encode(number):
    begin.wait()
    try:
        encoder.encode_queries([f"question {number}"])
        encoder.encode_documents([f"answer {number}"])
    except Exception as error:
        wrong.append(error)
threads = [threading.Thread(target=encode, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(wrong)
"""


def test_threads_that_encode_first_at_once_do_not_disturb_each_other():
    child = python(TOGETHER)
    output, errors = child.communicate(timeout=120)
    assert output == "[]\n", output + errors

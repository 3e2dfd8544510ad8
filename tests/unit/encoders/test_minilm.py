"""The installed MiniLM against sentence-transformers, and what happens when things go wrong."""

import hashlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from agent_memory.encoders import (
    Encoder,
    MatryoshkaEncoder,
    MiniLMEncoder,
    SentenceTransformerEncoder,
    files,
    load_encoder,
    resources,
)
from agent_memory.encoders.files import MINILM_SHA256, find_minilm
from agent_memory.encoders.static.minilm import verify_beside
from agent_memory.encoders.static.runtime import Loaded
from agent_memory.errors import CheckpointError, EncoderError, InvalidInputError, ModelNotFoundError

TEXTS = [
    "Alice moved to Berlin in May.",
    "ok",
    "",
    "Where does Alice live?",
    "The quick brown fox jumps over the lazy dog. " * 12,
]


@pytest.fixture(scope="module")
def minilm():
    return MiniLMEncoder(precision="fp32")


@pytest.fixture(scope="module")
def through_library():
    return SentenceTransformerEncoder(find_minilm())


def test_equals_sentence_transformers(minilm, through_library):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_minilm()), device="cpu")
    expected = model.encode(TEXTS, normalize_embeddings=True)
    for encoder in (minilm, through_library):
        vectors = encoder.encode_documents(TEXTS)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=2e-6)
        np.testing.assert_allclose(encoder.encode_queries(TEXTS[:2]), expected[:2], atol=2e-6)


@pytest.mark.parametrize(("precision", "least"), [("auto", 0.9999), ("bf16", 0.9999), ("int8", 0.97)])
def test_lower_precision_stays_close(minilm, precision, least):
    other = MiniLMEncoder(precision=precision)
    cosines = (minilm.encode_documents(TEXTS) * other.encode_documents(TEXTS)).sum(1)
    assert cosines.min() > least


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_packed_products(minilm, precision, monkeypatch):
    import torch

    def missing(*_):
        raise RuntimeError("no such operator")

    packed = MiniLMEncoder(precision=precision).encode_documents(TEXTS)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", missing)
    monkeypatch.setattr(resources, "_SHARED", {})  # a network that others share was packed before
    plain = MiniLMEncoder(precision=precision).encode_documents(TEXTS)
    assert (packed * plain).sum(1).min() > (0.999999 if precision == "fp32" else 0.9999)


def test_products_that_train_are_differentiable():
    import torch

    from agent_memory.encoders.static.linear import make_linear

    weight, x = torch.randn(8, 4), torch.randn(3, 4, requires_grad=True)
    make_linear(weight, torch.zeros(8), "fp32", trainable=True)(x).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 4))
    with pytest.raises(InvalidInputError, match="int8"):
        make_linear(weight, torch.zeros(8), "int8", trainable=True)


def test_precision_decides_whether_vectors_may_meet():
    fingerprints = {p: MiniLMEncoder(precision=p).spec.fingerprint for p in ("auto", "fp32", "bf16", "int8")}
    assert fingerprints["auto"] == fingerprints["fp32"] == fingerprints["bf16"] != fingerprints["int8"]
    with pytest.raises(InvalidInputError, match="fp64"):
        MiniLMEncoder(precision="fp64")


def test_int8_vectors_never_meet_those_of_products_that_were_cut_off():
    # What the fingerprints were while products saturated on some processors.
    before = {"3dc06b5c2990905e7d74a32b8e5a169b", "ab391a2af4de6016dc8797420c7383e3"}
    now = {kind(precision="int8").spec.fingerprint for kind in (MiniLMEncoder, MatryoshkaEncoder)}
    assert len(now) == 2
    assert not now & before


def test_an_int8_vector_hardly_depends_on_its_batch():
    encoder = MiniLMEncoder(precision="int8")
    alone = np.concatenate([encoder.encode_documents([text]) for text in TEXTS])
    assert (alone * encoder.encode_documents(TEXTS)).sum(1).min() > 0.995


def test_another_instruction_set_gives_the_same_vectors(minilm, tmp_path):
    code = (
        "import sys, numpy as np; from agent_memory.encoders import MiniLMEncoder;"
        "np.save(sys.argv[1], [MiniLMEncoder(precision=p).encode_documents(sys.argv[2:]) for p in ('fp32', 'int8')])"
    )
    # Without these, torch and oneDNN take the widest instructions that the processor has.
    narrow = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    command = [sys.executable, "-c", code, str(tmp_path / "vectors.npy"), *TEXTS]
    subprocess.run(command, check=True, env=os.environ | narrow)
    full, rounded = np.load(tmp_path / "vectors.npy")
    np.testing.assert_allclose(full, minilm.encode_documents(TEXTS), atol=2e-6)
    assert (rounded * MiniLMEncoder(precision="int8").encode_documents(TEXTS)).sum(1).min() > 0.99


def test_end_of_a_long_text_is_not_lost(minilm):
    filler = "The committee discussed the budget of the harbour. " * 60
    with_end, without = minilm.encode_documents([filler + "Penguins love frozen herring." * 8, filler])
    query = minilm.encode_queries(["What do penguins eat?"])[0]
    assert with_end @ query > without @ query + 0.02


def test_order_and_batches_do_not_matter(minilm):
    many = [f"note {i}: " + "word " * (i * 37 % 90) for i in range(120)]
    seen = []
    vectors = minilm.encode_documents(many, progress=lambda done, total: seen.append((done, total)))
    alone = np.concatenate(
        [MiniLMEncoder(precision="fp32", token_budget=1).encode_documents([many[i]]) for i in (0, 57)]
    )
    np.testing.assert_allclose(vectors[[0, 57]], alone, atol=5e-6)
    np.testing.assert_allclose(minilm.encode_documents(many[::-1])[::-1], vectors, atol=5e-6)
    assert seen[-1] == (120, 120)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_threads_share_one_load():
    encoder = MiniLMEncoder()
    loads, results = [], []
    light, heavy = encoder._load_light, encoder._load
    encoder._load_light = lambda: (loads.append("light"), light())[1]
    encoder._load = lambda: (loads.append("heavy"), heavy())[1]
    text = "same text " * 60
    threads = [threading.Thread(target=lambda: results.append(encoder.encode_documents([text]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["light", "heavy"]
    assert len(results) == 4
    for vector in results:
        np.testing.assert_allclose(vector, results[0], atol=1e-6)


def test_empty_list_and_wrong_input(minilm):
    assert minilm.encode_documents([]).shape == (0, 384)
    with pytest.raises(InvalidInputError, match="one str"):
        minilm.encode_documents("a bare string")
    with pytest.raises(InvalidInputError, match=r"texts\[1\].*int"):
        minilm.encode_documents(["fine", 3])
    for texts in ({"a": 1}, {"a"}, (each for each in ["a"]), None, 5):
        with pytest.raises(InvalidInputError, match="must be a list of strings"):
            minilm.encode_documents(texts)
    for encode in (minilm.encode_documents, minilm.encode_queries):
        with pytest.raises(InvalidInputError, match=r"texts\[1\] is not valid Unicode"):
            encode(["fine", "half a \ud83d"])


def test_damaged_weights_are_refused_by_digest(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    with pytest.raises(CheckpointError) as caught:
        MiniLMEncoder(tmp_path).encode_documents(["text"])
    assert MINILM_SHA256 in str(caught.value)
    assert "found" in str(caught.value)


def test_weights_that_were_verified_early_are_not_read_again_unless_they_changed(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"some weights")
    digest, read = hashlib.sha256(b"some weights").hexdigest(), []
    monkeypatch.setattr(files, "MINILM_SHA256", digest)
    monkeypatch.setattr(files, "find_minilm", lambda: tmp_path)
    monkeypatch.setattr(
        files, "hash_file", lambda path: read.append(path) or hashlib.sha256(path.read_bytes()).hexdigest()
    )
    files.begin_to_verify_minilm()
    assert verify_beside(path, digest, lambda: "loaded") == "loaded" and read == [path]
    assert verify_beside(path, digest, lambda: "loaded") == "loaded" and read == [path] * 2
    files.begin_to_verify_minilm()
    path.write_bytes(b"others")
    with pytest.raises(CheckpointError, match="damaged"):
        verify_beside(path, digest, lambda: "loaded")
    files.begin_to_verify_minilm()
    with pytest.raises(CheckpointError, match="damaged"):
        verify_beside(path, digest, lambda: "loaded")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_verifies_what_its_parent_had_begun_to(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"damaged")
    begun, go = threading.Event(), threading.Event()

    def hash_slowly(path):
        begun.set()
        go.wait()
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(files, "hash_file", hash_slowly)
    verification = files.Verification(path, "0" * 64)
    begun.wait()
    child = os.fork()
    if not child:
        go.set()
        try:
            verification.finish()
        except CheckpointError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    go.set()
    with pytest.raises(CheckpointError, match="damaged"):
        verification.finish()


def test_vectors_that_are_not_numbers_are_refused(minilm):
    real = minilm.load()

    class Broken(MiniLMEncoder):
        def _load_light(self):
            return Loaded(real.tokenizer, real.frame, lambda ids, mask: np.full((len(ids), 384), np.nan, np.float32))

    with pytest.raises(EncoderError, match="not finite"):
        Broken().encode_documents(["text"])


def test_importing_loads_no_model_library():
    code = (
        "import sys, agent_memory, agent_memory.encoders as e; e.load_encoder('minilm').spec.fingerprint;"
        "bad = {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_load_encoder_by_name_folder_and_object(minilm):
    assert load_encoder("minilm").spec == minilm.spec
    assert load_encoder(minilm) is minilm
    assert isinstance(load_encoder(None), Encoder)
    assert load_encoder(None).spec == load_encoder("default").spec
    assert load_encoder(find_minilm()).spec.dimension == 384
    assert load_encoder(str(find_minilm())).spec.max_tokens == 256


@pytest.mark.parametrize("wrong", [3, object(), MiniLMEncoder, "", "  "])
def test_load_encoder_refuses_what_is_no_encoder(wrong):
    with pytest.raises(InvalidInputError, match="encoder must"):
        load_encoder(wrong)


def test_absent_models_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_MEMORY_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="agent-memory models pull mpnet"):
        load_encoder("mpnet")
    with pytest.raises(ModelNotFoundError, match="agent-memory models pull nobody/nothing"):
        load_encoder("nobody/nothing")
    with pytest.raises(ModelNotFoundError, match=r"neither a folder"):
        load_encoder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_encoder(tmp_path / "empty")

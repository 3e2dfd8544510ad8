"""EvoEmbedding against the reference's outputs and a slow, obvious oracle."""

import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from unit.encoders.test_evoembedding_files import BODY, QWEN3, SPECIALS, WORDS, random_weights, write_checkpoint

from agent_memory.encoders.evo.model import EvoEmbeddingModel
from agent_memory.encoders.evo.segments import plan_batches, plan_chunks
from agent_memory.encoders.evo.text import END_ID, PREFIX_IDS, QUERY_PREFIX

GOLDEN = Path(__file__).parents[2] / "format" / "data" / "evoembedding-tiny.tar.xz"
CAPACITY = 512
LATENTS = 16
END = SPECIALS.index("<|endoftext|>")
PREFIX = [WORDS.index(c) if c in WORDS else WORDS.index("[UNK]") for c in QUERY_PREFIX]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_parity_with_the_reference(tmp_path):
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "evoembedding-tiny"
    inputs = json.loads((folder / "inputs.json").read_text())
    model = EvoEmbeddingModel.from_pretrained(folder)
    assert model.tokenizer is None and (END_ID, len(PREFIX_IDS)) == (151643, 19)
    history, query = model.embed_token_ids(**inputs)
    with np.load(folder / "expected.npz") as want:
        assert history.shape == want["history"].shape and history.dtype == query.dtype == np.float32
        # The reference's own rounding is 1e-7; 0.99999 would let its rounded frequencies go unnoticed.
        assert (history * want["history"]).sum(1).min() > 1 - 1e-6
        assert query @ want["query"] > 1 - 1e-6
        np.testing.assert_allclose(10 * history @ query, want["scores"], atol=1e-5)


class Oracle:
    """The rules one after the other: weights merged per adapter, one row at a time, no padding, no mask."""

    def __init__(self, weights, base, latents, capacity, scale=2.0):
        import torch
        from transformers import AutoConfig, AutoModel

        self.weights, self.latents, self.capacity = weights, latents, capacity
        self.models = {}
        for adapter in ("memory_generator", "retriever"):
            model = AutoModel.from_config(AutoConfig.for_model(**base)).eval()
            state = {}
            for name in model.state_dict():
                path = name.removesuffix(".weight")
                if f"{BODY}{path}.base_layer.weight" in weights:
                    down = weights[f"{BODY}{path}.lora_A.{adapter}.weight"]
                    up = weights[f"{BODY}{path}.lora_B.{adapter}.weight"]
                    state[name] = weights[f"{BODY}{path}.base_layer.weight"] + scale * up @ down
                else:
                    state[name] = weights[BODY + name]
            model.load_state_dict(state)
            model.rotary_emb.inv_freq = model.rotary_emb.inv_freq.to(torch.bfloat16).float()
            self.models[adapter] = model

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def hidden(self, adapter, x):
        return self.models[adapter](inputs_embeds=x[None]).last_hidden_state[0]

    def tokens(self, ids):
        import torch

        return self.weights[f"{BODY}embed_tokens.weight"][torch.tensor(ids)]

    def embed(self, ids, memory):
        import torch

        seen = self.linear("mem_to_latent.0", memory[-self.capacity :])
        h = self.hidden("retriever", torch.cat((seen, self.tokens([*ids, END]))))[-1]
        z = self.linear("mem_to_emb.0", self.linear("latent_to_mem.0", h).relu()).relu()
        out = self.linear("mem_to_emb.2", z)
        return (out / out.norm()).numpy()

    def chunks(self, segments, most):
        out = []
        for i, ids in enumerate(segments):
            if out and len(out[-1]) < most and sum(len(segments[j]) for j in out[-1]) + len(ids) <= 2048:
                out[-1].append(i)
            else:
                out.append([i])
        return out

    def run(self, written, embedded, query, most=16):
        import torch

        history = []
        memory = torch.empty(0, self.weights["memory_queries"].shape[2])
        with torch.no_grad():
            for chunk in self.chunks(written, most):
                x = self.linear("mem_to_latent.0", memory[-self.capacity :])
                blocks = []
                for i in chunk:
                    x = torch.cat((x, self.tokens(written[i]), self.weights["memory_queries"][0]))
                    blocks.append(slice(len(x) - self.latents, len(x)))
                h = self.hidden("memory_generator", x)
                for i, block in zip(chunk, blocks, strict=True):
                    history.append(self.embed(embedded[i], memory))
                    memory = torch.cat((memory, self.linear("latent_to_mem.0", h[block]).relu()))
            return np.stack(history), self.embed([*PREFIX, *query], memory)


def rows(rng, sizes):
    return [rng.integers(4, len(WORDS), size).tolist() for size in sizes]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model with the published 16 latents and queue of 512, and its oracle."""
    weights = random_weights(QWEN3, LATENTS)
    folder = tmp_path_factory.mktemp("evo") / "model"
    write_checkpoint(folder, capacity=CAPACITY, latents=LATENTS, weights=weights)
    return EvoEmbeddingModel.from_pretrained(folder), Oracle(weights, QWEN3, LATENTS, CAPACITY)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([7], id="one segment"),
        pytest.param([1 + i % 9 for i in range(41)], id="queue overflow and three chunks of segments"),
        pytest.param([1000, 1048, 1, 1300, 700, 48, 900], id="chunks full to the token, and one over"),
        pytest.param([5, 2600, 5, 2048, 3], id="segments longer than a chunk"),
    ],
)
def test_the_rules_of_the_reference(pair, sizes):
    model, oracle = pair
    rng = np.random.default_rng(len(sizes))
    session = rows(rng, sizes), rows(rng, [max(1, size - 3) for size in sizes]), rows(rng, [6])[0]
    history, query = model.embed_token_ids(*session)
    want, asked = oracle.run(*session)
    np.testing.assert_allclose(history, want, atol=1e-5)
    np.testing.assert_allclose(query, asked, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(history, axis=1), 1, atol=1e-6)


def test_a_queue_that_is_no_multiple_of_the_latents(tmp_path):
    weights = random_weights(QWEN3, 3)
    folder = write_checkpoint(tmp_path / "evo", capacity=7, latents=3, weights=weights)
    rng = np.random.default_rng(5)
    session = rows(rng, [4, 9, 2, 30, 5, 6]), rows(rng, [3, 8, 2, 11, 40, 5]), [9, 8]
    for most in (16, 2, 1):
        got = EvoEmbeddingModel.from_pretrained(folder).embed_token_ids(*session, chunk_segments=most)
        want = Oracle(weights, QWEN3, 3, 7).run(*session, most=most)
        np.testing.assert_allclose(got[0], want[0], atol=1e-5)
        np.testing.assert_allclose(got[1], want[1], atol=1e-5)


def test_streaming_equals_chunks_of_one_and_differs_from_longer_chunks(pair):
    model, _ = pair
    rng = np.random.default_rng(2)
    written, embedded, query = rows(rng, range(3, 39)), rows(rng, range(38, 2, -1)), [7, 8, 9]
    history, last = model.embed_token_ids(written, embedded, query, chunk_segments=1)
    memory = model.empty_memory()
    for one, other, want in zip(written, embedded, history, strict=True):
        vector, latents = model.embed_segment_ids(one, other, memory)
        assert latents.shape == (LATENTS, 32) and latents.dtype == np.float32
        np.testing.assert_allclose(vector, want, atol=1e-5)
        memory = memory.append(latents)
    assert len(memory) == CAPACITY < 36 * LATENTS
    np.testing.assert_allclose(model.embed_query_ids(query, memory), last, atol=1e-5)
    chunked, _ = model.embed_token_ids(written, embedded, query)
    # The first two are read with at most one segment written, which chunks do not change.
    np.testing.assert_allclose(chunked[:2], history[:2], atol=1e-5)
    assert np.abs(chunked - history).max() > 1e-3


def test_threads_share_a_model(pair):
    model, _ = pair
    rng = np.random.default_rng(4)
    sessions = [(rows(rng, [9, 5]), rows(rng, [4, 6]), rows(rng, [3])[0]) for _ in range(12)]
    want = [model.embed_token_ids(*session) for session in sessions]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda session: model.embed_token_ids(*session), sessions))
    for (history, query), (history_alone, query_alone) in zip(got, want, strict=True):
        np.testing.assert_allclose(history, history_alone, atol=1e-6)
        np.testing.assert_allclose(query, query_alone, atol=1e-6)


def test_chunks_and_batches_are_greedy():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, rng.choice([20, 400, 3000]), rng.integers(1, 60)).tolist()
        chunks = plan_chunks(sizes)
        assert [i for chunk in chunks for i in chunk] == list(range(len(sizes)))
        assert chunks == [range(c[0], c[-1] + 1) for c in Oracle.chunks(None, [[0] * n for n in sizes], 16)]
        batches = plan_batches(sizes)
        assert [i for batch in batches for i in batch] == list(range(len(sizes)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= 2048
            taken = sizes[batch.start : batch.stop + 1]
            assert batch.stop == len(sizes) or len(taken) * max(taken) > 2048
    assert plan_chunks([]) == plan_batches([]) == []

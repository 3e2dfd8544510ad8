"""Checkpoints of EvoEmbedding: the published layout, and what is refused."""

import json

import numpy as np
import pytest

from agent_memory.encoders.evo.model import EvoEmbeddingModel
from agent_memory.errors import CheckpointError, InvalidInputError, ModelNotFoundError

BODY = "model.base_model.model.model."
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTERS = ("memory_generator", "retriever")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = [*SPECIALS, "[UNK]", *"abcdefghijklmnopqrstuvwxyzUAIQ:.,\n"]
QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
QWEN35 = QWEN3 | {
    "model_type": "qwen3_5_text",
    "num_hidden_layers": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def random_weights(base, latents=2, rank=3, dimension=12):
    """Random weights under the published keys, written from the list of keys alone."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(7)
    config = AutoConfig.for_model(**base)
    hidden = config.hidden_size
    weights = {"memory_queries": torch.randn(1, latents, hidden) * 0.5}
    for name, value in AutoModel.from_config(config).state_dict().items():
        path, _, kind = name.rpartition(".")
        # Small random matrices hardly mix tokens; larger ones make a wrong mask or position visible.
        value = value + torch.randn_like(value) * 0.15
        if path.endswith(TARGETS):
            weights[f"{BODY}{path}.base_layer.{kind}"] = value
            out, into = value.shape
            for adapter in ADAPTERS:
                weights[f"{BODY}{path}.lora_A.{adapter}.weight"] = torch.randn(rank, into) * 0.2
                weights[f"{BODY}{path}.lora_B.{adapter}.weight"] = torch.randn(out, rank) * 0.2
        else:
            weights[BODY + name] = value
    shapes = {"latent_to_mem.0": (hidden, hidden), "mem_to_latent.0": (hidden, hidden)}
    shapes |= {"mem_to_emb.0": (dimension, hidden), "mem_to_emb.2": (dimension, dimension)}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.eye(*shape) + torch.randn(shape) * 0.3
        weights[f"{name}.bias"] = torch.randn(shape[0]) * 0.1
    return weights


def write_checkpoint(folder, base=QWEN3, capacity=8, rank=3, tokenizer=True, weights=None, **facts):
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    latents = facts.pop("latents", 2)
    config = {"model_type": "EvoRAG", "base_model_name_or_path": "nowhere/base", "num_latents": latents}
    config |= {"buffer_capacity": capacity, "lora_r": rank, "lora_alpha": 2 * rank}
    (folder / "config.json").write_text(json.dumps(config | facts))
    (folder / "base_config.json").write_text(json.dumps(base))
    save_file(weights or random_weights(base, latents, rank), folder / "model.safetensors")
    if tokenizer:
        write_tokenizer(folder)
    return folder


def write_tokenizer(folder):
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def session():
    rng = np.random.default_rng(3)
    rows = [rng.integers(4, len(WORDS), size).tolist() for size in (5, 9, 3, 12, 4)]
    return rows, rows[::-1], [5, 6, 7]


@pytest.fixture(scope="module")
def weights():
    return random_weights(QWEN3)


def same(a, b):
    # Not bit for bit: where a file lays the weights out decides which kernels the processor takes.
    return all(np.allclose(x, y, rtol=0, atol=2e-6) for x, y in zip(a, b, strict=True))


def test_shards_mixed_dtypes_and_unused_weights_make_no_difference(tmp_path, weights, session):
    import torch
    from safetensors.torch import save_file

    # Rounded first, so that storing a part in half the bytes loses nothing.
    weights = {key: value.bfloat16().float() for key, value in weights.items()}
    want = EvoEmbeddingModel.from_pretrained(write_checkpoint(tmp_path / "one", weights=weights))
    folder = write_checkpoint(tmp_path / "many", weights=weights)
    (folder / "model.safetensors").unlink()
    mixed = {key: value.bfloat16() if key.startswith(BODY) else value for key, value in weights.items()}
    mixed["emb_model.layers.0.weight"] = mixed["model.base_model.model.lm_head.weight"] = torch.zeros(3, 3)
    keys = sorted(mixed)
    parts = {f"model-0000{i}-of-00003.safetensors": {k: mixed[k] for k in keys[i::3]} for i in range(3)}
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    got = EvoEmbeddingModel.from_pretrained(folder)
    assert same(got.embed_token_ids(*session), want.embed_token_ids(*session))


def test_bfloat16_is_close(tmp_path, weights, session):
    folder = write_checkpoint(tmp_path / "evo", weights=weights)
    full, _ = EvoEmbeddingModel.from_pretrained(folder).embed_token_ids(*session)
    half, query = EvoEmbeddingModel.from_pretrained(folder, dtype="bfloat16").embed_token_ids(*session)
    assert half.dtype == query.dtype == np.float32
    assert (full * half).sum(1).min() > 0.99


@pytest.mark.parametrize("where", ["inside", "absolute"])
def test_the_base_configuration_of_a_local_base_model(tmp_path, weights, session, where):
    folder = write_checkpoint(tmp_path / "evo", weights=weights)
    want = EvoEmbeddingModel.from_pretrained(folder).embed_token_ids(*session)
    base = (folder if where == "inside" else tmp_path) / "base"
    base.mkdir()
    (folder / "base_config.json").rename(base / "config.json")
    config = json.loads((folder / "config.json").read_text())
    config["base_model_name_or_path"] = "base" if where == "inside" else str(base)
    (folder / "config.json").write_text(json.dumps(config))
    assert same(EvoEmbeddingModel.from_pretrained(folder).embed_token_ids(*session), want)


def test_qwen35_bases_and_their_multimodal_configuration(tmp_path, session):
    weights = random_weights(QWEN35)
    folder = write_checkpoint(tmp_path / "text", QWEN35, weights=weights)
    model = EvoEmbeddingModel.from_pretrained(folder)
    history, query = model.embed_token_ids(*session, chunk_segments=1)
    memory = model.empty_memory()
    for written, embedded, row in zip(*session[:2], history, strict=True):
        vector, latents = model.embed_segment_ids(written, embedded, memory)
        np.testing.assert_allclose(vector, row, atol=1e-5)
        memory = memory.append(latents)
    np.testing.assert_allclose(model.embed_query_ids(session[2], memory), query, atol=1e-5)
    renamed = {key.replace(BODY, BODY + "language_model."): value for key, value in weights.items()}
    base = {"model_type": "qwen3_5", "text_config": QWEN35}
    other = EvoEmbeddingModel.from_pretrained(write_checkpoint(tmp_path / "multi", base, weights=renamed))
    assert same(other.embed_token_ids(*session, chunk_segments=1), (history, query))


def test_what_is_not_there(tmp_path, weights):
    with pytest.raises(ModelNotFoundError, match="absent"):
        EvoEmbeddingModel.from_pretrained(tmp_path / "absent")
    folder = write_checkpoint(tmp_path / "evo", weights=weights)
    with pytest.raises(InvalidInputError, match="float16"):
        EvoEmbeddingModel.from_pretrained(folder, dtype="float16")
    (folder / "base_config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"nowhere/base.*base_config\.json"):
        EvoEmbeddingModel.from_pretrained(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="names no base model"):
        EvoEmbeddingModel.from_pretrained(folder)


def drop(weights):
    del weights["memory_queries"], weights[f"{BODY}layers.1.mlp.up_proj.lora_B.retriever.weight"]


def add(weights):
    weights[f"{BODY}layers.0.mlp.up_proj.lora_A.third.weight"] = weights["memory_queries"].clone()


def reshape(weights):
    weights["latent_to_mem.0.weight"] = weights["latent_to_mem.0.weight"][:4].clone()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"lacks memory_queries, model\..*layers\.1\.mlp\.up_proj\.lora_B\.retriever"),
        (add, r"unexpected .*lora_A\.third\.weight"),
        (reshape, r"latent_to_mem\.0\.weight is \(4, 32\), expected \(32, 32\)"),
    ],
)
def test_wrong_keys_and_shapes_are_named(tmp_path, weights, damage, message):
    wrong = dict(weights)
    damage(wrong)
    folder = write_checkpoint(tmp_path / "evo", weights=wrong)
    with pytest.raises(CheckpointError, match=message):
        EvoEmbeddingModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"num_latents": 0}'),
        ("config.json", '{"lora_alpha": "8"}'),
        ("config.json", '{"num_latents": 2, "lora_r": 5}'),
        ("base_config.json", '{"model_type": "no-such-model"}'),
        ("base_config.json", '{"model_type": "bert", "hidden_size": 32}'),
        ("model.safetensors", "damaged"),
        ("model.safetensors.index.json", '{"weight_map": {}}'),
        ("model.safetensors.index.json", '{"weight_map": {"memory_queries": "../../elsewhere.safetensors"}}'),
        ("tokenizer.json", "{}"),
    ],
)
def test_damaged_files(tmp_path, weights, name, content):
    folder = write_checkpoint(tmp_path / "evo", weights=weights)
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError):
        EvoEmbeddingModel.from_pretrained(folder)


def test_a_small_vocabulary_needs_its_tokenizer(tmp_path, weights):
    folder = write_checkpoint(tmp_path / "evo", weights=weights, tokenizer=False)
    with pytest.raises(CheckpointError, match="tokenizer"):
        EvoEmbeddingModel.from_pretrained(folder)

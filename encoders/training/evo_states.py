"""A synthetic task for EvoEmbedding's ablations (who is where after several moves), and a model small enough for it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from agent_memory.encoders.evo.checkpoint import EvoSettings
from agent_memory.encoders.evo.load import make_network
from agent_memory.encoders.evo.network import EvoNetwork
from agent_memory.encoders.evo.text import END_TOKEN, QUERY_PREFIX

SUBJECTS = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn")
PLACES = ("Rome", "Oslo", "Lima", "Cairo", "Delhi", "Paris", "Quito", "Tokyo")
_FILLERS = ("rain", "lunch", "music", "traffic", "football", "coffee", "news", "films")
_FRAME = "User: Assistant: user assistant moves to joins likes tell me about where is now ok [UNK]"
_SPECIALS = (END_TOKEN, "<|im_start|>", "<|im_end|>")
_WORDS = list(dict.fromkeys([*_SPECIALS, *_FRAME.split(), *QUERY_PREFIX.split(), *SUBJECTS, *PLACES, *_FILLERS]))

SETTINGS = EvoSettings(num_latents=2, buffer_capacity=2 * 6, lora_r=16, lora_alpha=32)
"""A queue of six segments."""


def make_conversation(rng: random.Random, sizes: tuple[int, int]) -> dict[str, Any]:
    """Make a training record in which people move, or join each other, and the question is where one of them is now.

    The evidence is the turn that last set this person's place. The other turns set the place earlier, only mention the
    person, or are fillers. ``meta.same`` lists all turns that set the place; their wording does not reveal which is the
    last.

    Args:
        rng: Random generator.
        sizes: Minimum and maximum number of segments before the question.

    Returns:
        A record as ``read_records`` expects it.
    """
    while True:
        people, places, at, said = rng.sample(SUBJECTS, 3), dict[str, str](), dict[str, list[int]](), []
        for i in range(rng.randint(*sizes)):
            who, other = rng.sample(people, 2)
            kind = rng.choices(("move", "join", "mention", "filler"), (4, 1, 1, 3))[0]
            if kind == "join" and other not in places:
                kind = "move"
            if kind in ("move", "join"):
                new = rng.choice([place for place in PLACES if place != places.get(who)])
                places[who] = places[other] if kind == "join" else new
                at.setdefault(who, []).append(i)
                said.append(f"{who} joins {other}" if kind == "join" else f"{who} moves to {new}")
            else:
                thing = rng.choice(_FILLERS)
                said.append(f"{who} likes {thing}" if kind == "mention" else f"tell me about {thing}")
        asked = [who for who in sorted(at) if len(at[who]) > 1]
        if asked:
            break
    who = rng.choice(asked)
    exchanges = [(text, "ok") for text in said] + [(f"where is {who} now", places[who])]
    messages = [
        {"role": role, "content": content}
        for pair in exchanges
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    turns = [f"User: {text}\nAssistant: ok" for text in said] + [exchanges[-1][0]]
    return {"messages": messages, "meta": {"turns": turns, "evidence_turns": at[who][-1:], "same": at[who]}}


def write_states(path: Path, count: int, seed: int, sizes: tuple[int, int]) -> dict[str, float]:
    """Write records, one JSON object a line.

    Args:
        path: The file.
        count: Number of records.
        seed: Seed of the records.
        sizes: As in ``make_conversation``.

    Returns:
        The recall@1 of two rules: ``last`` always chooses the last segment, ``same`` chooses at random among those that
        set the place.
    """
    rng = random.Random(seed)
    rows = [make_conversation(rng, sizes) for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    metas = [row["meta"] for row in rows]
    last = sum(meta["evidence_turns"] == [len(meta["turns"]) - 2] for meta in metas)
    return {"last": last / count, "same": sum(1 / len(meta["same"]) for meta in metas) / count}


def write_tokenizer(folder: Path) -> None:
    """Write a ``tokenizer.json`` with the words of the task, split at white space."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))


def make_tiny_network(seed: int) -> EvoNetwork:
    """Build a random two-layer Qwen3 with untrained adapters."""
    from transformers import AutoConfig

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(_WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_theta=10000.0,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.15,  # smaller weights hardly mix tokens, and they bound the logits of the frozen head
    )
    return make_network(config, SETTINGS, dimension=64)

"""The network of EvoEmbedding (arXiv 2606.21649): one frozen language model, two adapters, three projections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from agent_memory.encoders.base import TokenArray
from agent_memory.encoders.evo.segments import CHUNK_SEGMENTS, plan_chunks

GENERATOR = "memory_generator"
RETRIEVER = "retriever"
ADAPTERS = (GENERATOR, RETRIEVER)
_LEAD = 3  # tokens before the memory in the language-model loss
DROPOUT = 0.1
"""Dropout rate of the adapters' inputs, in training only."""

Row: TypeAlias = tuple[TokenArray, torch.Tensor]
"""Token ids, and the projected memory that precedes them, (n, H)."""


class LoraLinear(nn.Module):
    """A frozen linear layer plus the low-rank update of one adapter (LoRA, arXiv 2106.09685).

    Args:
        base: The layer, shared with the other views of the model.
        down: ``lora_A``, (r, in).
        up: ``lora_B``, (out, r).
        scale: Factor of the update, alpha / r.
    """

    def __init__(self, base: nn.Module, down: nn.Parameter, up: nn.Parameter, scale: float) -> None:
        super().__init__()
        self.base, self.down, self.up, self.scale = base, down, up, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        kept = F.dropout(x, DROPOUT, training=self.training)
        out: torch.Tensor = self.base(x) + F.linear(F.linear(kept, self.down), self.up) * self.scale
        return out


class EvoNetwork(nn.Module):
    """Writes segments into latents, and embeds texts with these latents; keeps no state between calls.

    Each adapter has a view of the base model of its own: separate modules over the same base weights. No adapter is
    ever switched on or off, so threads may use both at once, and both can have gradients.

    Args:
        base: The language model without its head and without adapters.
        views: The language model with each adapter, by the adapter's name.
        heads: Memory queries and projections, by their names in the checkpoint.

    Attributes:
        recompute: Use gradient checkpointing in training: recompute activations instead of storing them.
    """

    def __init__(self, base: nn.Module, views: Mapping[str, nn.Module], heads: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.base = base
        self.views = nn.ModuleDict(dict(views))
        self.heads = nn.ParameterDict({escape_name(name): value for name, value in heads.items()})
        self.recompute = False
        self.hidden_size = int(heads["memory_queries"].shape[2])
        self.dimension = int(heads["mem_to_emb.2.weight"].shape[0])
        self.num_latents = int(heads["memory_queries"].shape[1])
        self.vocabulary = int(base.config.vocab_size)  # type: ignore[union-attr, arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and latents."""
        queries: torch.Tensor = self.heads["memory_queries"]
        return queries.dtype

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """Project latents (n, H) into input embeddings of the language model, (n, H): P in the paper."""
        return self._apply_head("mem_to_latent.0", latents)

    def write(self, segments: Sequence[TokenArray], memory: torch.Tensor) -> torch.Tensor:
        """Write a chunk of segments in one causal pass of the memory generator.

        Args:
            segments: Token ids of each segment, none empty. Later segments see the text of earlier ones.
            memory: Projected memory before the chunk, (n, H).

        Returns:
            Latents of each segment, (k, m, H).
        """
        queries = self.heads["memory_queries"][0]
        parts, ends = [memory], []
        end = len(memory)
        for ids in segments:
            parts += [self._embed_tokens(ids), queries]
            end += len(ids) + len(queries)
            ends.append(end)
        inputs = torch.cat(parts)[None]
        hidden = self._run(GENERATOR, inputs, inputs.new_ones(inputs.shape[:2], dtype=torch.long))[0]
        blocks = torch.stack([hidden[end - len(queries) : end] for end in ends])
        return self._apply_phi(blocks)

    def embed(self, rows: Sequence[Row]) -> torch.Tensor:
        """Embed token rows with the retriever, each with its memory.

        Returns:
            float32 (len(rows), d), L2-normalised.
        """
        inputs = [torch.cat((memory, self._embed_tokens(ids))) for ids, memory in rows]
        width = max(len(row) for row in inputs)
        padded = torch.stack([F.pad(row, (0, 0, width - len(row), 0)) for row in inputs])
        mask = torch.stack([F.pad(torch.ones(len(row), dtype=torch.long), (width - len(row), 0)) for row in inputs])
        last = self._apply_phi(self._run(RETRIEVER, padded, mask)[:, -1])
        vectors = self._apply_head("mem_to_emb.2", torch.relu(self._apply_head("mem_to_emb.0", last)))
        return F.normalize(vectors.float(), dim=-1)

    def remember(
        self, written: Sequence[TokenArray], latents: torch.Tensor, capacity: int, segments: int = CHUNK_SEGMENTS
    ) -> Iterator[tuple[range, list[torch.Tensor], torch.Tensor]]:
        """Write a session chunk by chunk.

        Args:
            written: Token ids of each segment.
            latents: The memory before the session, (n, H), n <= capacity.
            capacity: Maximum number of latents in the memory.
            segments: Maximum number of segments in a chunk.

        Yields:
            For each chunk: the positions of its segments, the projected memory before each of them, and the latents
            after the chunk.
        """
        for chunk in plan_chunks([len(row) for row in written], segments):
            new = self.write([written[i] for i in chunk], self.project(latents))
            seen = torch.cat((latents, new.flatten(0, 1)))
            projected = self.project(seen)
            ends = [len(latents) + place * self.num_latents for place in range(len(chunk))]
            latents = seen[-capacity:]
            yield chunk, [projected[max(0, end - capacity) : end] for end in ends], latents

    def compute_answer_loss(self, ids: TokenArray, answer: int, memory: torch.Tensor) -> torch.Tensor:
        """Compute the language-model loss of an answer given the memory, without adapters: L_sft in the paper.

        Args:
            ids: Token ids of the last exchange in ChatML.
            answer: Position of the first token of the answer, > 3; the answer extends to the end.
            memory: Projected memory, (n, H), inserted after the first three tokens.

        Returns:
            Mean cross entropy, a scalar; its gradient reaches the memory generator through the latents.
        """
        tokens = self._embed_tokens(ids)
        inputs = torch.cat((tokens[:_LEAD], memory, tokens[_LEAD:]))[None]
        hidden = self._run(None, inputs, inputs.new_ones(inputs.shape[:2], dtype=torch.long))[0]
        table: Any = self.base.get_input_embeddings()  # type: ignore[operator]
        logits = F.linear(hidden[len(memory) + answer - 1 : -1], table.weight)
        return F.cross_entropy(logits.float(), torch.from_numpy(ids[answer:]))

    def _run(self, adapter: str | None, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        model = self.base if adapter is None else self.views[adapter]

        def run(x: torch.Tensor) -> torch.Tensor:
            out = model(inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=False)
            hidden: torch.Tensor = out.last_hidden_state
            return hidden

        if not (self.training and self.recompute):
            return run(inputs)
        recomputed: torch.Tensor = checkpoint(run, inputs, use_reentrant=False)
        return recomputed

    def _embed_tokens(self, ids: TokenArray) -> torch.Tensor:
        table: Any = self.base.get_input_embeddings()  # type: ignore[operator]
        out: torch.Tensor = table(torch.from_numpy(ids))
        return out

    def _apply_phi(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.relu(self._apply_head("latent_to_mem.0", hidden))

    def _apply_head(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.heads[escape_name(f"{name}.weight")], self.heads[escape_name(f"{name}.bias")])


def escape_name(name: str) -> str:
    """Return a name that ``torch.nn.ParameterDict`` accepts."""
    return name.replace(".", "_")

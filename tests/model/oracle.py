"""transformers in fp32 as the oracle, on the weights that our reader dequantized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from warploom.frontend.checkpoint import open_checkpoint


class Oracle:
    """A transformers Llama with the tensors of a checkpoint, as f32."""

    def __init__(self, model: Path) -> None:
        checkpoint = open_checkpoint(model)
        config = LlamaConfig(**{k: v for k, v in checkpoint.config.items() if v is not None})
        with torch.device("meta"):
            self.model = LlamaForCausalLM(config)
        state = {name: torch.from_numpy(t.load().astype(np.float32)) for name, t in checkpoint.tensors.items()}
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self.model.load_state_dict(state, assign=True)
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(config)  # its buffers are not in the state
        self.model.eval()

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """[len(ids), vocab] of a prompt."""
        output: np.ndarray = self.model(torch.tensor([list(ids)])).logits[0].float().numpy()
        return output

    def check_greedy(self, prompt: Sequence[int], continuation: Sequence[int], tie: float) -> None:
        """Every token is the argmax after those before it, or within `tie` of it (a proven tie)."""
        rows = self.logits([*prompt, *continuation])[len(prompt) - 1 : -1]
        ties = [(i, int(rows[i].argmax()), token) for i, token in enumerate(continuation) if rows[i].argmax() != token]
        gaps = [float(rows[i].max() - rows[i][token]) for i, _, token in ties]
        print(f"{len(prompt)} + {len(continuation)} tokens: {len(ties)} ties, gaps {gaps}")
        assert all(gap <= tie for gap in gaps), ties

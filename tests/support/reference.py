"""What Transformers says about a checkpoint: the truth that the engine is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.support.checkpoints import FAMILIES


class Reference:
    """A checkpoint in Transformers. Answers are remembered, so that every device is judged by the same ones.

    dtype  of the computation; the weights are converted if the checkpoint's is another
    """

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        self.folder = folder
        self.dtype = dtype
        family = FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]
        config = family.config.from_pretrained(folder)
        self.model = family.model.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            experts_implementation="eager",
        ).eval()
        self._greedy: dict[tuple[tuple[int, ...], int], list[int]] = {}
        self._logits: dict[tuple[int, ...], torch.Tensor] = {}

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """The tokens that Transformers generates, end tokens ignored."""
        key = tuple(prompt), num_tokens
        if key not in self._greedy:
            ids = torch.tensor([list(prompt)])
            with torch.inference_mode():
                out = self.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=num_tokens,
                    min_new_tokens=num_tokens,
                    do_sample=False,
                    eos_token_id=-1,
                    pad_token_id=0,
                    use_cache=False,
                )
            self._greedy[key] = out[0, len(prompt) :].tolist()
        return self._greedy[key]

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """[len(tokens), V] f64: logits of what follows each token, from one forward pass without a cache."""
        key = tuple(tokens)
        if key not in self._logits:
            with torch.inference_mode():
                self._logits[key] = self.model(torch.tensor([list(tokens)]), use_cache=False).logits[0].double()
        return self._logits[key]

    def logprobs(self, tokens: Sequence[int]) -> torch.Tensor:
        """[len(tokens), V] f64: log-probabilities of what follows each token."""
        return self.logits(tokens).log_softmax(-1)

"""Random small networks of every family, against Transformers. By hand, not in the suite:

    python -m tests.models.fuzz_families --seconds 300 --seed 0 --family qwen3_moe

Each differs in sizes, heads, windows, layers, biases, ties, norms, positions and their scaling, and in how config.json
says it. What differs from Transformers is printed as a configuration for a test of its own; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.support.checkpoints import FAMILIES, Checkpoints
from tests.support.engines import engine
from tests.support.parity import check_parity, random_prompts
from tests.support.reference import Reference

MAX_POSITION = 300


class Draw:
    """A configuration from a seed: arguments for `Checkpoints.make`."""

    def __init__(self, family: str, seed: int) -> None:
        self._random = random.Random(f"{family} {seed}")
        self._family = family
        self.num_layers = self._of(1, 2, 3, 5)
        kv = self._of(1, 1, 2, 3, 4)
        heads = kv * self._of(1, 2, 3, 5)
        hidden = self._of(24, 40, 50, 64, 72)
        self._dim = self._of(4, 6, 10, 14, 16, 18, 22, 32, 34)
        self.config: dict[str, Any] = {
            "family": family,
            "seed": seed,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": kv,
            "num_attention_heads": heads,
            "head_dim": self._dim,
            "hidden_size": hidden if family == "llama" else -(-hidden // heads) * heads,  # others' configs insist
            "intermediate_size": self._of(16, 37, 64, 100),
            "max_position_embeddings": MAX_POSITION,
            "tie_word_embeddings": self._chance(),
        }
        getattr(self, f"_{family}")()
        if "rope_parameters" not in self.config:
            self._positions()
        if self._chance(0.25):
            # Of Gemma 3's scaling Transformers 5 reads rope_type alone, and takes one that is named by type for none.
            self.config["old_style"] = "rope_type" if family == "gemma3_text" else self._of("rope_type", "type")

    def _of(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _chance(self, share: float = 0.5) -> bool:
        return self._random.random() < share

    def _maybe(self, **fields: Any) -> None:
        for name, value in fields.items():
            if self._chance():
                self.config[name] = value

    def _kinds(self) -> list[str]:
        return [self._of("full_attention", "sliding_attention") for _ in range(self.num_layers)]

    def _window(self) -> int:
        return self._of(1, 3, 11, 16, 33, 200)

    def _eps(self, name: str = "rms_norm_eps") -> None:
        self._maybe(**{name: self._of(1e-6, 1e-5, 1e-3)})

    # ---- positions --------------------------------------------------------------------------------------------------

    def _positions(self, *, dim: int | None = None, none: float = 0.25) -> None:
        if self._chance(none):
            self.config["rope_parameters"] = {"rope_type": "default", "rope_theta": self._of(1e2, 1e4, 5e5)}
            return
        kind = self._of("linear", "dynamic", "llama3", "yarn", "yarn", "longrope")
        rope = {"rope_type": kind, "rope_theta": self._of(1e3, 1e4, 5e5), **getattr(self, f"_{kind}")(dim or self._dim)}
        self.config["rope_parameters"] = rope

    def _linear(self, dim: int) -> dict[str, Any]:
        return {"factor": self._of(1.5, 4.0)}

    def _dynamic(self, dim: int) -> dict[str, Any]:
        return {"factor": self._of(1.5, 4.0)}

    def _llama3(self, dim: int) -> dict[str, Any]:
        low = self._of(0.5, 1.0)
        return {"factor": self._of(2.0, 8.0), "low_freq_factor": low, "high_freq_factor": low * self._of(2.0, 4.0),
                "original_max_position_embeddings": self._of(20, 64)}  # fmt: skip

    def _yarn(self, dim: int) -> dict[str, Any]:
        rope = {"factor": self._of(1.0, 4.0, 16.0), "original_max_position_embeddings": self._of(20, 75)}
        more = {
            "mscale": self._of(0.7, 1.0),
            "mscale_all_dim": self._of(0.5, 1.0),
            "truncate": self._chance(),
            "beta_fast": self._of(8, 32, 64),
            "beta_slow": self._of(1, 2),
            "attention_factor": self._of(0.7, 1.3),
        }
        return rope | {name: value for name, value in more.items() if self._chance(0.4)}

    def _longrope(self, dim: int) -> dict[str, Any]:
        factors = {name: [1 + self._random.random() * 3 for _ in range(dim // 2)]
                   for name in ("short_factor", "long_factor")}  # fmt: skip
        rope = {"original_max_position_embeddings": MAX_POSITION, **factors}
        more = {"factor": self._of(1.0, 4.0), "attention_factor": self._of(0.7, 1.3)}
        return rope | {name: value for name, value in more.items() if self._chance()}

    # ---- families ---------------------------------------------------------------------------------------------------

    def _llama(self) -> None:
        self._maybe(attention_bias=True, mlp_bias=True, hidden_act=self._of("gelu", "gelu_new", "silu"))
        self._eps()

    def _mistral(self) -> None:
        self.config["sliding_window"] = self._of(None, self._window())
        self._maybe(hidden_act="gelu")
        self._eps()

    def _experts(self) -> None:
        count = self._of(1, 2, 3, 6, 9)
        self.config |= {"num_local_experts": count, "num_experts_per_tok": self._random.randint(1, count)}
        self._maybe(fused=True)

    def _mixtral(self) -> None:
        self._mistral()
        self._experts()

    def _qwen2(self) -> None:
        if self._chance(0.6):
            self.config |= {"use_sliding_window": True, "sliding_window": self._window()}
            self._maybe(max_window_layers=self._random.randint(0, self.num_layers))
            self._maybe(layer_types=self._kinds())
        self._eps()

    def _qwen3(self) -> None:
        self._qwen2()
        self._maybe(attention_bias=True)

    def _qwen3_moe(self) -> None:
        self._experts()
        if self._chance(0.3):
            self.config |= {"use_sliding_window": True, "sliding_window": self._window()}
        self._maybe(
            attention_bias=True, norm_topk_prob=True, moe_intermediate_size=self._of(8, 33, 64),
            decoder_sparse_step=self._of(1, 2, 3),
            mlp_only_layers=[number for number in range(self.num_layers) if self._chance()],
        )  # fmt: skip
        self._eps()

    def _phi3(self) -> None:
        self.config["sliding_window"] = self._of(None, self._window())
        self.config.pop("head_dim")
        heads, kv = self._of((5, 5), (6, 3), (4, 1), (2, 2))
        dim = self._of(10, 15, 16, 20)
        self.config |= {"num_attention_heads": heads, "num_key_value_heads": kv, "hidden_size": heads * dim}
        part = self._of(0.8, 0.4) if dim == 15 else self._of(1.0, 0.6, 0.8) if dim in (10, 20) else self._of(1.0, 0.75)
        rotated = int(dim * part)
        rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": part}
        if self._chance() and rotated >= 4:
            rope |= {"rope_type": "longrope", **self._longrope(rotated)}
            self.config["original_max_position_embeddings"] = MAX_POSITION
        self.config |= {"rope_parameters": rope, "partial_rotary_factor": part}
        self._eps()

    def _starcoder2(self) -> None:
        self.config["sliding_window"] = self._of(None, self._window())
        self._maybe(use_bias=False, hidden_act=self._of("gelu", "relu", "gelu_pytorch_tanh", "silu"))
        self._eps("norm_epsilon")

    def _cohere(self) -> None:
        self.config["logit_scale"] = self._of(0.5, 1.0)
        self._maybe(use_qk_norm=True, attention_bias=True)
        self._eps("layer_norm_eps")

    def _cohere2(self) -> None:
        self.config |= {"logit_scale": self._of(0.5, 1.0), "sliding_window": self._window()}
        self._maybe(layer_types=self._kinds(), attention_bias=True)
        self._eps("layer_norm_eps")

    def _gemma2(self) -> None:
        self.config |= {"sliding_window": self._window(), "query_pre_attn_scalar": self._of(16, self._dim, 100)}
        self.config |= {"attn_logit_softcapping": self._of(None, 20.0), "final_logit_softcapping": self._of(None, 15.0)}
        self._maybe(layer_types=self._kinds(), attention_bias=True)

    def _gemma3_text(self) -> None:
        self.config |= {"sliding_window": self._window(), "query_pre_attn_scalar": self._of(16, self._dim, 100)}
        self._maybe(layer_types=self._kinds(), attention_bias=True, final_logit_softcapping=15.0)
        self._positions()
        self.config["rope_parameters"] = {
            "full_attention": self.config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": self._of(1e2, 1e4)},
        }


def main() -> int:
    """Draw until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--family", choices=list(FAMILIES), help="default: all in turn")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    start, seed, failed = time.monotonic(), options.seed, 0
    largest: dict[str, float] = {}
    while time.monotonic() - start < options.seconds:
        for family in [options.family] if options.family else FAMILIES:
            config = Draw(family, seed).config
            with tempfile.TemporaryDirectory() as folder:
                try:
                    difference = compare(config, Path(folder), options.device, seed)
                except Exception:
                    failed += 1
                    print(f"\n{config}\n{traceback.format_exc(limit=-2)}", flush=True)
                else:
                    largest[family] = max(largest.get(family, 0.0), difference)
        seed += 1
    print(f"seeds {options.seed} to {seed - 1}, {failed} failed; largest difference by family: {largest}")
    return 1 if failed else 0


def compare(config: dict[str, Any], root: Path, device: str, seed: int) -> float:
    """Greedy tokens and log-probabilities of prompts around every boundary; the largest difference."""
    folder = Checkpoints(root).make(**config, tokenizer=False)
    draw = random.Random(seed)
    lengths = [1, draw.randint(2, 20), draw.randint(16, 40), draw.randint(60, 200)]
    with engine(folder, device, max_model_len=250, block_size=16 if device == "toy" else draw.choice((16, 32))) as llm:
        return check_parity(llm, Reference(folder), random_prompts(lengths, seed), num_tokens=4)


if __name__ == "__main__":
    sys.exit(main())

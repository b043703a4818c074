"""The network in plain PyTorch, with the parameter names of Qwen3ForCausalLM: its checkpoint is a copy of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from make_tokenizer import LONGEST, VOCAB_SIZE


@dataclass(frozen=True)
class Shape:
    """A model's sizes; heads are 64 wide in both."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 64
    eps: float = 1e-6
    theta: float = 10_000.0

    def config(self, ids: dict[str, int]) -> dict[str, Any]:
        """The config.json; `ids` are those of the begin, end and pad tokens."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": LONGEST,
            "rms_norm_eps": self.eps,
            "rope_theta": self.theta,
            "rope_scaling": None,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
            "use_cache": True,
            "torch_dtype": "bfloat16",
            **ids,
        }


SHAPES = {
    "demo": Shape(hidden=256, inner=640, layers=8, heads=8, kv_heads=2),
    "demo-draft": Shape(hidden=128, inner=192, layers=3, heads=2, kv_heads=1),
}


class Norm(nn.Module):
    """Root mean square norm, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


class Attention(nn.Module):
    """Causal attention with normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)
        self.q_norm = Norm(shape.head_dim, shape.eps)
        self.k_norm = Norm(shape.head_dim, shape.eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        dim, repeats = self.shape.head_dim, self.shape.heads // self.shape.kv_heads
        q = _rotated(self.q_norm(self.q_proj(x).view(batch, length, -1, dim)), cos, sin).transpose(1, 2)
        k = _rotated(self.k_norm(self.k_proj(x).view(batch, length, -1, dim)), cos, sin).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, -1, dim).transpose(1, 2)
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))
        return out


class Gated(nn.Module):
    """The feed-forward part, gated by SiLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and feed-forward, each behind its norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden, shape.eps)
        self.mlp = Gated(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """All but the output: what Transformers calls `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB_SIZE, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.eps)


class Network(nn.Module):
    """The whole; the output matrix is that of the embedding."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * shape.layers) ** 0.5 if deep else 0.02)
        angles = torch.arange(LONGEST)[:, None] * shape.theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        self.register_buffer("cos", angles.cos().repeat(1, 2)[:, None], persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2)[:, None], persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, length] ids to hidden states, normalised, ready for the output matrix."""
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.model.norm(x)
        return out


def loss_of(hidden: Tensor, embedding: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """The mean of -log p over the targets; those equal to `ignored` do not count. Logits are float32."""
    logits = F.linear(hidden, embedding).float()
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=ignored)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x [batch, length, heads, dim], halves as pairs."""
    one, two = x.float().chunk(2, -1)
    return (torch.cat((one, two), -1) * cos + torch.cat((-two, one), -1) * sin).to(x.dtype)

"""One step of the modules: tokens in, logits out, attention by our kernels in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aphrodite.errors import DeviceError
from aphrodite.models.fallback.interface import LoadedModel
from aphrodite.models.fallback.probe import AttentionCall, run_modules
from aphrodite.ops.kernel import Dims
from aphrodite.ops.op import Op
from aphrodite.ops.schema import parse
from aphrodite.platform.layout import Structure
from aphrodite.program.replay import BoundProgram


@dataclass(frozen=True)
class Section:
    """Where one call of attention is in the attention Program: calls [start, stop), with inputs and output by name."""

    call: AttentionCall
    start: int
    stop: int
    query: str
    key: str
    value: str
    out: str
    sinks: str | None


@dataclass(frozen=True)
class Modules(Structure):
    """The modules of a network, their weights loaded, and the attention Program that serves them.

    first  how many calls at the Program's beginning are done once a step
    """

    loaded: LoadedModel
    attention: BoundProgram
    first: int
    sections: Sequence[Section]

    def forward(
        self, logits: torch.Tensor, token_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor, dims: Dims
    ) -> None:
        """logits [R, V] <- of the tokens `rows`; keys and values of all tokens go to the cache."""
        self.attention.replay(dims, 0, self.first)
        step = _Step(self, dims)
        with self.loaded.line.to(step.attend):
            logits.copy_(run_modules(self.loaded.model, token_ids.clamp(min=0), positions, rows))
        if step.done != len(self.sections):
            raise DeviceError(
                f"the modules called attention {step.done} times, in their trial run {len(self.sections)} times: their "
                "flow depends on more than their config",
                subject="modules",
            )


class _Step:
    """Attention of one step: each call of the interface in turn is one section of the Program."""

    def __init__(self, modules: Modules, dims: Dims) -> None:
        self._modules = modules
        self._dims = dims
        self.done = 0

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **options: Any,
    ) -> torch.Tensor:
        sections, memory = self._modules.sections, self._modules.attention.externals
        section = sections[self.done] if self.done < len(sections) else None
        if section is None or not _fits(section.call, query, key, value, options):
            raise DeviceError(
                f"call {self.done} of attention is not that of the modules' trial run: their flow depends on more than "
                "their config",
                subject="modules",
            )
        self.done += 1
        for name, given in ((section.query, query), (section.key, key), (section.value, value)):
            memory[name].narrow(0, 0, self._dims.T).copy_(given[0].transpose(0, 1))
        if section.sinks is not None:
            memory[section.sinks].copy_(options["s_aux"])
        self._modules.attention.replay(self._dims, section.start, section.stop)
        out: torch.Tensor = memory[section.out].narrow(0, 0, self._dims.T)
        return out.to(query.dtype, copy=True)[None]  # a copy, as the next call writes there


def _fits(call: AttentionCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: Any) -> bool:
    """Whether a call has the shapes and the scale that its section was planned for."""
    scale = options.get("scaling")
    return (
        query.shape[1::2] == (call.num_heads, call.head_dim)
        and key.shape[1::2] == (call.num_kv_heads, call.head_dim)
        and value.shape[1::2] == (call.num_kv_heads, call.value_dim)
        and query.shape[2] == key.shape[2] == value.shape[2]
        and (call.head_dim**-0.5 if scale is None else scale) == call.scale
        and (options.get("softcap") or 0.0) == call.softcap
    )


def _run(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    seq_lens: torch.Tensor,
    logit_rows: torch.Tensor,
    modules: Modules,
    max_q: int,
    max_k: int,
) -> None:
    """All layers of a network by modules of Transformers, as one call that is not looked into."""
    dims = Dims(T=len(token_ids), S=len(seq_lens), R=len(logit_rows), max_q=max_q, max_k=max_k)
    modules.forward(logits, token_ids, positions, logit_rows, dims)


# Not among the operations of the contract: no plugin could serve it, and none has to.
MODULES = Op(
    "modules@1",
    parse("logits[R,V] A!, token_ids[T] i64, positions[T] i64, seq_lens[S] i32, logit_rows[R] i64, modules Modules"),
    _run,
    "All layers of a network by modules of Transformers, as one call that is not looked into.",
    reads_host=True,
)

"""A piece of a Program and the kernel that does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aphrodite.errors import AphroditeError, KernelError, is_interrupt, told
from aphrodite.ops.kernel import TORCH, Kernel
from aphrodite.program.trace import Call


@dataclass(frozen=True)
class Bound:
    """One planned piece of a Program: calls[start : stop] done by `kernel`; `call` is theirs, or the composite's."""

    start: int
    stop: int
    call: Call
    kernel: Kernel

    @property
    def falls_back(self) -> bool:
        """Whether a torch form does it for want of a kernel. An attention plan that nobody reads wants none."""
        return self.kernel.tier == TORCH and not is_attention_plan(self.call)


def is_attention_plan(call: Call) -> bool:
    """Whether a call prepares a step's attention, and so belongs to the kernels that read what it writes."""
    return call.op.name.startswith("attn_plan@")


@contextmanager
def blame(bound: Bound, what: str) -> Iterator[None]:
    """Whatever a kernel's own code raises is a KernelError that names the kernel and the place."""
    try:
        yield
    except AphroditeError:
        raise
    except BaseException as error:  # SystemExit and its like too: the process is not the kernel's to end
        if is_interrupt(error):
            raise
        where = f"{bound.kernel.provider} at {bound.call.site}"
        raise KernelError(f"{where}: {what} raised {told(error)}", subject=bound.call.site) from error

"""The user's say in what runs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aphrodite.errors import KernelError
from aphrodite.ops.kernel import Flag, Kernel


@dataclass(frozen=True)
class Rules:
    """Which kernels may serve, and what else they must be.

    kernels   by operation name without version: providers in order, globs allowed, "reference" and "portable" the
              torch forms; a composite may be ["none"]. What is not listed is not taken
    fallback  allow, warn or error: what to do when a torch form is all there is
    promises  what every kernel must have promised, or it is no candidate
    """

    kernels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fallback: str = "allow"
    promises: Flag = Flag.NONE

    def of(self, op_name: str) -> Sequence[str] | None:
        """What is listed for an operation; None if nothing is said of it."""
        rule = self.kernels.get(op_name.partition("@")[0])
        return None if rule is None else list(rule)

    def candidates(self, op_name: str, kernels: Sequence[Kernel]) -> list[Kernel]:
        """Those of these kernels that may serve an operation, in the order they are tried."""
        rule = self.of(op_name)
        if rule is None:
            return list(kernels)
        ranked = [k for glob in rule for k in kernels if fnmatch.fnmatchcase(k.provider, glob)]
        return list(dict.fromkeys(ranked))

    def refusal(self, kernel: Kernel) -> str | None:
        """Why a kernel may serve nowhere; None if it may."""
        if missing := self.promises & ~kernel.flags:
            return f"does not promise {', '.join(str(flag.name) for flag in missing)}, as determinism='batch' asks"
        return None

    def check(self, kernels: Mapping[str, Iterable[Kernel]]) -> None:
        """KernelError if something is listed that is not among these, by operation."""
        for name, rule in self.kernels.items():
            ours = [k.provider for op, ks in kernels.items() if op.partition("@")[0] == name for k in ks]
            providers = [*ours, "reference", "portable", "none"]
            for glob in rule:
                if not any(fnmatch.fnmatchcase(provider, glob) for provider in providers):
                    where = f"kernels.{name}"
                    raise KernelError(f"{where} asks for {glob!r}; there are {', '.join(providers)}", subject=where)

"""Which kernel serves a call, at which sizes, with a reason for every choice.

Order at a site: the user's rule, then the tier, then the name; torch forms come last. A choice may depend on the sizes
that vary, so it is made for each bucket of those sizes that the candidates' constraints mention.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.errors import KernelError, told
from aphrodite.ops.constraints import C
from aphrodite.ops.kernel import INVARIANT, NATIVE, PORTABLE, SPECIALISED, TORCH, Dims, Extent, Flag, Kernel
from aphrodite.ops.op import Op
from aphrodite.platform.layout import PLAIN
from aphrodite.program.buckets import Buckets
from aphrodite.program.rules import Rules
from aphrodite.program.sites import Sites
from aphrodite.program.trace import Call

_TIERS = {SPECIALISED: "specialised", NATIVE: "native", PORTABLE: "portable", TORCH: "torch form"}


@dataclass(frozen=True)
class Verdict:
    """What was said of one kernel at one site and size: chosen, or why not."""

    provider: str
    chosen: bool
    reason: str


def torch_forms(op: Op) -> tuple[Kernel, ...]:
    """The operation's own torch forms as kernels: they serve every feature, and read plain weights only."""
    packed = any(arg.kind in ("Packed", "Table") for arg in op.schema.args)
    where = C(features=op.schema.features, weights=PLAIN.name) if packed else C(features=op.schema.features)
    static = Flag.ALLOCATES  # a portable form is static; so is a reference that has none beside it
    if not op.reads_host:
        static |= Flag.CAPTURE_SAFE
    exact = INVARIANT if op.exact else Flag.NONE
    if op.portable is None:
        return (Kernel(op.name, "reference", fn=op.reference, where=where, tier=TORCH, flags=static | exact),)
    return (
        Kernel(op.name, "portable", fn=op.portable, where=where, tier=TORCH, flags=static | exact),
        Kernel(op.name, "reference", fn=op.reference, where=where, tier=TORCH, flags=Flag.ALLOCATES | exact),
    )


class Selector:
    """Chooses kernels on one device, and remembers what it chose.

    kernels          registered for the device, by operation
    composites       operations that have no form of their own: where no kernel serves, their own calls do it
    arch, kv_layout  facts of the device and of its cache
    """

    def __init__(
        self,
        kernels: Mapping[str, Sequence[Kernel]],
        composites: Collection[str],
        rules: Rules,
        buckets: Buckets,
        *,
        arch: str,
        kv_layout: str,
    ) -> None:
        self.composites = composites
        self.rules = rules
        self.buckets = buckets
        self._kernels = kernels
        self._common = {"arch": arch, "layout": kv_layout}
        self._sites = Sites(kernels, buckets)

    def candidates(self, op: Op) -> list[Kernel]:
        """Kernels of an operation in the order they are tried."""
        own = sorted(self._kernels.get(op.name, ()), key=lambda kernel: (-kernel.tier, kernel.provider))
        forms = [] if op.name in self.composites else list(torch_forms(op))
        return self.rules.candidates(op.name, [*own, *forms])

    def decide(self, call: Call, dims: Dims, weights: str) -> tuple[Kernel | None, list[Verdict]]:
        """The kernel for a call at a bucket, with a verdict on every candidate. `weights` is the layout at hand."""
        site = self._sites.of(call)
        key = site.key(dims, weights)
        if key not in site.decided:
            site.decided[key] = self._judge(call, self.facts(call, dims, weights))
        choice: tuple[Kernel | None, list[Verdict]] = site.decided[key]
        return choice

    def named(self, call: Call, provider: str, dims: Dims) -> Kernel:
        """The kernel of that name, which another one depends on. KernelError if there is none or it cannot run."""
        known: list[Kernel] = [*self._kernels.get(call.op.name, []), *torch_forms(call.op)]
        for kernel in known:
            if kernel.provider == provider:
                if reason := self._refusal(kernel, self.facts(call, dims, PLAIN.name), call.site):
                    raise KernelError(
                        f"{provider} is needed at {call.site} and cannot run: {reason}", subject=call.site
                    )
                return kernel
        raise KernelError(f"there is no {call.op.name} kernel {provider!r}, needed at {call.site}", subject=call.site)

    def facts(self, call: Call, dims: Dims, weights: str) -> dict[str, Any]:
        """What constraints see: everything about the call at these sizes."""
        sizes = {k: v.at(dims) if isinstance(v, Extent) else v for k, v in call.facts.items()}
        return {**sizes, **self._common, "weights": weights, "max_q": dims.max_q, "max_k": dims.max_k}

    def sizes(self, *calls: Call) -> list[Dims]:
        """Every bucket at which the choice for one of these calls may differ."""
        return self._sites.sizes(calls)

    def winners(self, call: Call, weights: str) -> tuple[Kernel, ...]:
        """The kernels that are chosen for a call at some size."""
        site = self._sites.of(call)
        if weights not in site.winners:
            found = [self.decide(call, dims, weights)[0] for dims in self.sizes(call)]
            site.winners[weights] = tuple(dict.fromkeys(kernel for kernel in found if kernel is not None))
        return site.winners[weights]

    def alike(self, call: Call) -> object:
        """The same object for calls that are one site."""
        return self._sites.of(call)

    def _judge(self, call: Call, facts: Mapping[str, Any]) -> tuple[Kernel | None, list[Verdict]]:
        winner: Kernel | None = None
        verdicts = []
        ruled = self.rules.of(call.op.name) is not None
        for kernel in self.candidates(call.op):
            refusal = self._refusal(kernel, facts, call.site)
            if refusal is not None:
                verdicts.append(Verdict(kernel.provider, False, refusal))
            elif winner is None:
                winner = kernel
                reason = "first in the user's rule that can" if ruled else f"{_tier(kernel)}, first that can"
                verdicts.append(Verdict(kernel.provider, True, reason))
            else:
                verdicts.append(Verdict(kernel.provider, False, _why_behind(kernel, winner, ruled)))
        return winner, verdicts

    def _refusal(self, kernel: Kernel, facts: Mapping[str, Any], site: str) -> str | None:
        """Why a kernel cannot serve a site; a predicate that raises is its plugin's error, with the place."""
        if broken := self.rules.refusal(kernel):
            return broken
        try:
            return kernel.where.refusal(facts)
        except Exception as error:
            raise KernelError(
                f"{kernel.provider} at {site}: its constraints raised {told(error)}", subject=site
            ) from error


def listed(verdicts: Sequence[Verdict]) -> str:
    """Verdicts in words, for messages."""
    return "; ".join(f"{v.provider}: {v.reason}" for v in verdicts) or "the user's rule leaves none"


def _tier(kernel: Kernel) -> str:
    return f"{_TIERS.get(kernel.tier, 'tier')} {kernel.tier}"


def _why_behind(kernel: Kernel, winner: Kernel, ruled: bool) -> str:
    if ruled:
        return "later in the user's rule"
    if kernel.tier < winner.tier:
        return f"{_tier(kernel)} below {_tier(winner)}"
    if kernel.tier == TORCH:
        return "the portable form goes before the reference"
    return f"same tier, name after {winner.provider}"

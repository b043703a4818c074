"""Choosing a kernel for every call: once, at build, with a reason for every choice.

Order at a site: the user's rule, then the tier, then the name; torch forms come last. A choice may depend on the sizes
that vary, so it is made for each bucket of those sizes that the candidates' constraints mention.
"""

from __future__ import annotations

import fnmatch
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from aphrodite.errors import KernelError
from aphrodite.ops.composite import Composite
from aphrodite.ops.constraints import C
from aphrodite.ops.kernel import INVARIANT, NATIVE, PORTABLE, SPECIALISED, TORCH, Dims, Extent, Flag, Kernel
from aphrodite.ops.op import Op
from aphrodite.platform.layout import PLAIN, WeightLayout
from aphrodite.platform.spi import Limits
from aphrodite.program.buffers import lifetimes
from aphrodite.program.match import Pattern
from aphrodite.program.sites import Sites
from aphrodite.program.space import Space, lay_out
from aphrodite.program.trace import Call, Program
from aphrodite.program.values import Value, WeightRef

_TIERS = {SPECIALISED: "specialised", NATIVE: "native", PORTABLE: "portable", TORCH: "torch form"}


@dataclass(frozen=True)
class Rules:
    """The user's say.

    kernels   by operation name without version: providers in order, globs allowed, "reference" and "portable" the
              torch forms; a composite may be ["none"]. What is not listed is not taken
    fallback  allow, warn or error: what to do when a torch form is all there is
    promises  what every kernel must have promised, or it is no candidate
    """

    kernels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fallback: str = "allow"
    promises: Flag = Flag.NONE


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
        return self.kernel.tier == TORCH and not _is_attention_plan(self.call)


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


def buckets(bound: int, listed: Sequence[int] = ()) -> tuple[int, ...]:
    """Sizes that a varying size is rounded up to: those listed, else powers of two, and the bound itself."""
    sizes = listed or tuple(1 << i for i in range(bound.bit_length()))
    return (*sorted(size for size in sizes if size < bound), bound)


class Planner:
    """Chooses kernels for Programs of one device.

    kernels         registered for the device
    weight_layouts  by name, plain among them
    arch, kv_layout facts of the device and of its cache
    bounds          largest sizes of a step
    """

    def __init__(
        self,
        *,
        kernels: Iterable[Kernel],
        composites: Iterable[Composite],
        weight_layouts: Mapping[str, WeightLayout],
        arch: str,
        kv_layout: str,
        limits: Limits,
        bounds: Dims,
        rules: Rules | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self.bounds = bounds
        self.weight_layouts = weight_layouts
        self._common = {"arch": arch, "layout": kv_layout}
        self._buckets = {
            name: buckets(bound, limits.token_buckets if name == "T" else ())
            for name, bound in zip(Dims._fields, bounds, strict=True)
        }
        self._kernels: dict[str, list[Kernel]] = {}
        for kernel in kernels:
            self._kernels.setdefault(kernel.op, []).append(kernel)
        patterns = [Pattern(c) for c in composites if c.name in self._kernels and self._rule(c.name) != ["none"]]
        self._patterns = sorted(patterns, key=lambda p: (-len(p.steps), p.composite.name))
        self._composites = frozenset(p.composite.name for p in patterns)
        self._sites = Sites(self._kernels, self._buckets, bounds)

    def bucket(self, dims: Dims) -> Dims:
        """Each size rounded up to its bucket, as choices are made."""
        return Dims(*(_round_up(size, self._buckets[name]) for name, size in zip(Dims._fields, dims, strict=True)))

    def plan(self, program: Program) -> Plan:
        """Choose for every call, composite and weight. KernelError if a rule or the fallback policy is broken."""
        self._check_rules()
        layouts = self._choose_layouts(program)
        plan = Plan(self, program, layouts)
        plan.check()
        return plan

    # ---- one call -----------------------------------------------------------------------------------------------

    def candidates(self, op: Op) -> list[Kernel]:
        """Kernels of an operation in the order they are tried."""
        own = sorted(self._kernels.get(op.name, ()), key=lambda kernel: (-kernel.tier, kernel.provider))
        forms = [] if op.name in self._composites else list(torch_forms(op))
        everything = [*own, *forms]
        rule = self._rule(op.name)
        if rule is None:
            return everything
        ranked = [k for glob in rule for k in everything if fnmatch.fnmatchcase(k.provider, glob)]
        return list(dict.fromkeys(ranked))

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
        ruled = self._rule(call.op.name) is not None
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
        if missing := self.rules.promises & ~kernel.flags:
            return f"does not promise {', '.join(str(flag.name) for flag in missing)}, as determinism='batch' asks"
        try:
            return kernel.where.refusal(facts)
        except Exception as error:
            raise KernelError(
                f"{kernel.provider} at {site}: its constraints raised {type(error).__name__}: {error}", subject=site
            ) from error

    # ---- composites ---------------------------------------------------------------------------------------------

    def matches(self, program: Program, start: int, last_use: Mapping[Value, int]) -> Iterator[tuple[int, Call]]:
        """Composites that the run from `start` on could be, longest first: (calls covered, the composite's call)."""
        for pattern in self._patterns:
            call = pattern.match(program.calls, start, last_use)
            if call is not None:
                yield len(pattern.steps), call

    # ---- weights ------------------------------------------------------------------------------------------------

    def _choose_layouts(self, program: Program) -> dict[str, str]:
        """One layout for every matrix, such that all its sites can read it; the one with the highest tiers wins."""
        uses: dict[str, list[Call]] = {}
        last_use = {value: last for value, (_, last) in lifetimes(program.calls).items()}
        for index, call in enumerate(program.calls):
            for ref in matrices(call):
                uses.setdefault(ref.name, []).append(call)
            for _, whole in self.matches(program, index, last_use):
                for ref in matrices(whole):
                    uses.setdefault(ref.name, []).append(whole)
        chosen: dict[frozenset[object], str] = {}  # weights that are used alike, as those of alike layers, are one case
        layouts = {}
        for name, calls in uses.items():
            sites = frozenset(self.alike(call) for call in calls)
            if sites not in chosen:
                chosen[sites] = self._best_layout(name, calls)
            layouts[name] = chosen[sites]
        return layouts

    def _best_layout(self, weight: str, calls: Sequence[Call]) -> str:
        best, best_score = "", (-1, -1)
        names = sorted(self.weight_layouts, key=lambda name: (name != PLAIN.name, name))
        for layout in names:
            score = [0, 0]
            for call in calls:
                tiers = [k.tier if (k := self.decide(call, d, layout)[0]) else None for d in self.sizes(call)]
                composite = call.op.name in self._composites
                if None in tiers and not composite:
                    break  # some site could not read it
                score[0] += max((tier for tier in tiers if tier is not None), default=0)
                score[1] += sum(tier for tier in tiers if tier is not None)
            else:
                if (score[0], score[1]) > best_score:
                    best, best_score = layout, (score[0], score[1])
        if not best:
            raise KernelError(self._hopeless(weight, calls), subject=weight)
        return best

    def _hopeless(self, weight: str, calls: Sequence[Call]) -> str:
        call = calls[0]
        _, verdicts = self.decide(call, self.sizes(call)[-1], PLAIN.name)
        return f"no weight layout of {weight} serves all its sites; at {call.site}: {_list(verdicts)}"

    # ---- rules --------------------------------------------------------------------------------------------------

    def _rule(self, op_name: str) -> Sequence[str] | None:
        name = op_name.partition("@")[0]
        rule = self.rules.kernels.get(name)
        return None if rule is None else list(rule)

    def _check_rules(self) -> None:
        for name, rule in self.rules.kernels.items():
            ours = [k.provider for op, ks in self._kernels.items() if op.partition("@")[0] == name for k in ks]
            providers = [*ours, "reference", "portable", "none"]
            for glob in rule:
                if not any(fnmatch.fnmatchcase(provider, glob) for provider in providers):
                    where = f"kernels.{name}"
                    raise KernelError(f"{where} asks for {glob!r}; there are {', '.join(providers)}", subject=where)


class Plan:
    """Every choice for one Program. `at` gives them for a bucket; `layouts` names the layout of each matrix."""

    def __init__(self, planner: Planner, program: Program, layouts: Mapping[str, str]) -> None:
        self.program = program
        self.layouts = layouts
        self.planner = planner
        self._last_use = {value: last for value, (_, last) in lifetimes(program.calls).items()}
        self._by_bucket: dict[Dims, tuple[Bound, ...]] = {}
        self._matches = {
            index: list(planner.matches(program, index, self._last_use)) for index in range(len(program.calls))
        }
        self._around: dict[int, list[Call]] = {index: [] for index in range(len(program.calls))}
        for start, found in self._matches.items():
            for length, whole in found:
                for index in range(start, start + length):
                    self._around[index].append(whole)

    def at(self, dims: Dims) -> tuple[Bound, ...]:
        """The whole Program at the bucket of these dims, in order."""
        bucket = self.planner.bucket(dims)
        if bucket not in self._by_bucket:
            self._by_bucket[bucket] = tuple(self._walk(bucket))
        return self._by_bucket[bucket]

    def choices(self) -> Iterator[Bound]:
        """Everything that may be chosen at some size: for each call and each composite, its kernels at its own buckets.

        More than `at` shows at `buckets()`: sizes of different calls meet in combinations that neither lists.
        """
        for index, call in enumerate(self.program.calls):
            for stop, one in ((index + 1, call), *((index + n, whole) for n, whole in self._matches[index])):
                for kernel in self.planner.winners(one, self.layout_of(one)):
                    yield Bound(index, stop, one, kernel)
            if _is_attention_plan(call):
                for dims in self.planner.sizes(call, *self._readers(call)):
                    yield Bound(index, index + 1, call, self._attention_plan(call, dims))

    @cached_property
    def space(self) -> Space:
        """The memory that the Program needs for itself. KernelError names a kernel that cannot say what it needs."""
        return lay_out(self)

    def layout_of(self, call: Call) -> str:
        """The weight layout of the matrices a call reads; plain when it reads none."""
        names = {self.layouts[ref.name] for ref in matrices(call)}
        assert len(names) <= 1, f"{call.site} reads matrices of different layouts: {names}"
        return names.pop() if names else PLAIN.name

    def matches_at(self, index: int) -> Sequence[tuple[int, Call]]:
        """Composites that could begin at a call."""
        return self._matches[index]

    def within(self, index: int) -> str:
        """The composite that takes a call at every size, with its kernels, or ""."""
        for whole in self._around[index]:
            kernels = [self.planner.decide(whole, d, self.layout_of(whole))[0] for d in self.planner.sizes(whole)]
            if None not in kernels:
                names = sorted({kernel.provider for kernel in kernels if kernel is not None})
                return f"{whole.op.name} ({', '.join(names)})"
        return ""

    def check(self) -> None:
        """KernelError if a site has no kernel at some size, or a torch form where the policy forbids it."""
        done: set[object] = set()
        forms: list[str] = []
        for index, call in enumerate(self.program.calls):
            around = self._around[index]
            alike = tuple(self.planner.alike(one) for one in (call, *around))
            if alike in done and not forms:
                continue  # as an earlier call, inside the same composites
            done.add(alike)
            for dims in self.planner.sizes(call, *around):
                if any(self.planner.decide(whole, dims, self.layout_of(whole))[0] for whole in around):
                    continue
                if Bound(index, index + 1, call, self._one(call, dims)).falls_back:
                    forms.append(call.site)
                    break
        if forms and self.planner.rules.fallback == "error":
            raise KernelError(
                f"{len(forms)} of {len(self.program.calls)} sites of the {self.program.name} program have only a "
                f"torch form ({forms[0]} first) and fallback is 'error': install kernels, or allow the fallback",
                subject=forms[0],
            )

    def _walk(self, bucket: Dims) -> Iterator[Bound]:
        calls = self.program.calls
        chosen: list[Bound] = []
        index = 0
        while index < len(calls):
            for length, whole in self._matches[index]:
                kernel, _ = self.planner.decide(whole, bucket, self.layout_of(whole))
                if kernel is not None:
                    chosen.append(Bound(index, index + length, whole, kernel))
                    break
            else:
                chosen.append(Bound(index, index + 1, calls[index], self._one(calls[index], bucket)))
            index = chosen[-1].stop
        return iter(chosen)

    def _one(self, call: Call, bucket: Dims) -> Kernel:
        if _is_attention_plan(call):
            return self._attention_plan(call, bucket)
        kernel, verdicts = self.planner.decide(call, bucket, self.layout_of(call))
        if kernel is None:
            raise KernelError(f"no kernel for {call.op.name} at {call.site}: {_list(verdicts)}", subject=call.site)
        return kernel

    def _readers(self, plan: Call) -> list[Call]:
        """The calls that read what an attn_plan call writes."""
        return [call for call in self.program.calls if call.args.get("meta") is plan.args["meta"] and call is not plan]

    def _attention_plan(self, call: Call, bucket: Dims) -> Kernel:
        """attn_plan is done by the kernel that the winning attention kernels of its cache group name."""
        winners = [self.planner.decide(reader, bucket, PLAIN.name)[0] for reader in self._readers(call)]
        wanted = {kernel.plan for kernel in winners if kernel is not None and kernel.plan}
        if len(wanted) > 1:
            raise KernelError(
                f"attention kernels of one cache group want different plans: {', '.join(sorted(wanted))}",
                subject=call.site,
            )
        return self.planner.named(call, wanted.pop() if wanted else "reference", bucket)


def matrices(call: Call) -> list[WeightRef]:
    """Weights of a call that have a layout."""
    kinds = {arg.name for arg in call.op.schema.args if arg.kind in ("Packed", "Table")}
    return [arg for name, arg in call.args.items() if name in kinds and isinstance(arg, WeightRef)]


def _is_attention_plan(call: Call) -> bool:
    return call.op.name.startswith("attn_plan@")


def _round_up(size: int, sizes: Sequence[int]) -> int:
    return sizes[min(bisect_left(sizes, size), len(sizes) - 1)]


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


def _list(verdicts: Sequence[Verdict]) -> str:
    return "; ".join(f"{v.provider}: {v.reason}" for v in verdicts) or "the user's rule leaves none"

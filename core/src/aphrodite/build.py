"""Assembling an engine: the only place where parts are put together."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aphrodite.config.engine import EngineConfig
from aphrodite.discovery.discover import Discovery
from aphrodite.discovery.registry import PlatformEntry
from aphrodite.engine.engine import Engine
from aphrodite.errors import AphroditeError, CapacityError, PluginError
from aphrodite.kv.manager import KVCacheManager
from aphrodite.models.config import HFConfig
from aphrodite.models.decoder import Decoder
from aphrodite.models.generation import GenerationConfig
from aphrodite.models.spec import DecoderSpec
from aphrodite.ops.table import COMPOSITES
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.platform.layout import KVLayout, Rows
from aphrodite.platform.spi import Limits, Platform, Stream
from aphrodite.program.explain import count_torch_forms
from aphrodite.program.parameters import Parameter
from aphrodite.program.planner import Plan, Planner, Rules
from aphrodite.program.replay import BoundProgram
from aphrodite.program.trace import Program
from aphrodite.program.values import ConstantRef, KVRef, Ref, RowsRef, WeightRef
from aphrodite.resolve import (
    CORE,
    Reasons,
    Sizes,
    choose_device,
    choose_dtype,
    choose_sizes,
    find_plugins,
    read_model,
)
from aphrodite.runner.programs import Programs, record_updates, record_zeroing
from aphrodite.runner.rows import RowTable
from aphrodite.runner.runner import PLAN_INPUTS, ModelRunner
from aphrodite.sampling.program import Variant, record
from aphrodite.sched.scheduler import Budget, Scheduler
from aphrodite.types.progress import NoProgress, Progress
from aphrodite.weights.load import load_weights
from aphrodite.weights.safetensors import SafetensorsSource
from aphrodite.weights.source import DummySource, TensorSource, check_copy, check_names

_LOG = logging.getLogger("aphrodite")
_RESERVED = ("collectives", "compiler", "replay")


@dataclass(frozen=True)
class Blueprint:
    """Everything decided before memory is taken: what `explain` shows and `assemble` builds."""

    config: EngineConfig
    folder: Path
    hf: HFConfig
    spec: DecoderSpec
    generation: GenerationConfig
    found: Discovery
    entry: PlatformEntry
    platform: Platform
    limits: Limits
    kv_layout: KVLayout
    dtype: str
    decoder: Decoder
    sizes: Sizes
    planner: Planner
    forward: Plan
    reasons: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What was chosen from the machine, in one line."""
        kv = self.sizes.kv
        cache = f"KV {kv.num_bytes / (1 << 20):.4g} MiB = {kv.num_tokens:,} tokens"
        dtype, _, why = self.reasons["dtype"].partition(": ")
        return f"{self.entry.info.device}: {', '.join((*self.limits.notes, f'{dtype} ({why})', cache))}"


@dataclass(frozen=True)
class Assembled:
    """An engine ready to run, and the blueprint it follows."""

    engine: Engine
    blueprint: Blueprint


def draw_up(config: EngineConfig) -> Blueprint:
    """Decide everything: device, types, sizes, kernels. Reads the model's config, no weights."""
    reasons = Reasons()
    found = find_plugins(config)
    entry = choose_device(config, found, reasons)
    folder, hf, spec = read_model(config)
    generation = GenerationConfig.read(config.model.generation_config, folder, hf)
    reasons.say("sampling", generation.reason)
    platform = make_platform(entry)
    try:
        limits = entry.limits or platform.limits
        dtype = choose_dtype(config, hf, limits, reasons)
        probe = Decoder(spec, dtype, max_len=1)  # parameters and cache do not depend on the length
        sizes = choose_sizes(
            config,
            spec,
            probe.cache_groups,
            weight_bytes=_weight_bytes(probe),
            free_bytes=platform.device.memory().free_bytes,
            limits=limits,
            reasons=reasons,
        )
        decoder = Decoder(spec, dtype, sizes.max_model_len)
        layout = choose_kv_layout(entry, found, limits)
        planner = make_planner(config, found, entry, limits, sizes, layout)
        program = decoder.record(
            block_size=sizes.kv.block_size,
            table_width=sizes.table_width,
            meta_words=limits.attn_meta_words + limits.attn_meta_words_a_seq * sizes.bounds.S,
        )
        forward = planner.plan(program)
        _check_fits(decoder, forward, found, sizes, platform)
    except BaseException:
        platform.device.close()
        raise
    notes = [
        *limits.notes,
        *(
            f"the platform offers {part}, which this core does not use"
            for part in _RESERVED
            if getattr(platform, part) is not None
        ),
    ]
    notes += generation.notes
    forms, sites = count_torch_forms(forward)
    if forms and config.device.fallback == "warn":
        notes.append(f"{forms} of {sites} sites use a torch form; `aphrodite explain` says why")
        _LOG.warning(notes[-1])
    return Blueprint(
        config,
        folder,
        hf,
        spec,
        generation,
        found,
        entry,
        platform,
        limits,
        layout,
        dtype,
        decoder,
        sizes,
        planner,
        forward,
        reasons.by_name,
        tuple(notes),
    )


def make_platform(entry: PlatformEntry) -> Platform:
    """A platform from its plugin's factory. PluginError if that raises, or makes something else."""
    try:
        platform = entry.factory(entry.info)
        parts = ("device", "memory", "forms", *_RESERVED, "graphs", "limits")
        missing = [part for part in parts if not hasattr(platform, part)]
    except AphroditeError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {entry.plugin!r} could not make its platform: {type(error).__name__}: {error}",
            subject=entry.plugin,
        ) from error
    if missing or not isinstance(platform.limits, Limits):
        lacks = f"lacks {', '.join(missing)}" if missing else "has limits that are no Limits"
        raise PluginError(f"plugin {entry.plugin!r}: its platform {lacks}", subject=entry.plugin)
    return platform


def choose_kv_layout(entry: PlatformEntry, found: Discovery, limits: Limits) -> KVLayout:
    """The first layout that the device likes and somebody registered."""
    known = found.registry.kv_layouts
    for name in limits.kv_layouts:
        if name in known and "kv" in known[name].axes:
            return known[name]
    raise PluginError(
        f"plugin {entry.plugin!r} asks for the KV layouts {', '.join(limits.kv_layouts)}; registered with a kv axis: "
        f"{', '.join(name for name, layout in known.items() if 'kv' in layout.axes)}",
        subject=entry.plugin,
    )


def make_planner(
    config: EngineConfig, found: Discovery, entry: PlatformEntry, limits: Limits, sizes: Sizes, layout: KVLayout
) -> Planner:
    """The planner for a device: its plugins' kernels, its layouts, the user's rules."""
    kernels = () if entry.plugin == CORE else found.registry.kernels.get(entry.info.device, ())
    return Planner(
        kernels=kernels,
        composites=COMPOSITES.values(),
        weight_layouts=found.registry.weight_layouts,
        arch=entry.info.arch,
        kv_layout=layout.name,
        limits=limits,
        bounds=sizes.bounds,
        rules=Rules(config.device.kernels, config.device.fallback),
    )


def assemble(config: EngineConfig, progress: Progress | None = None) -> Assembled:
    """An engine for a config: draw up, load, bind. Whatever fails, the device is let go of."""
    blueprint = draw_up(config)
    try:
        return Assembled(_Assembly(blueprint, progress or NoProgress()).engine(), blueprint)
    except BaseException:
        blueprint.platform.device.close()
        raise


class _Assembly:
    """The device memory of one engine, taken in order: weights, row state, step buffers, KV."""

    def __init__(self, blueprint: Blueprint, progress: Progress) -> None:
        self._plan = blueprint
        self._platform = blueprint.platform
        self._platform.device.activate()
        self._stream: Stream = self._platform.device.stream()
        self._weights = self._load(progress)
        self._constants: dict[str, Any] = {}
        memory, bounds, sizes = self._platform.memory, blueprint.sizes.bounds, blueprint.sizes
        self._row_table = RowTable(
            num_rows=bounds.S,
            max_len=sizes.max_model_len,
            table_width=sizes.table_width,
            num_groups=len(sizes.kv.groups),
            vocab_size=blueprint.spec.vocab_size,
        )
        self._rows = Rows(memory.zeros(self._row_table.shape, "i32"), self._row_table.fields)
        self._plan_inputs = memory.zeros((len(PLAN_INPUTS), bounds.S), "i32")
        self._updates = memory.zeros((2, bounds.U), "i32")
        self._cache = [self._allocate_kv(ref) for ref in blueprint.decoder.kv_refs]
        self._shared: dict[tuple[str, tuple[int, ...]], Any] = {
            (name, (size,)): matrix[line]
            for matrix, size, names in (
                (self._plan_inputs, bounds.S, PLAN_INPUTS),
                (self._updates, bounds.U, ("index", "values")),
            )
            for line, name in enumerate(names)
        }

    def engine(self) -> Engine:
        """Programs bound to this memory, behind a runner and a scheduler."""
        plan, bounds = self._plan, self._plan.sizes.bounds
        programs = Programs(
            self._bind(plan.forward),
            self._bind(plan.planner.plan(record_updates())),
            [self._zeroing_program(group) for group in range(len(plan.sizes.kv.groups))],
            self._sampling_program,
        )
        runner = ModelRunner(
            self._platform,
            self._stream,
            programs,
            self._row_table,
            self._plan_inputs,
            self._updates,
            bounds,
            pad=plan.limits.pad,
            steps_in_flight=plan.sizes.steps_in_flight,
        )
        kv = KVCacheManager(plan.sizes.kv, prefix_caching=plan.config.cache.enable_prefix_caching)
        budget = Budget(bounds.T, bounds.S, bounds.R)
        scheduler = Scheduler(kv, budget, plan.config.scheduler.scheduling_policy)
        return Engine(scheduler, runner, plan.sizes.steps_in_flight)

    def _sampling_program(self, variant: Variant) -> BoundProgram:
        program = record(variant, vocab_size=self._plan.spec.vocab_size, dtype=self._plan.dtype)
        return self._bind(self._plan.planner.plan(program))

    def _zeroing_program(self, group: int) -> BoundProgram:
        program = record_zeroing(ref for ref in self._plan.decoder.kv_refs if ref.group == group)
        return self._bind(self._plan.planner.plan(program))

    def _bind(self, plan: Plan) -> BoundProgram:
        return BoundProgram(
            plan, self._platform, self._stream, resolve=self._resolve, externals=self._externals(plan.program)
        )

    def _externals(self, program: Program) -> dict[str, Any]:
        """Memory of a Program's inputs and outputs; those of one name and shape are shared between Programs."""
        found = {}
        for name, value in program.externals.items():
            key = (name, value.sizes(self._plan.sizes.bounds))
            if key not in self._shared:
                self._shared[key] = self._platform.memory.zeros(key[1], value.dtype)
            found[name] = self._shared[key]
        return found

    def _resolve(self, ref: Ref) -> Any:
        if isinstance(ref, WeightRef):
            return self._weights[ref.name]
        if isinstance(ref, KVRef):
            return self._cache[ref.layer]
        if isinstance(ref, RowsRef):
            return self._rows
        return self._constant(ref)

    def _constant(self, ref: ConstantRef) -> Any:
        if ref.name not in self._constants:
            tensor = self._platform.memory.empty(ref.shape, ref.dtype)
            host = ref.make()
            self._platform.memory.upload(tensor, host, self._stream)
            self._platform.device.synchronize()  # until then `host` must live
            self._constants[ref.name] = tensor
        return self._constants[ref.name]

    def _allocate_kv(self, ref: KVRef) -> Any:
        kv = self._plan.sizes.kv
        return self._platform.memory.allocate_kv(
            self._plan.kv_layout,
            num_blocks=kv.num_blocks + 1,
            block_size=kv.block_size,
            num_heads=ref.num_heads,
            head_dim=ref.head_dim,
            value_dim=ref.value_dim,
            dtype=ref.dtype,
        )

    def _load(self, progress: Progress) -> dict[str, Any]:
        plan = self._plan
        layouts = {name: plan.found.registry.weight_layouts[layout] for name, layout in plan.forward.layouts.items()}
        source, parameters = self._source(list(plan.decoder.parameters.values()))
        try:
            if plan.spec.tied:
                check_copy(source, f"{plan.spec.names.head}.weight", f"{plan.spec.names.embedding}.weight")
            return load_weights(
                parameters,
                source,
                layouts=layouts,
                platform=self._platform,
                stream=self._stream,
                progress=progress,
            )
        finally:
            source.close()

    def _source(self, parameters: list[Parameter]) -> tuple[TensorSource, list[Parameter]]:
        """Where the weights are, and the parameters in the form that they have there."""
        plan = self._plan
        if plan.config.model.load_format == "dummy":
            return DummySource(parameters, plan.dtype, plan.config.model.seed), parameters
        source = SafetensorsSource(plan.folder)
        parameters = [parameter.as_in(source.infos()) for parameter in parameters]
        tied = (f"{plan.spec.names.head}.weight",) if plan.spec.tied else ()  # a copy of the embedding, if it is there
        check_names(parameters, source.infos(), (*plan.spec.ignored_tensors, *tied), str(plan.folder))
        return source, parameters


def _check_fits(decoder: Decoder, plan: Plan, found: Discovery, sizes: Sizes, platform: Platform) -> None:
    """CapacityError if the weights, in the layouts that were chosen for them, leave too little for the cache."""
    weights = 0
    for parameter in decoder.parameters.values():
        ref = parameter.ref
        shape = ref.shape
        if ref.name in plan.layouts:
            shape = found.registry.weight_layouts[plan.layouts[ref.name]].storage(shape)
        weights += math.prod(shape) * ITEMSIZE[ref.dtype]
    free = platform.device.memory().free_bytes
    if weights + sizes.kv.num_bytes > free:
        raise CapacityError(
            f"the packed weights ({weights >> 20} MiB) and the KV cache ({sizes.kv.num_bytes >> 20} MiB) need more "
            f"than the {free >> 20} MiB that are free: lower num_blocks, kv_cache_memory_bytes or max_model_len",
            subject="weights",
        )


def _weight_bytes(decoder: Decoder) -> int:
    refs = [parameter.ref for parameter in decoder.parameters.values()]
    return sum(math.prod(ref.shape) * ITEMSIZE[ref.dtype] for ref in refs)

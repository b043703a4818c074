"""Assembling an engine: the only place where parts are put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aphrodite.config.engine import DUMMY, EngineConfig
from aphrodite.discovery.discover import Discovery
from aphrodite.discovery.registry import PlatformEntry
from aphrodite.engine.engine import Engine
from aphrodite.errors import AphroditeError, CapacityError, ModelError, PluginError
from aphrodite.footprint import footprint, plain_weights
from aphrodite.kv.manager import KVCacheManager
from aphrodite.models.config import HFConfig
from aphrodite.models.decoder import Decoder
from aphrodite.models.fallback.interface import LoadedModel
from aphrodite.models.fallback.load import load_modules
from aphrodite.models.fallback.network import ModuleNetwork
from aphrodite.models.fallback.run import Modules
from aphrodite.models.fallback.spec import ModuleSpec
from aphrodite.models.generation import GenerationConfig
from aphrodite.models.spec import DecoderSpec
from aphrodite.ops.kernel import INVARIANT, Flag
from aphrodite.ops.table import COMPOSITES
from aphrodite.platform.exhaustion import is_out_of_memory
from aphrodite.platform.layout import KVLayout, Rows
from aphrodite.platform.spi import Limits, Platform, Stream
from aphrodite.program.explain import count_torch_forms
from aphrodite.program.planner import Plan, Planner, Rules
from aphrodite.program.replay import BoundProgram
from aphrodite.program.trace import Program
from aphrodite.program.values import ConstantRef, KVRef, ModulesRef, Ref, RowsRef, WeightRef
from aphrodite.resolve import CORE, Reasons, choose_device, choose_dtype, find_plugins, read_model
from aphrodite.runner.programs import Programs, record_updates, record_zeroing
from aphrodite.runner.rows import RowTable
from aphrodite.runner.runner import PLAN_INPUTS, ModelRunner
from aphrodite.sampling.program import Variant, record
from aphrodite.sched.scheduler import Budget, Scheduler
from aphrodite.sizes import Allowance, Sizes, Taken, choose_sizes, readable
from aphrodite.types.progress import NoProgress, Progress
from aphrodite.weights.load import load_weights
from aphrodite.weights.safetensors import SafetensorsSource
from aphrodite.weights.source import DummySource, TensorSource, check_copy, check_names

_LOG = logging.getLogger("aphrodite")
_RESERVED = ("collectives", "compiler", "replay")


@dataclass(frozen=True)
class Blueprint:
    """Everything decided before memory is taken: what `explain` shows and `assemble` builds.

    attention  of a network of modules, the Program that they call back into
    taken      what the engine takes beside its KV cache
    source     the checkpoint's files, whose headers are sound and fit the network; None for dummy weights, and where
               weights were not asked for
    """

    config: EngineConfig
    folder: Path
    hf: HFConfig
    spec: DecoderSpec | ModuleSpec
    generation: GenerationConfig
    found: Discovery
    entry: PlatformEntry
    platform: Platform
    limits: Limits
    kv_layout: KVLayout
    dtype: str
    decoder: Decoder | ModuleNetwork
    sizes: Sizes
    planner: Planner
    forward: Plan
    attention: Plan | None
    taken: Taken
    source: SafetensorsSource | None
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


def draw_up(config: EngineConfig, *, weights: bool = False, show_bars: bool = False) -> Blueprint:
    """Decide everything: device, types, sizes, kernels. Reads the model's config, no weights; of a model on the hub it
    fetches them if `weights`, with the hub client's bars if `show_bars`."""
    reasons = Reasons()
    found = find_plugins(config)
    entry = choose_device(config, found, reasons)
    folder, hf, spec = read_model(config, reasons, weights=weights, show_bars=show_bars)
    generation = GenerationConfig.read(config.model.generation_config, folder, hf)
    reasons.say("sampling", generation.reason)
    source = _open_weights(folder, spec) if weights and config.model.load_format != DUMMY else None
    platform = make_platform(entry)
    try:
        limits = entry.limits or platform.limits
        dtype = choose_dtype(config, hf, limits, reasons)
        layout = choose_kv_layout(entry, found, limits)
        probe = _decoder(spec, dtype, platform, max_len=1)  # parameters and cache do not depend on the length
        allowance = Allowance.of(config, platform.device.memory(), reasons)

        def fitted(taken: Taken) -> Sizes:
            return choose_sizes(
                config, spec, probe.cache_groups, taken=taken, allowance=allowance, limits=limits, reasons=reasons
            )

        def planned(sizes: Sizes) -> Planned:
            decoder = _decoder(spec, dtype, platform, sizes.max_model_len)
            return _plan(decoder, make_planner(config, found, entry, limits, sizes, layout), sizes, limits)

        sizes = fitted(plain_weights(probe))
        decoder, planner, forward, attention = planned(sizes)
        plans = [plan for plan in (forward, attention) if plan is not None]
        taken = footprint(decoder, plans, found.registry.weight_layouts, sizes, spec.vocab_size, dtype)
        if taken.num_bytes + sizes.kv.num_bytes > allowance.num_bytes:  # the cache makes room
            before, sizes = sizes, fitted(taken)
            if sizes.bounds != before.bounds:  # sequences are shorter, too; then steps take less, and so it fits
                decoder, planner, forward, attention = planned(sizes)
        if decoder.switches:
            lengths = " or ".join(map(str, decoder.switches))
            reasons.say("rope", f"a sequence that grows beyond {lengths} tokens computes all its keys anew")
        if config.device.determinism == "batch":  # what would be planned when it is met is refused now
            for variant in (Variant(random=False, num_logprobs=-1), Variant.fullest()):
                planner.plan(record(variant, vocab_size=spec.vocab_size, dtype=dtype))
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
    forms, sites = map(sum, zip(*(count_torch_forms(plan) for plan in (forward, attention) if plan), strict=True))
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
        attention,
        taken,
        source,
        reasons.by_name,
        tuple(notes),
    )


class Planned(NamedTuple):
    """A network and its Programs, with kernels chosen. attention: as in a Blueprint."""

    decoder: Decoder | ModuleNetwork
    planner: Planner
    forward: Plan
    attention: Plan | None


def _plan(decoder: Decoder | ModuleNetwork, planner: Planner, sizes: Sizes, limits: Limits) -> Planned:
    table_width = sizes.table_width
    meta_words = limits.attn_meta_words + limits.attn_meta_words_a_seq * sizes.bounds.S
    program = decoder.record(block_size=sizes.kv.block_size, table_width=table_width, meta_words=meta_words)
    attention = None
    if isinstance(decoder, ModuleNetwork):
        attention = planner.plan(decoder.record_attention(table_width=table_width, meta_words=meta_words))
    return Planned(decoder, planner, planner.plan(program), attention)


def _decoder(spec: DecoderSpec | ModuleSpec, dtype: str, platform: Platform, max_len: int) -> Decoder | ModuleNetwork:
    """The network that a spec describes. ModelError if this device cannot run modules, and it is made of them."""
    if isinstance(spec, DecoderSpec):
        return Decoder(spec, dtype, max_len)
    if platform.device.torch_device is None:
        raise ModelError(
            f"{spec.found.where}: {spec.found.architecture} has no page of its own, so it runs as modules of "
            f"Transformers, which compute on torch tensors; the memory of device {platform.device.info.device!r} is no "
            "torch tensor: choose another device",
            subject=spec.found.architecture,
        )
    return ModuleNetwork(spec, dtype)


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
        rules=Rules(
            config.device.kernels,
            config.device.fallback,
            INVARIANT if config.device.determinism == "batch" else Flag.NONE,
        ),
    )


def assemble(config: EngineConfig, progress: Progress | None = None) -> Assembled:
    """An engine for a config: draw up, load, bind. Whatever fails, the device is let go of.

    progress  told about long work; a download shows the hub client's own bars, if there is one
    """
    progress = progress or NoProgress()
    blueprint = draw_up(config, weights=True, show_bars=not isinstance(progress, NoProgress))
    device = blueprint.platform.device
    try:
        free_bytes = device.memory().free_bytes
        return Assembled(_Assembly(blueprint, progress).engine(), blueprint)
    except Exception as error:
        device.close()
        if is_out_of_memory(error):
            raise _does_not_fit(blueprint, free_bytes, error) from error
        raise
    except BaseException:
        device.close()
        raise


class _Assembly:
    """The device memory of one engine, taken in order: weights, row state, step buffers, KV."""

    def __init__(self, blueprint: Blueprint, progress: Progress) -> None:
        self._plan = blueprint
        self._platform = blueprint.platform
        self._platform.device.activate()
        self._stream: Stream = self._platform.device.stream()
        self._weights, self._model = self._load(blueprint.decoder, progress)
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
        self._modules = self._bind_modules(plan.decoder)
        programs = Programs(
            self._bind(plan.forward),
            self._bind(plan.planner.plan(record_updates())),
            [self._zeroing_program(group) for group in range(len(plan.sizes.kv.groups))],
            self._sampling_program,
            None if self._modules is None else self._modules.attention,
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
        policy = plan.config.scheduler.scheduling_policy
        scheduler = Scheduler(kv, budget, policy, regimes=plan.decoder.switches)
        return Engine(scheduler, runner, plan.sizes.steps_in_flight)

    def _bind_modules(self, decoder: Decoder | ModuleNetwork) -> Modules | None:
        """The modules over their attention Program, if the network is made of them."""
        if isinstance(decoder, Decoder):
            return None
        assert self._model is not None and self._plan.attention is not None
        return Modules(self._model, self._bind(self._plan.attention), decoder.num_plans, decoder.sections)

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
        if isinstance(ref, ModulesRef):
            return self._modules
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

    def _load(self, decoder: Decoder | ModuleNetwork, progress: Progress) -> tuple[dict[str, Any], LoadedModel | None]:
        """The weights by name, or the modules that hold them."""
        if isinstance(decoder, Decoder):
            return self._load_weights(decoder, progress), None
        model = load_modules(
            decoder.spec,
            self._source(decoder),
            dtype=self._plan.dtype,
            device=self._platform.device.torch_device,
            max_len=self._plan.sizes.max_model_len,
            progress=progress,
            where=str(self._plan.folder),
        )
        self._platform.device.synchronize()  # they were put there on no stream of ours
        return {}, model

    def _load_weights(self, decoder: Decoder, progress: Progress) -> dict[str, Any]:
        plan, spec = self._plan, decoder.spec
        layouts = {name: plan.found.registry.weight_layouts[layout] for name, layout in plan.forward.layouts.items()}
        source, parameters = self._source(decoder), list(decoder.parameters.values())
        if source is plan.source:
            parameters = [parameter.as_in(source.infos()) for parameter in parameters]
        try:
            if spec.tied:
                check_copy(source, f"{spec.names.head}.weight", f"{spec.names.embedding}.weight")
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

    def _source(self, decoder: Decoder | ModuleNetwork) -> TensorSource:
        """Where the weights are: the checkpoint's files, or random ones if the config asks for them."""
        if self._plan.source is not None:
            return self._plan.source
        return DummySource(decoder.parameters.values(), self._plan.dtype, self._plan.config.model.seed)


def _open_weights(folder: Path, spec: DecoderSpec | ModuleSpec) -> SafetensorsSource:
    """The checkpoint's files. CheckpointError or ModelError, before any device is touched, if a header is not sound, or
    if tensors are missing, of other shapes or not part of the network. What modules want, Transformers will say."""
    if not isinstance(spec, DecoderSpec):
        return SafetensorsSource(folder, skip_unreadable=True)
    source = SafetensorsSource(folder)
    decoder = Decoder(spec, "f32", 1)  # names and shapes depend on neither
    parameters = [parameter.as_in(source.infos()) for parameter in decoder.parameters.values()]
    tied = (f"{spec.names.head}.weight",) if spec.tied else ()  # a copy of the embedding, if it is there
    check_names(parameters, source.infos(), (*spec.ignored_tensors, *tied), str(folder))
    return source


def _does_not_fit(blueprint: Blueprint, free_bytes: int, error: Exception) -> CapacityError:
    """What to say when the device refuses memory that it seemed to have."""
    sizes, said = blueprint.sizes, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return CapacityError(
        f"memory ran out while the engine was built on {blueprint.entry.info.device}: it needs {blueprint.taken} and a "
        f"KV cache of {readable(sizes.kv.num_bytes)}, and {readable(free_bytes)} were free; lower memory_utilization, "
        f"num_blocks or kv_cache_memory_bytes, max_model_len, max_num_seqs or max_num_batched_tokens ({said})",
        subject="memory",
    )

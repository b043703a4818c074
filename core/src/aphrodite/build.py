"""Assembling an engine from its blueprint: the only place where parts are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aphrodite.blueprint import Blueprint, built_on, draw_up
from aphrodite.config.engine import EngineConfig
from aphrodite.engine.engine import Engine
from aphrodite.errors import CapacityError, told
from aphrodite.kv.manager import KVCacheManager
from aphrodite.models.decoder import Decoder
from aphrodite.models.fallback.interface import LoadedModel
from aphrodite.models.fallback.load import load_modules
from aphrodite.models.fallback.network import ModuleNetwork
from aphrodite.models.fallback.run import Modules
from aphrodite.platform.exhaustion import is_out_of_memory
from aphrodite.platform.layout import KVView, Rows
from aphrodite.platform.spi import Stream
from aphrodite.program.plan import Plan
from aphrodite.program.replay import BoundProgram
from aphrodite.program.trace import Program
from aphrodite.program.values import ConstantRef, KVRef, ModulesRef, Ref, RowsRef, WeightRef
from aphrodite.runner.programs import Programs, record_updates, record_zeroing
from aphrodite.runner.rows import RowTable
from aphrodite.runner.runner import PLAN_INPUTS, ModelRunner
from aphrodite.sampling.program import Variant, record
from aphrodite.sched.scheduler import Budget, Scheduler
from aphrodite.sizes import readable
from aphrodite.types.progress import NoProgress, Progress
from aphrodite.weights.load import load_weights
from aphrodite.weights.source import DummySource, TensorSource, check_copy


@dataclass(frozen=True)
class Assembled:
    """An engine ready to run, and the blueprint it follows."""

    engine: Engine
    blueprint: Blueprint


def assemble(
    config: EngineConfig,
    progress: Progress | None = None,
    on_drawn: Callable[[Blueprint], None] = lambda blueprint: None,
) -> Assembled:
    """An engine for a config: draw up, load, bind. Whatever fails, the device is let go of.

    progress  told about long work; a download shows the hub client's own bars, if there is one
    on_drawn  told of the blueprint before weights are loaded; what it raises ends all
    """
    progress = progress or NoProgress()
    blueprint = draw_up(config, weights=True, show_bars=not isinstance(progress, NoProgress))
    device = blueprint.platform.device
    try:
        on_drawn(blueprint)
        with built_on(blueprint.entry):
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
        view = self._platform.memory.allocate_kv(
            self._plan.kv_layout,
            num_blocks=kv.num_blocks + 1,
            block_size=kv.block_size,
            num_heads=ref.num_heads,
            head_dim=ref.head_dim,
            value_dim=ref.value_dim,
            dtype=ref.dtype,
        )
        if not isinstance(view, KVView):  # from outside: its type is a promise, not a fact
            raise TypeError(f"Memory.allocate_kv must return a KVView, got {type(view).__name__}")
        return view

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


def _does_not_fit(blueprint: Blueprint, free_bytes: int, error: Exception) -> CapacityError:
    """What to say when the device refuses memory that it seemed to have."""
    sizes, said = blueprint.sizes, told(error)
    free = f", and {readable(free_bytes)} were free" if free_bytes > 0 else ""
    return CapacityError(
        f"memory ran out while the engine was built on {blueprint.entry.info.device}: it needs {blueprint.taken} and a "
        f"KV cache of {readable(sizes.kv.num_bytes)}{free}; lower memory_utilization, "
        f"num_blocks or kv_cache_memory_bytes, max_model_len, max_num_seqs or max_num_batched_tokens ({said})",
        subject="memory",
    )

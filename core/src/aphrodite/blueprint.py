"""Drawing up an engine: all that is decided before memory is taken."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from aphrodite.config.engine import DUMMY, EngineConfig
from aphrodite.discovery.discover import Discovery
from aphrodite.discovery.registry import PlatformEntry
from aphrodite.errors import AphroditeError, DeviceError, ModelError, PluginError, is_interrupt, told
from aphrodite.footprint import footprint, plain_weights
from aphrodite.models.config import HFConfig
from aphrodite.models.decoder import Decoder
from aphrodite.models.fallback.load import check_size
from aphrodite.models.fallback.network import ModuleNetwork
from aphrodite.models.fallback.spec import ModuleSpec
from aphrodite.models.generation import GenerationConfig
from aphrodite.models.spec import DecoderSpec
from aphrodite.ops.kernel import INVARIANT, Flag
from aphrodite.ops.table import COMPOSITES
from aphrodite.platform.exhaustion import is_out_of_memory
from aphrodite.platform.layout import KVLayout
from aphrodite.platform.spi import Limits, Platform
from aphrodite.program.explain import count_torch_forms
from aphrodite.program.plan import Plan
from aphrodite.program.planner import Planner
from aphrodite.program.rules import Rules
from aphrodite.resolve import CORE, Reasons, choose_device, choose_dtype, find_plugins, read_model
from aphrodite.sampling.program import Variant, record
from aphrodite.sizes import Allowance, Sizes, Taken, choose_sizes
from aphrodite.weights.safetensors import SafetensorsSource
from aphrodite.weights.source import check_names

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


def draw_up(config: EngineConfig, *, weights: bool = False, show_bars: bool = False) -> Blueprint:
    """Decide everything: device, types, sizes, kernels. Reads the model's config, no weights; of a model on the hub it
    fetches them if `weights`, with the hub client's bars if `show_bars`."""
    reasons = Reasons()
    found = find_plugins(config)
    entry = choose_device(config, found, reasons)
    folder, hf, spec = read_model(config, reasons, weights=weights, show_bars=show_bars)
    generation = GenerationConfig.read(config.model.generation_config, folder, hf, spec.vocab_size)
    reasons.say("sampling", generation.reason)
    source = _open_weights(folder, spec) if weights and config.model.load_format != DUMMY else None
    platform = make_platform(entry)
    try:
        with built_on(entry):
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
    forward, attention = planner.plan(program), None
    if isinstance(decoder, ModuleNetwork):
        attention = planner.plan(decoder.record_attention(table_width=table_width, meta_words=meta_words))
    return Planned(decoder, planner, forward, attention)


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
    except BaseException as error:  # SystemExit, and the panics of native libraries
        if is_interrupt(error):
            raise
        raise PluginError(
            f"plugin {entry.plugin!r} could not make its platform: {told(error)}",
            subject=entry.plugin,
        ) from error
    if missing or not isinstance(platform.limits, Limits):
        lacks = f"lacks {', '.join(missing)}" if missing else "has limits that are no Limits"
        raise PluginError(f"plugin {entry.plugin!r}: its platform {lacks}", subject=entry.plugin)
    return platform


@contextmanager
def built_on(entry: PlatformEntry) -> Iterator[None]:
    """Whatever else than our own errors a device's parts raise while an engine is built, as a DeviceError that names
    them."""
    try:
        yield
    except AphroditeError:
        raise
    except BaseException as error:
        if is_interrupt(error) or is_out_of_memory(error):  # of memory, whoever assembles has advice
            raise
        _LOG.debug("building the engine failed", exc_info=True)
        raise DeviceError(
            f"building the engine on device {entry.info.device!r} of plugin {entry.plugin!r} failed: {told(error)}",
            subject=entry.plugin,
        ) from error


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


def _open_weights(folder: Path, spec: DecoderSpec | ModuleSpec) -> SafetensorsSource:
    """The checkpoint's files. CheckpointError or ModelError, before any device is touched, if a header is not sound, or
    if tensors are missing, of other shapes or not part of the network. Of what modules want only the size is checked:
    which tensors they are, Transformers will say."""
    if not isinstance(spec, DecoderSpec):
        files = SafetensorsSource(folder, skip_unreadable=True)
        check_size(spec, files, str(folder))
        return files
    source = SafetensorsSource(folder)
    decoder = Decoder(spec, "f32", 1)  # names and shapes depend on neither
    parameters = [parameter.as_in(source.infos()) for parameter in decoder.parameters.values()]
    tied = (f"{spec.names.head}.weight",) if spec.tied else ()  # a copy of the embedding, if it is there
    check_names(parameters, source.infos(), (*spec.ignored_tensors, *tied), str(folder))
    return source

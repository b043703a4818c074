"""Weights into modules: our readers give the bytes, Transformers says where they go.

Checkpoints are often written in another form than the modules have (a tensor for each expert, older names), and
Transformers keeps the list of these. So its own loader does the assembling, from tensors that are read when it asks.
"""

from __future__ import annotations

import copy
import fnmatch
import math
import mmap
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from aphrodite.errors import AphroditeError, CheckpointError, told
from aphrodite.models.fallback.alone import require_alone
from aphrodite.models.fallback.interface import NAME, LoadedModel, connect
from aphrodite.models.fallback.quiet import quiet
from aphrodite.models.fallback.spec import ModuleSpec
from aphrodite.platform.dtypes import ITEMSIZE, torch_dtype
from aphrodite.program.parameters import num_rows
from aphrodite.types.progress import Progress
from aphrodite.weights.source import TensorSource

_MOST_GROWTH, _SPARE = 2, 1 << 20  # tensors of the modules that no checkpoint has: tables, masks
_CHUNK_BYTES = 1 << 20
_PAGES_BYTES = 1 << 20  # tensors from here on lie in pages of their own


class LazyTensor:
    """A tensor of a checkpoint that is read when it is indexed, as those of the safetensors library are."""

    def __init__(self, read: Callable[[str], torch.Tensor], name: str, shape: tuple[int, ...]) -> None:
        self._read = read
        self._name = name
        self.shape = shape

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._read(self._name)[index]


def check_size(spec: ModuleSpec, source: TensorSource, where: str) -> None:
    """CheckpointError if the network is far larger than what the files hold. Which tensors differ is known only when
    all of them have been taken memory for, and a config that is wrong by a factor may ask for more than there is."""
    wanted = sum(map(math.prod, spec.probed.tensors.values()))
    held = sum(math.prod(info.shape) for info in source.infos().values())
    if wanted > _MOST_GROWTH * held + _SPARE:
        raise CheckpointError(
            f"{where}: the network that config.json describes has {wanted} parameters, its files hold {held}: is this "
            "checkpoint complete, and its config.json its own?",
            subject=where,
        )


def load_modules(
    spec: ModuleSpec,
    source: TensorSource,
    *,
    dtype: str,
    device: torch.device | None,
    max_len: int,
    progress: Progress,
    where: str,
) -> LoadedModel:
    """The modules with weights from a source, which is closed, on the device. CheckpointError names tensors that are
    missing, of another shape or not part of the network; ModelError if tokens meet elsewhere than in attention."""
    try:
        model = _assemble(spec, source, dtype, progress, where)
    finally:
        source.close()
    model.to(device)
    loaded = LoadedModel(model, connect(model))
    with quiet():
        require_alone(spec.found, loaded, vocab_size=spec.vocab_size, max_len=max_len)
    return loaded


def _assemble(spec: ModuleSpec, source: TensorSource, dtype: str, progress: Progress, where: str) -> torch.nn.Module:
    reader = _Reader(spec, source, torch_dtype(dtype), progress)
    config = copy.deepcopy(spec.found.config)
    config._attn_implementation = NAME
    progress.start("loading weights", reader.num_bytes, "B")
    try:
        with quiet():
            model, info = spec.found.model.from_pretrained(
                None,
                config=config,
                state_dict=reader.tensors(),
                dtype=torch_dtype(dtype),
                output_loading_info=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are told below, by name
            )
    except AphroditeError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{where}: Transformers cannot load these weights: {told(error)}", subject=where
        ) from error
    finally:
        progress.finish()
    _check(info, source, where)
    loaded: torch.nn.Module = model.eval().requires_grad_(False)
    return loaded


class _Reader:
    """Reads one tensor at a time: Transformers asks from several threads.

    It reads ahead of what it puts in place, and merges the tensors of experts only then. So a tensor is converted while
    it is read, in small pieces, and its memory is the system's own again when it is freed: what the C library's heap
    keeps for later would count twice beside the weights.
    """

    def __init__(self, spec: ModuleSpec, source: TensorSource, dtype: torch.dtype, progress: Progress) -> None:
        self._source = source
        self._dtype = dtype
        self._progress = progress
        self._lock = threading.Lock()
        self._infos = source.infos()
        numbers = {name for name, shape in spec.probed.tensors.items() if shape == ()}
        self._shapes = {
            name: () if info.shape == (1,) and name in numbers else info.shape for name, info in self._infos.items()
        }
        kept = (*(spec.found.model._keep_in_fp32_modules or ()), *(spec.found.model._keep_in_fp32_modules_strict or ()))
        self._as_stored = {".".join(pattern.rpartition("*")[2].strip(".").split(".")[-2:]) for pattern in kept}

    @property
    def num_bytes(self) -> int:
        return sum(math.prod(info.shape) * ITEMSIZE[info.dtype] for info in self._infos.values())

    def tensors(self) -> dict[str, LazyTensor]:
        return {name: LazyTensor(self.read, name, shape) for name, shape in self._shapes.items()}

    def read(self, name: str) -> torch.Tensor:
        """A tensor, in the type of the activations; in its own if Transformers may want to keep it in float32."""
        info, shape = self._infos[name], self._shapes[name]
        as_stored = any(word in name for word in self._as_stored)
        out = _host_memory(shape, torch_dtype(info.dtype) if as_stored else self._dtype)
        rows = num_rows(shape) if shape else 1
        flat = out.view(rows, -1) if rows else out
        step = max(1, _CHUNK_BYTES // max(1, flat[:1].nbytes))
        with self._lock:
            for start in range(0, rows, step):
                stop = min(rows, start + step)
                piece = self._source.rows(name, start, stop)
                flat[start:stop].copy_(piece.view(stop - start, -1))
                self._progress.advance(piece.nbytes)
        return out


def _host_memory(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < _PAGES_BYTES:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=dtype).view(shape)


# What older versions of Transformers wrote beside the weights: masks and tables that modules make themselves.
_LEFTOVERS = ("*attn.bias", "*attention.bias", "*masked_bias", "*rotary_emb.inv_freq", "*position_ids")


def _check(info: Mapping[str, Any], source: TensorSource, where: str) -> None:
    """CheckpointError unless every tensor had its place, and every place its tensor."""
    for name, kind in source.unreadable.items():
        if not _is_leftover(name):
            raise CheckpointError(f"{where}: tensor {name!r} is {kind}, which is no type of weights here", subject=name)
    for found, what in (
        (info["mismatched_keys"], "of another shape than config.json asks for"),
        (info["missing_keys"], "missing, which config.json asks for: is this checkpoint complete?"),
        (
            [name for name in info["unexpected_keys"] if not _is_leftover(name)],
            "not part of the network that config.json describes: weights that are there and not used would give wrong "
            "text",
        ),
        (info.get("error_msgs"), "not to be loaded"),
    ):
        if found:
            names = sorted(_describe(one) for one in found)
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(f"{where}: {shown}: {what}", subject=names[0])


def _is_leftover(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in _LEFTOVERS)


def _describe(entry: Any) -> str:
    """A tensor, or (tensor, its shape, the shape asked for)."""
    if isinstance(entry, tuple):
        name, has, wants = entry
        return f"{name!r} ({list(has)} instead of {list(wants)})"
    return repr(entry)

"""Weights into modules: our readers give the bytes, Transformers says where they go.

Checkpoints are often written in another form than the modules have (a tensor for each expert, older names), and
Transformers keeps the list of these. So its own loader does the assembling, from tensors that are read when it asks.
"""

from __future__ import annotations

import copy
import fnmatch
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL
from typing import Any

import torch

from aphrodite.errors import AphroditeError, CheckpointError
from aphrodite.models.fallback.alone import require_alone
from aphrodite.models.fallback.interface import NAME, LoadedModel, connect
from aphrodite.models.fallback.spec import ModuleSpec
from aphrodite.platform.dtypes import ITEMSIZE, torch_dtype
from aphrodite.program.parameters import num_rows
from aphrodite.types.progress import Progress
from aphrodite.weights.source import TensorSource


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
    require_alone(spec.found, loaded, vocab_size=spec.vocab_size, max_len=max_len)
    return loaded


def _assemble(spec: ModuleSpec, source: TensorSource, dtype: str, progress: Progress, where: str) -> torch.nn.Module:
    reader = _Reader(source, spec.probed.tensors, progress)
    config = copy.deepcopy(spec.found.config)
    config._attn_implementation = NAME
    progress.start("loading weights", reader.num_bytes, "B")
    try:
        with _quiet():
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
            f"{where}: Transformers cannot load these weights: {type(error).__name__}: {error}", subject=where
        ) from error
    finally:
        progress.finish()
    _check(info, source, where)
    loaded: torch.nn.Module = model.eval().requires_grad_(False)
    return loaded


class _Reader:
    """Reads one tensor at a time: Transformers asks from several threads.

    shapes  of the modules' tensors: where a source has one of no axes as a vector of one, it is what they say
    """

    def __init__(self, source: TensorSource, shapes: Mapping[str, tuple[int, ...]], progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self._lock = threading.Lock()
        self._infos = source.infos()
        self._shapes = {
            name: () if info.shape == (1,) and shapes.get(name) == () else info.shape
            for name, info in self._infos.items()
        }

    @property
    def num_bytes(self) -> int:
        return sum(math.prod(info.shape) * ITEMSIZE[info.dtype] for info in self._infos.values())

    def tensors(self) -> dict[str, LazyTensor]:
        return {name: LazyTensor(self.read, name, shape) for name, shape in self._shapes.items()}

    def read(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        with self._lock:
            rows = self._source.rows(name, 0, num_rows(shape) if shape else 1)
            self._progress.advance(rows.nbytes)
        return rows.reshape(shape)


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


# Transformers keeps its verbosity and, while it makes a model, the default type of tensors for the whole process: one
# network is loaded at a time.
_LOADING = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers' own progress bars and reports off: the caller's progress and our errors say it."""
    from transformers.utils import logging

    with _LOADING:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()

"""Aphrodite: an inference engine for Hugging Face compatible models.

    from aphrodite import LLM, SamplingParams
    llm = LLM("path/or/hub-name")
    print(llm.generate("Once upon a time", SamplingParams(max_tokens=32))[0].outputs[0].text)

Names are loaded on first use, so `import aphrodite` costs milliseconds and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aphrodite._version import __version__

if TYPE_CHECKING:
    from aphrodite.config.engine import EngineConfig as EngineConfig
    from aphrodite.engine.async_engine import AsyncEngine as AsyncEngine
    from aphrodite.engine.llm import LLM as LLM
    from aphrodite.errors import AphroditeError as AphroditeError
    from aphrodite.types.outputs import CompletionOutput as CompletionOutput
    from aphrodite.types.outputs import Logprob as Logprob
    from aphrodite.types.outputs import RequestMetrics as RequestMetrics
    from aphrodite.types.outputs import RequestOutput as RequestOutput
    from aphrodite.types.sampling_params import SamplingParams as SamplingParams

_HOME = {
    "LLM": "aphrodite.engine.llm",
    "AsyncEngine": "aphrodite.engine.async_engine",
    "EngineConfig": "aphrodite.config.engine",
    "AphroditeError": "aphrodite.errors",
    "CompletionOutput": "aphrodite.types.outputs",
    "Logprob": "aphrodite.types.outputs",
    "RequestMetrics": "aphrodite.types.outputs",
    "RequestOutput": "aphrodite.types.outputs",
    "SamplingParams": "aphrodite.types.sampling_params",
}

__all__ = [
    "LLM",
    "AphroditeError",
    "AsyncEngine",
    "CompletionOutput",
    "EngineConfig",
    "Logprob",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aphrodite' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

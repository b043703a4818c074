"""LLM: the engine inside another program. Text in, text out; no processes, no printing."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from aphrodite.build import assemble
from aphrodite.config.engine import CacheConfig, DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from aphrodite.engine.outputs import request_output
from aphrodite.engine.requests import RequestMaker, children
from aphrodite.errors import UsageError
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.outputs import RequestOutput
from aphrodite.types.progress import NoProgress, Progress
from aphrodite.types.request import Sequence as EngineSequence
from aphrodite.types.sampling_params import SamplingParams

Prompt = str | Sequence[int] | Mapping[str, Any]

_SECTIONS: Mapping[str, type[Any]] = {
    "model": ModelConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
    "device": DeviceConfig,
}


def config_from(settings: Mapping[str, Any]) -> EngineConfig:
    """An EngineConfig from flat settings, as LLM takes them. UsageError names one that does not exist."""
    left = dict(settings)
    if "dtype" in left:
        left["dtype"] = str(left["dtype"])  # torch.bfloat16 reads "torch.bfloat16"
    sections = {}
    for name, kind in _SECTIONS.items():
        known = kind.__dataclass_fields__
        sections[name] = kind(**{key: left.pop(key) for key in list(left) if key in known})
    if left:
        unknown = next(iter(left))
        known_names = sorted(key for kind in _SECTIONS.values() for key in kind.__dataclass_fields__)
        raise UsageError(f"there is no setting {unknown!r}; there are {', '.join(known_names)}", subject=unknown)
    return EngineConfig(**sections)


class LLM:
    """A model, loaded and ready to generate.

        llm = LLM("path/or/hub-name", device="cpu", max_model_len=4096)
        outputs = llm.generate(["One prompt", [1, 2, 3]], SamplingParams(temperature=0))

    model     folder of a Hugging Face checkpoint, or its name on the hub
    progress  told about long work; nothing is printed by default
    settings  fields of EngineConfig: dtype, device, max_model_len, max_num_seqs, num_blocks, seed, load_format ...
    Raises UsageError, ModelError or CapacityError; each says what to do. Use as a context manager, or call close().
    """

    def __init__(self, model: str, *, progress: Progress | None = None, **settings: Any) -> None:
        self.config = config_from({"model": str(model), **settings})
        assembled = assemble(self.config, progress)
        self.blueprint = assembled.blueprint
        self._engine = assembled.engine
        self._lock = threading.RLock()
        self._threads = {threading.get_ident()}  # those that have made the device theirs; assemble was the first
        self._running = False
        self._closed = False
        try:
            self.tokenizer = Tokenizer.find(self.blueprint.folder)
            self._requests = RequestMaker(self.blueprint, self.tokenizer)
        except BaseException:
            self._engine.close()
            raise

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] = 0,
        progress: Progress | None = None,
    ) -> list[RequestOutput]:
        """Continue each prompt; results in the order of the prompts.

        prompts          a string, a list of token ids, {"prompt_token_ids": [...]} or {"prompt": ...}, or a list of
                         these. With "cache_salt" in such a mapping, cached blocks are shared with requests of the
                         same salt alone
        sampling_params  one for all, or one for each prompt
        priority         likewise; lower goes first, where scheduling_policy is "priority"
        Raises UsageError, before anything runs, if one prompt or parameter cannot be used.
        """
        requests = self._requests.make_all(prompts, sampling_params, priority)
        families = [children(request) for _, request in requests]
        progress = progress or NoProgress()
        with self._lock:
            self._enter()
            try:
                self._running = True
                sequences = [[self._engine.add(child) for child in family] for family in families]
                every = [sequence for family in sequences for sequence in family]
                most = sum(seq.request.max_total_tokens - len(seq.request.prompt_token_ids) for seq in every)
                progress.start("generating", most, "tok")
                self._run(every, progress)
            finally:
                for child in (child for family in families for child in family):  # only after an error are any left
                    self._engine.abort(child.request_id)
                self._running = False
                progress.finish()
        return [
            request_output(family, text, self.tokenizer) for (text, _), family in zip(requests, sequences, strict=True)
        ]

    def _run(self, sequences: Sequence[EngineSequence], progress: Progress) -> None:
        done = 0
        while self._engine.has_work:
            self._engine.step()
            now = sum(sequence.num_output for sequence in sequences)
            progress.advance(now - done)
            done = now

    def _enter(self) -> None:
        """Refuse what cannot run now; make the device current for a thread that is new to it."""
        if self._closed:
            raise UsageError("this LLM is closed: make a new one", subject="llm")
        if self._running:
            raise UsageError("generate and close cannot be called from inside generate", subject="llm")
        if threading.get_ident() not in self._threads:
            self.blueprint.platform.device.activate()
            self._threads.add(threading.get_ident())

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """What parameters have that a caller leaves out, where the model's generation config says so."""
        return self.blueprint.generation.defaults

    def reset_prefix_cache(self) -> None:
        """Forget the KV blocks of all past requests, say before a measurement."""
        with self._lock:
            if not self._closed:
                self._engine.reset_prefix_cache()

    def close(self) -> None:
        """Give back the device and its memory; further calls fail, but for close() itself. UsageError from inside
        generate (a progress callback)."""
        with self._lock:
            if not self._closed:
                self._enter()
                self._closed = True
                self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

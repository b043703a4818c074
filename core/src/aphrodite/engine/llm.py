"""LLM: the engine inside another program. Text in, text out; no processes, no printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from aphrodite.blueprint import Blueprint
from aphrodite.config.engine import EngineConfig
from aphrodite.engine.local import LocalEngine
from aphrodite.engine.mailbox import Mailbox, Stream
from aphrodite.engine.requests import Prepared
from aphrodite.progress import shown
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.outputs import RequestOutput
from aphrodite.types.progress import NoProgress, Progress
from aphrodite.types.sampling_params import SamplingParams

Prompt = str | Sequence[int] | Mapping[str, Any]
Messages = Sequence[Mapping[str, Any]]
Params = SamplingParams | Sequence[SamplingParams] | None

_PROGRESS_EVERY_S = 0.1


class LLM:
    """A model, loaded and ready to generate.

        llm = LLM("path/or/hub-name", device="cpu", max_model_len=4096)
        outputs = llm.generate(["One prompt", [1, 2, 3]], SamplingParams(temperature=0))

    model     folder of a Hugging Face checkpoint, or its name on the hub
    progress  told about long work; nothing is printed by default
    settings  fields of EngineConfig: dtype, device, max_model_len, max_num_seqs, num_blocks, seed, load_format ...
    Raises UsageError, ModelError or CapacityError; each says what to do. Use as a context manager, or call close().

    May be used from several threads at once, whose requests share the engine's steps. It has one thread and no process,
    and leaves signals, logging and the environment alone.
    """

    def __init__(self, model: str, *, progress: Progress | None = None, **settings: Any) -> None:
        self._local = LocalEngine(model, progress, settings)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        *,
        priority: int | Sequence[int] = 0,
        use_tqdm: bool | Callable[..., Any] = False,
        progress: Progress | None = None,
    ) -> list[RequestOutput]:
        """Continue each prompt; results in the order of the prompts.

        prompts          a string, a list of token ids, {"prompt_token_ids": [...]} or {"prompt": ...}, or a list of
                         these. With "cache_salt" in such a mapping, cached blocks are shared with requests of the
                         same salt alone
        sampling_params  one for all, or one for each prompt
        priority         likewise; lower goes first, where scheduling_policy is "priority"
        use_tqdm         show progress on standard error; a class such as tqdm shows it its own way
        progress         told about progress, in place of use_tqdm
        Raises UsageError, before anything runs, if one prompt or parameter cannot be used.
        """
        prepared = self._local.frontend.prepare(prompts, sampling_params, priority)
        return self._run(prepared, progress or shown(use_tqdm))

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: Params = None,
        *,
        priority: int | Sequence[int] = 0,
        use_tqdm: bool | Callable[..., Any] = False,
        progress: Progress | None = None,
        **how: Any,
    ) -> list[RequestOutput]:
        """Answer each conversation, written by the model's chat template; results in their order.

        messages  [{"role": "user", "content": "Hello"}], or a list of such lists
        how       add_generation_prompt (default true), continue_final_message, tools, chat_template (a text, a file's
                  path, or the name of one of the model's), chat_template_kwargs: what else the template reads
        Control tokens that a message spells are encoded as text. Other arguments and errors as in `generate`.
        """
        prepared = self._local.frontend.prepare_chat(messages, sampling_params, priority, **how)
        return self._run(prepared, progress or shown(use_tqdm))

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, priority: int = 0
    ) -> Iterator[RequestOutput]:
        """Continue one prompt: an output whenever there is more, each with all there is so far; the last is finished.

        The request is aborted when the iterator is closed or dropped. UsageError, at once, for what cannot be used.
        """
        prepared = self._local.frontend.prepare_one(prompt, sampling_params, priority)
        return Stream(self._local.loop, self._local.frontend.state(prepared), prepared)

    def stream_chat(
        self, messages: Messages, sampling_params: SamplingParams | None = None, *, priority: int = 0, **how: Any
    ) -> Iterator[RequestOutput]:
        """Answer one conversation, as `stream` does; arguments as in `chat`."""
        (prepared,) = self._local.frontend.prepare_chat(messages, sampling_params, priority, **how)
        return Stream(self._local.loop, self._local.frontend.state(prepared), prepared)

    def _run(self, prepared: Sequence[Prepared], progress: Progress) -> list[RequestOutput]:
        """All outputs, once all have ended."""
        states = [self._local.frontend.state(one) for one in prepared]
        requests = [request for one in prepared for request in one.requests]
        mailbox = Mailbox(states, eager=False)
        every_s = None if isinstance(progress, NoProgress) else _PROGRESS_EVERY_S
        progress.start("generating", sum(r.max_total_tokens - len(r.prompt_token_ids) for r in requests), "tok")
        done = 0
        try:
            self._local.loop.add(requests, mailbox.put)
            while not mailbox.is_finished:
                self._local.loop.abort(mailbox.read(every_s))
                progress.advance(mailbox.num_output - done)
                done = mailbox.num_output
        finally:
            self._local.loop.abort(mailbox.live)  # only after an error are any left
            progress.finish()
        return [state.output() for state in states]

    @property
    def blueprint(self) -> Blueprint:
        """What was decided for the engine, and why."""
        return self._local.blueprint

    @property
    def config(self) -> EngineConfig:
        """The settings that it was made with."""
        return self._local.config

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; None for a model without."""
        return self._local.frontend.tokenizer

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """What parameters have that a caller leaves out, where the model's generation config says so."""
        return self.blueprint.generation.defaults

    def reset_prefix_cache(self) -> None:
        """Forget the KV blocks of all past requests, say before a measurement. UsageError after close."""
        self._local.loop.call(lambda engine: engine.reset_prefix_cache())

    def close(self) -> None:
        """Give back the device and its memory. What still runs in other threads raises UsageError there, as all further
        calls do, but for close() itself."""
        self._local.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

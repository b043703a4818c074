"""What all dialects share: requests are admitted, prepared, given to the engine, watched and counted here."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aphrodite.engine.desk import Desk
from aphrodite.engine.host import Health, Host, Model
from aphrodite.engine.requests import Prepared
from aphrodite.errors import AphroditeError, UsageError, one_line
from aphrodite.server.admission import Admission
from aphrodite.server.errors import (
    ApiError,
    deadline_exceeded,
    draining,
    engine_restarting,
    engine_stalled,
    from_exception,
    invalid,
    model_loading,
    unknown_model,
)
from aphrodite.server.generation import Chat, Generation
from aphrodite.server.logprobs import LogprobBounds
from aphrodite.server.metrics import Metrics
from aphrodite.server.reading import PLAIN, Reading
from aphrodite.server.run import Prompt, Run
from aphrodite.text.formats.select import AUTO, select
from aphrodite.types.shown import shown

if TYPE_CHECKING:
    from aphrodite.server.dialect import Call

_LOG = logging.getLogger("aphrodite.server")
_INLINE_CHARS = 2048  # longer prompts are tokenised on another thread, so that the event loop goes on
_MAX_TIMEOUT_S = 86400.0
_TIMEOUT_HEADER = "x-request-timeout"
_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class ServiceSettings:
    """What the operator says of requests.

    model_names     what clients may call the model; the first is shown
    max_sequences   most sequences in the engine and before it
    max_queued_tokens  most tokens of prompts of which nothing has come yet
    max_prompt_logprobs, max_output_logprobs  most log-probabilities of prompts, and of outputs, in one answer
    request_timeout_s  a request must be done in that time; None: no limit
    strict_params   refuse parameters that would have no effect
    chat_template   in place of the model's own
    tool_call_parser, reasoning_parser  names of formats (text.formats.select) as which answers are read
    """

    model_names: tuple[str, ...]
    max_sequences: int
    max_queued_tokens: int = 1 << 20
    max_prompt_logprobs: int = 1 << 18
    max_output_logprobs: int = 1 << 22
    request_timeout_s: float | None = None
    strict_params: bool = False
    chat_template: str | None = None
    tool_call_parser: str = AUTO
    reasoning_parser: str = AUTO


class Service:
    """The engine as dialects see it."""

    def __init__(self, host: Host, settings: ServiceSettings, metrics: Metrics) -> None:
        """UsageError if the settings name a format that does not exist."""
        select({}, (), tools=settings.tool_call_parser, reasoning=settings.reasoning_parser)
        self.host = host
        self.settings = settings
        self.metrics = metrics
        self.admission = Admission(settings.max_sequences)
        self._logprobs = LogprobBounds(settings.max_prompt_logprobs, settings.max_output_logprobs)
        self.started_at = int(time.time())
        self.is_draining = False
        self.is_paused = False
        self.runs: set[Run] = set()
        self._num_queued_tokens = 0  # of prompts of which nothing has come yet
        self._reading: tuple[Model, Reading] | None = None
        self._desk: tuple[Model, Desk] | None = None
        # Tokenisers let go of the interpreter while they work, templates do not: many threads would be of no use.
        self._workers = ThreadPoolExecutor(2, "aphrodite-text")

    @property
    def model(self) -> Model:
        """What answers now. ApiError if nothing does."""
        if self.is_draining:
            raise draining()
        model = self.host.model
        if model is None:
            raise self.unavailable()
        return model

    def check_answers(self) -> Model:
        """The model. ApiError unless it takes requests on: those that run may wait for what has stopped."""
        model = self.model
        if self.host.health is Health.STALLED:
            raise self.unavailable()
        if self.is_paused:
            raise ApiError(503, "paused", "the server is paused: try again later", retry_after_s=5)
        return model

    def unavailable(self) -> ApiError:
        """Why nothing answers."""
        if self.host.health is Health.LOADING:
            return model_loading()
        if self.host.health is Health.STALLED:
            return engine_stalled()
        if self.host.health is Health.FAILED:
            why = self.host.last_failure
            shown = from_exception(why).message if why is not None else "the engine could not be started"
            return ApiError(503, "engine_failed", f"{shown}; it will not be started again", retry_after_s=60)
        return engine_restarting()

    def check_model(self, name: Any) -> None:
        """ApiError unless a request means the model that is here. An absent name does."""
        if name is None or name == "":
            return
        if not isinstance(name, str):
            raise invalid("model", f"model must be a text, got {shown(name)}")
        if name not in self.settings.model_names:
            raise unknown_model(name, ", ".join(self.settings.model_names))

    def no_room(self) -> ApiError:
        """Why not one more sequence can be taken on, while there is no room for it."""
        try:
            self.check_answers()  # or a queue that does not move would be a reason to come again
        except ApiError as error:
            return error
        return self.admission.refusal(1)

    async def offload(self, function: Any, *arguments: Any) -> Any:
        """Call a function that takes its time on another thread."""
        try:
            found = asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)
        except RuntimeError as error:  # there is no memory for a thread
            raise MemoryError(str(error)) from error
        return await found

    def check_ignored(self, names: Sequence[str]) -> None:
        """ApiError if there are fields without effect, and the operator wants such to be refused."""
        if self.settings.strict_params and names:
            raise invalid(
                names[0],
                f"{names[0]} has no effect here, and --strict-params refuses such parameters: leave it out",
                "unsupported_parameter",
            )

    async def start(self, generation: Generation, call: Call) -> Run:
        """Take a request on. ApiError if it cannot be run, or not now.

        It is counted before anything is done for it, so that who is refused has cost nothing.
        """
        began_s = asyncio.get_running_loop().time()
        timeout_s = self._timeout(generation, call)
        model = self.check_answers()
        count = generation.num_sequences
        try:
            self.admission.take(count)
        except ApiError:
            self.metrics.refused.inc()
            raise
        try:
            generation = replace(generation, cache_salt=_salt(call.tenant, generation.cache_salt))
            prepared = await self._prepared(model, generation, timeout_s)
            run = self._begun(model, generation, prepared, count, began_s)
        except BaseException as error:
            self.admission.give_back(count)
            if isinstance(error, Exception):
                raise self.translate(error) from error
            raise
        if timeout_s is not None:
            run.expire_at(began_s + timeout_s, timeout_s)
        return run

    async def _prepared(self, model: Model, generation: Generation, timeout_s: float | None) -> list[Prepared]:
        if generation.chat is None and sum(map(len, generation.prompts)) <= _INLINE_CHARS:
            return self.prepare(model, generation)
        try:
            async with asyncio.timeout(timeout_s):
                found: list[Prepared] = await self.offload(self.prepare, model, generation)
                return found
        except TimeoutError:
            raise deadline_exceeded(timeout_s or 0) from None

    def prepare(self, model: Model, generation: Generation) -> list[Prepared]:
        """Tokenise. ApiError names what cannot be used, as the client calls it."""
        salt = generation.cache_salt
        try:
            if generation.chat is None:
                prompts = [_salted(prompt, salt) for prompt in generation.prompts]
                return model.frontend.prepare(prompts, generation.sampling, generation.priority)
            return model.frontend.prepare_chat(
                generation.chat.messages,
                generation.sampling,
                generation.priority,
                cache_salt=salt,
                **self._writing(generation.chat),
            )
        except UsageError as error:
            raise self._named(error, generation.source) from error

    def encode(self, model: Model, chat: Chat) -> list[int]:
        """The tokens of a conversation, however many. UsageError names what cannot be used."""
        return model.frontend.encode_chat(chat.messages, **self._writing(chat))

    def _writing(self, chat: Chat) -> dict[str, Any]:
        """How the template writes a chat."""
        return {
            "chat_template": self.settings.chat_template,
            "add_generation_prompt": chat.add_generation_prompt,
            "continue_final_message": chat.continue_final_message,
            "tools": chat.tools,
            "chat_template_kwargs": chat.template_kwargs,
        }

    def _named(self, error: UsageError, source: str | None) -> ApiError:
        """What a client is told of a prompt that cannot be used, which it calls `source`."""
        found = self.translate(error)
        for ours in ("messages", "prompt[0]"):
            if source is not None and found.message.startswith(ours):
                param = source if found.param == ours else found.param
                return replace(found, message=source + found.message.removeprefix(ours), param=param)
        return found

    def _begun(self, model: Model, generation: Generation, prepared: list[Prepared], count: int, began_s: float) -> Run:
        """Give it to the engine."""
        if self.host.model is not model:  # it was lost meanwhile
            raise self.unavailable()
        if self.is_draining:
            raise draining()
        self._check_queued(sum(len(one.requests[0].prompt_token_ids) for one in prepared))
        self._check_logprobs(prepared)
        reading = self.reading(model) if generation.chat is not None else PLAIN
        kept = reading.kept(generation.chat)
        prompts: list[Prompt] = []
        num_choices = 0
        for one in prepared:
            copies = one.requests[0].sampling.n
            readers = [reading.reader(generation.chat, one.text or "") for _ in range(copies)]
            prompts.append(Prompt(one, model.frontend.state(one, kept=kept), readers, num_choices))
            num_choices += copies
        run = Run(
            model.client,
            prompts,
            began_s=began_s,
            on_first=self._begins,
            on_end=lambda run: self._ended(run, count),
            translate=self.translate,
            decode=lambda ids: _text_of(model, ids),
            refusal=lambda: draining() if self.is_draining else None,
        )
        self.runs.add(run)
        self._num_queued_tokens += run.num_prompt_tokens
        self._desk_of(model).take_on([request for one in prepared for request in one.requests], run)
        self.metrics.prompt_tokens.inc(run.num_prompt_tokens)
        return run

    def _check_queued(self, num_tokens: int) -> None:
        """ApiError if so many more tokens of prompts would be too many to wait. One request alone never is."""
        queued = self._num_queued_tokens
        if queued and queued + num_tokens > self.settings.max_queued_tokens:
            self.metrics.refused.inc()
            raise ApiError(
                429,
                "queue_full",
                f"prompts of {queued} tokens wait, and {num_tokens} more would be over the limit of "
                f"{self.settings.max_queued_tokens}: try again later",
                retry_after_s=self.admission.drained_in_s(1),
            )

    def _check_logprobs(self, prepared: Sequence[Prepared]) -> None:
        """ApiError if a request's log-probabilities are too many for one answer, or for now."""
        try:
            self._logprobs.check(prepared, self.runs, self.admission.drained_in_s(1))
        except ApiError as error:
            if error.status == 429:
                self.metrics.refused.inc()
            raise

    def reading(self, model: Model) -> Reading:
        """How its answers are read; found out once."""
        if self._reading is None or self._reading[0] is not model:
            said = self.settings
            found = Reading.of(model.frontend, said.chat_template, said.tool_call_parser, said.reasoning_parser)
            self._reading = (model, found)
        return self._reading[1]

    def _desk_of(self, model: Model) -> Desk:
        if self._desk is None or self._desk[0] is not model:
            self._desk = (model, Desk(model.client, asyncio.get_running_loop()))
        return self._desk[1]

    def _begins(self, run: Run) -> None:
        self._num_queued_tokens -= run.num_prompt_tokens

    def _ended(self, run: Run, count: int) -> None:
        self.runs.discard(run)
        if run.first_piece_s is None:
            self._num_queued_tokens -= run.num_prompt_tokens
        self.admission.give_back(count)
        self.metrics.ended(run)

    def translate(self, error: BaseException) -> ApiError:
        """What a client may know of an error."""
        model = self.host.model
        folder = {one_line(model.frontend.card.folder): "the model"} if model is not None else {}
        found = from_exception(error, folder)
        if isinstance(error, MemoryError):
            _LOG.error("memory ran out in the server's own process")
        elif not isinstance(error, (ApiError, AphroditeError)):
            self.metrics.bug(error)
        return found

    def _timeout(self, generation: Generation, call: Call) -> float | None:
        """Seconds that a request has: the least of what its head, its body and the server say."""
        header = call.header(_TIMEOUT_HEADER)
        if header is not None and not _NUMBER.fullmatch(header):
            raise invalid(_TIMEOUT_HEADER, f"{_TIMEOUT_HEADER} must be a number of seconds")
        asked = {"timeout": generation.timeout_s, _TIMEOUT_HEADER: None if header is None else float(header)}
        for name, value in asked.items():
            if value is not None and not 0 < value <= _MAX_TIMEOUT_S:
                raise invalid(name, f"{name} must be in (0, {_MAX_TIMEOUT_S:g}] seconds, got {value:g}")
        given = (*asked.values(), self.settings.request_timeout_s)
        return min((value for value in given if value is not None), default=None)

    def close(self) -> None:
        """End the threads."""
        self._workers.shutdown(wait=False, cancel_futures=True)


def _text_of(model: Model, ids: Sequence[int]) -> str:
    tokenizer = model.frontend.tokenizer
    return tokenizer.decode(ids, skip_special_tokens=False) if tokenizer is not None else ""


def _salt(tenant: str | None, salt: str | None) -> str | None:
    """What a request shares cached blocks by: those of other tenants are never found, whatever salt a client names."""
    parts = [part for part in (tenant, salt) if part is not None]
    return ":".join(parts) if parts else None


def _salted(prompt: Any, salt: str | None) -> Any:
    if salt is None:
        return prompt
    return {"prompt" if isinstance(prompt, str) else "prompt_token_ids": prompt, "cache_salt": salt}

"""One request while the engine works on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from aphrodite.engine.backlog import Backlog
from aphrodite.engine.client import EngineClient
from aphrodite.engine.requests import Prepared
from aphrodite.engine.state import Delta, RequestState
from aphrodite.server.errors import ApiError, deadline_exceeded, numerical_error
from aphrodite.server.gathered import Gathered
from aphrodite.server.generation import Choice, Piece, Usage
from aphrodite.server.reading import Reader
from aphrodite.text.formats.events import CallStart, Event
from aphrodite.types.outputs import RequestOutput
from aphrodite.types.request import Sequence as EngineSequence


@dataclass
class Prompt:
    """One prompt of a request: how far its continuations are, and what reads each of them."""

    prepared: Prepared
    state: RequestState
    readers: list[Reader]
    first_choice: int
    called: set[int] = field(default_factory=set)  # continuations in which a tool was called


class Run(AsyncIterator[list[Piece]]):
    """Gives whatever has come whenever it is asked, so that a slow reader gets larger pieces and holds up nobody; one
    that is far behind is waited for by the engine (`Backlog`), with all of the request's sequences.

    Iterate it to its end, or close it: then the engine's sequences are aborted. Iterating raises ApiError.
    """

    def __init__(
        self,
        client: EngineClient,
        prompts: Sequence[Prompt],
        *,
        began_s: float,
        on_first: Callable[[Run], None],
        on_end: Callable[[Run], None],
        translate: Callable[[BaseException], ApiError],
        decode: Callable[[Sequence[int]], str],
        refusal: Callable[[], ApiError | None] = lambda: None,
    ) -> None:
        """began_s  when it arrived, on the loop's clock
        on_first, on_end  called when the first token is here, if ever, and when nothing more comes
        refusal  why requests that were aborted before they had got anything have ended, where that is an error"""
        self.prompts = prompts
        self.num_prompt_tokens = sum(len(prompt.prepared.requests[0].prompt_token_ids) for prompt in prompts)
        self.began_s = began_s
        self.first_piece_s: float | None = None  # when its first token was here
        self.outcome = "abort"  # so far; "stop", "length" or "error" by its end
        self.error_code: str | None = None
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._on_first = on_first
        self._on_end = on_end
        self._translate = translate
        self._decode = decode
        self._refusal = refusal
        requests = [request for prompt in prompts for request in prompt.prepared.requests]
        self._backlog = Backlog(client, requests)
        self._may_stop = any(request.sampling.stop for request in requests)  # at what only reading finds
        self._is_patient = False  # read for the whole: in large parts
        self._by_id = {name: prompt for prompt in prompts for name in prompt.state.request_ids}
        self._sequences: dict[str, EngineSequence] = {}  # the first of each prompt
        self._news: dict[str, EngineSequence] = {}
        self._error: ApiError | None = None
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    # ---- what the engine tells --------------------------------------------------------------------------------------

    def put(self, name: str, seq: EngineSequence) -> None:
        """There is news of a sequence."""
        self._news[name] = seq
        self._backlog.grow(may_hold=not self._is_patient)
        if self.first_piece_s is None and seq.num_output and not self._is_over:
            self.first_piece_s = self.now_s()
            self._on_first(self)
        if not self._is_patient or self._may_stop or seq.finish_reason is not None or self._backlog.is_worth_reading:
            self._changed.set()

    def fail(self, name: str, error: BaseException) -> None:
        """Nothing more comes of a sequence."""
        self._stop(self._translate(error))

    def expire_at(self, when_s: float, timeout_s: float) -> None:
        """End with an error at that time of the loop's clock."""
        self._timer = self._loop.call_at(when_s, lambda: self._stop(deadline_exceeded(timeout_s)))

    def break_off(self, error: ApiError) -> None:
        """End with an error now."""
        self._stop(error)

    def _stop(self, error: ApiError) -> None:
        if self._error is None:
            self._error = error
            self._client.abort(self._by_id)  # now: nobody knows when it is read
        self._changed.set()

    # ---- what the dialect reads -------------------------------------------------------------------------------------

    async def __anext__(self) -> list[Piece]:
        if self._is_over:
            raise StopAsyncIteration
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                pieces = self._read()
                if pieces:  # the end is a piece too
                    break
        except ApiError as error:
            self.outcome, self.error_code = "error", error.code
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        return pieces

    def _read(self) -> list[Piece]:
        """What has come. Raises the error that ended it."""
        news, self._news = self._news, {}
        self._backlog.clear()
        if self._error is not None:
            raise self._error
        ended: list[str] = []
        changed: dict[int, Prompt] = {}
        for name, seq in news.items():
            if seq.finish_reason == "error":
                raise numerical_error() if seq.error is None else self._translate(seq.error)
            if seq.finish_reason == "abort" and not seq.num_output and (refusal := self._refusal()) is not None:
                raise refusal
            prompt = self._by_id[name]
            changed[prompt.first_choice] = prompt
            if name == prompt.prepared.requests[0].request_id:
                self._sequences[name] = seq
            if prompt.state.read(seq):
                ended.append(name)
        if ended:
            self._client.abort(ended)
        pieces = [self._piece(prompt, delta) for prompt in changed.values() for delta in prompt.state.deltas()]
        if any(piece.finish_reason for piece in pieces) and all(prompt.state.is_finished for prompt in self.prompts):
            self._end()
        return pieces

    def _piece(self, prompt: Prompt, delta: Delta) -> Piece:
        reader = prompt.readers[delta.index]
        events: list[Event] = reader.feed(delta.text)
        reason = delta.finish_reason
        if reason is not None:
            events = [*events, *reader.finish()]
        if any(isinstance(event, CallStart) for event in events):
            prompt.called.add(delta.index)
        if reason is not None:
            self.outcome = reason
        if reason == "stop" and delta.index in prompt.called:
            reason = "tool_calls"
        choice = prompt.first_choice + delta.index
        return Piece(choice, events, delta.token_ids, delta.logprobs, reason, delta.stop_reason)

    async def whole(self) -> list[Choice]:
        """Every continuation, once all have ended. A step's tokens wait for more, so that they wake nobody."""
        self._is_patient = True
        count = sum(len(prompt.readers) for prompt in self.prompts)
        gathered = [Gathered() for _ in range(count)]
        async for pieces in self:
            for piece in pieces:
                gathered[piece.choice].add(piece)
        return [one.choice() for one in gathered]

    def output(self, prompt: int) -> RequestOutput:
        """All of one prompt that there is so far; its log-probabilities among it."""
        return self.prompts[prompt].state.output()

    def prompt_text(self, prompt: int) -> str:
        """A prompt as text, with the special tokens that its own tokens have."""
        found = self.prompts[prompt].prepared
        return found.text if found.text is not None else self._decode(found.requests[0].prompt_token_ids)

    def token_text(self, token_id: int) -> str:
        """The text of one token."""
        return self._decode([token_id])

    @property
    def prepared(self) -> list[Prepared]:
        """Its prompts, as the engine got them."""
        return [prompt.prepared for prompt in self.prompts]

    @property
    def num_logprobs(self) -> int:
        """Log-probabilities of its outputs that have been read, and are kept until its end."""
        wanted = [(prompt, prompt.prepared.requests[0].sampling.logprobs) for prompt in self.prompts]
        return sum(prompt.state.num_output * (count + 1) for prompt, count in wanted if count is not None)

    @property
    def request_ids(self) -> list[str]:
        """The engine's ids of all its sequences, those that have ended too."""
        return list(self._by_id)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        cached = sum(seq.num_cached_tokens or 0 for seq in self._sequences.values())
        output = sum(p.state.num_output * len(p.readers) // len(p.prepared.requests) for p in self.prompts)
        return Usage(self.num_prompt_tokens, cached, output)

    @property
    def sequences(self) -> list[EngineSequence]:
        """The first of each prompt, as far as anything has come of them."""
        return list(self._sequences.values())

    def close(self) -> None:
        """Abort what has not ended. May be called again."""
        if not self._is_over:
            live = [name for prompt in self.prompts for name in prompt.state.request_ids]
            self._end()
            self._client.abort(live)

    def _end(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._on_end(self)

    def now_s(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self._is_over

"""One request on its way: what of its sequences has been read, their text, and what a caller gets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from aphrodite.engine.requests import Prepared
from aphrodite.text.detokenizer import Detokenizer
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from aphrodite.types.request import Request, TokenLogprobs
from aphrodite.types.request import Sequence as EngineSequence


@dataclass(frozen=True, slots=True)
class Delta:
    """What one continuation has got since the last time; fields as in CompletionOutput."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None
    stop_reason: int | str | None


class RequestState:
    """A request's continuations, read from sequences that grow elsewhere. Lives on the thread of its consumer.

    name  what the caller calls it; the engine has ids of its own
    kept  special tokens that the text shows all the same
    """

    def __init__(
        self, prepared: Prepared, tokenizer: Tokenizer | None, name: str | None = None, kept: Collection[str] = ()
    ) -> None:
        self._prepared = prepared
        self._tokenizer = tokenizer
        first = prepared.requests[0]
        self.name = name or first.request_id
        self._continuations = {
            request.request_id: _Continuation(request, tokenizer, kept) for request in prepared.requests
        }
        self._num_copies = first.sampling.n if len(prepared.requests) == 1 else 1
        self._first: EngineSequence | None = None

    @property
    def request_ids(self) -> list[str]:
        """The engine's ids of its sequences that have not ended."""
        return [name for name, one in self._continuations.items() if one.finish_reason is None]

    @property
    def is_finished(self) -> bool:
        return all(one.finish_reason is not None for one in self._continuations.values())

    @property
    def num_output(self) -> int:
        """Tokens read so far, of all continuations."""
        return sum(len(one.token_ids) for one in self._continuations.values())

    @property
    def most_output(self) -> int:
        """Tokens of the longest continuation so far."""
        return max((len(one.token_ids) for one in self._continuations.values()), default=0)

    def read(self, seq: EngineSequence) -> bool:
        """Take what is new of one of its sequences. Whether that ended it while the engine would go on: then it is to
        be aborted there."""
        name = seq.request.request_id
        if name == self._prepared.requests[0].request_id:
            self._first = seq
        return self._continuations[name].read(seq)

    def output(self) -> RequestOutput:
        """All that there is so far."""
        first = self._prepared.requests[0]
        every = [*self._continuations.values()] * self._num_copies  # lists of their own: a caller may change one
        outputs = [one.output(index, self._tokenizer) for index, one in enumerate(every)]
        prompt_logprobs = None
        if first.sampling.prompt_logprobs is not None and self._first is not None:
            prompt_logprobs = [None, *positions(self._first.prompt_logprobs, self._tokenizer)]
        return RequestOutput(
            request_id=self.name,
            prompt=self._prepared.text,
            prompt_token_ids=list(first.prompt_token_ids),
            outputs=outputs,
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=(self._first.num_cached_tokens or 0) if self._first is not None else 0,
            metrics=self._metrics(),
            finished=self.is_finished,
        )

    def deltas(self) -> list[Delta]:
        """What each continuation has got since the last call, those that have got nothing left out."""
        found = []
        for index, one in enumerate(self._continuations.values()):
            delta = one.delta(index, self._tokenizer)
            if delta is not None:
                found.append(delta)
                if self._num_copies > 1:
                    found += [replace(delta, index=copy) for copy in range(1, self._num_copies)]
        return found

    def _metrics(self) -> RequestMetrics | None:
        if self._first is None:
            return None
        times = self._first.times
        return RequestMetrics(
            times.arrival_s,
            times.first_scheduled_s,
            times.first_token_s,
            times.finished_s if self.is_finished else None,
            self._first.num_preemptions,
        )


class _Continuation:
    """One continuation of a prompt.

        sequence   [ prompt | read, in `token_ids` | not read yet ]

    A stop string ends it at the token that completes the string: what the sequence gets after that is never read.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer | None, kept: Collection[str]) -> None:
        sampling = request.sampling
        self._prompt_len = len(request.prompt_token_ids)
        self._wants_logprobs = sampling.logprobs is not None
        self._text = None
        if tokenizer is not None:
            self._text = Detokenizer(
                tokenizer,
                skip_special_tokens=sampling.skip_special_tokens,
                kept=kept,
                stop=sampling.stop,
                include_stop=sampling.include_stop_str_in_output,
                min_tokens=sampling.min_tokens,
            )
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self._num_told = 0  # of those, how many a delta has told of
        self._untold: list[str] = []  # text that none has told of
        self._told_end = False

    def read(self, seq: EngineSequence) -> bool:
        """As RequestState.read."""
        if self.finish_reason is not None:
            return False
        reason = seq.finish_reason  # before the tokens: once it is there they are complete
        new = seq.tokens[self._prompt_len + len(self.token_ids) :]
        if self._text is not None:
            before = self._text.num_tokens
            self._untold.append(self._text.append(new))
            if reason is not None and self._text.stop_string is None:
                self._untold.append(self._text.finish())
            new = new[: self._text.num_tokens - before]
        self.token_ids += new
        if self._wants_logprobs:
            self.logprobs = seq.logprobs[: len(self.token_ids)]
        stopped = self._text is not None and self._text.stop_string is not None
        if stopped and self._text is not None:
            self.finish_reason, self.stop_reason = "stop", self._text.stop_string
        elif reason is not None:
            self.finish_reason, self.stop_reason = reason, seq.stop_reason
        return stopped and reason is None

    def output(self, index: int, tokenizer: Tokenizer | None) -> CompletionOutput:
        wanted = self._wants_logprobs
        return CompletionOutput(
            index=index,
            text=self._text.text if self._text is not None else "",
            token_ids=list(self.token_ids),
            cumulative_logprob=sum(entry.logprob for entry in self.logprobs) if wanted else None,
            logprobs=positions(self.logprobs, tokenizer) if wanted else None,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def delta(self, index: int, tokenizer: Tokenizer | None) -> Delta | None:
        text = self._untold[0] if len(self._untold) == 1 else "".join(self._untold)
        start, ended = self._num_told, self.finish_reason is not None
        if start == len(self.token_ids) and not text and ended == self._told_end:
            return None
        self._untold.clear()
        self._num_told, self._told_end = len(self.token_ids), ended
        return Delta(
            index,
            text,
            self.token_ids[start:],
            positions(self.logprobs[start:], tokenizer) if self._wants_logprobs else None,
            self.finish_reason,
            self.stop_reason,
        )


def positions(entries: Sequence[TokenLogprobs], tokenizer: Tokenizer | None) -> list[dict[int, Logprob]]:
    """Log-probabilities as a caller gets them, a mapping for each position."""

    def token(token_id: int) -> str | None:
        return tokenizer.token(token_id) if tokenizer else None

    found = []
    for entry in entries:
        position = {entry.token_id: Logprob(entry.logprob, entry.rank, token(entry.token_id))}
        for rank, (token_id, logprob) in enumerate(entry.top, start=1):
            position.setdefault(token_id, Logprob(logprob, rank, token(token_id)))
        found.append(position)
    return found

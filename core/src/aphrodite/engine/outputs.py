"""From finished sequences to what a caller gets."""

from __future__ import annotations

from collections.abc import Sequence

from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.outputs import CompletionOutput, Logprob, RequestOutput
from aphrodite.types.request import Sequence as EngineSequence
from aphrodite.types.request import TokenLogprobs


def request_output(
    sequences: Sequence[EngineSequence], prompt: str | None, tokenizer: Tokenizer | None
) -> RequestOutput:
    """The result of a request whose sequences have finished, one each of its `n` continuations in order; one sequence
    stands for `n` equal ones."""
    first = sequences[0]
    request = first.request
    prompt_logprobs = None
    if request.sampling.prompt_logprobs is not None:
        prompt_logprobs = [None, *_positions(first.prompt_logprobs, tokenizer)]
    every = sequences if len(sequences) > 1 else [first] * request.sampling.n
    outputs = [_completion(index, seq, tokenizer) for index, seq in enumerate(every)]
    num_cached = first.num_cached_tokens or 0
    ids = list(request.prompt_token_ids)
    return RequestOutput(request.request_id, prompt, ids, outputs, prompt_logprobs, num_cached)


def _completion(index: int, seq: EngineSequence, tokenizer: Tokenizer | None) -> CompletionOutput:
    """One continuation. Text is the decoding of all its ids; "" without a tokenizer."""
    sampling = seq.request.sampling
    ids = seq.tokens[len(seq.request.prompt_token_ids) :]
    text = ""
    if tokenizer is not None:
        text = tokenizer.decode(ids, skip_special_tokens=sampling.skip_special_tokens)
    wanted = sampling.logprobs is not None
    return CompletionOutput(
        index=index,
        text=text,
        token_ids=ids,
        cumulative_logprob=sum(entry.logprob for entry in seq.logprobs) if wanted else None,
        logprobs=_positions(seq.logprobs, tokenizer) if wanted else None,
        finish_reason=seq.finish_reason,
        stop_reason=seq.stop_reason,
    )


def _positions(entries: Sequence[TokenLogprobs], tokenizer: Tokenizer | None) -> list[dict[int, Logprob]]:
    def token(token_id: int) -> str | None:
        return tokenizer.token(token_id) if tokenizer else None

    positions = []
    for entry in entries:
        found = {entry.token_id: Logprob(entry.logprob, entry.rank, token(entry.token_id))}
        for rank, (token_id, logprob) in enumerate(entry.top, start=1):
            found.setdefault(token_id, Logprob(logprob, rank, token(token_id)))
        positions.append(found)
    return positions

"""From finished sequences to what a caller gets."""

from __future__ import annotations

from collections.abc import Sequence

from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.outputs import CompletionOutput, Logprob, RequestOutput
from aphrodite.types.request import Sequence as EngineSequence
from aphrodite.types.request import TokenLogprobs


def request_output(seq: EngineSequence, prompt: str | None, tokenizer: Tokenizer | None) -> RequestOutput:
    """The result of a finished sequence. Text is the decoding of all its ids; "" without a tokenizer."""
    request = seq.request
    prompt_ids = list(request.prompt_token_ids)
    ids = seq.tokens[len(prompt_ids) :]
    sampling = request.sampling
    text = ""
    if tokenizer is not None:
        text = tokenizer.decode(ids, skip_special_tokens=sampling.skip_special_tokens)
    wanted = sampling.logprobs is not None
    completion = CompletionOutput(
        index=0,
        text=text,
        token_ids=ids,
        cumulative_logprob=sum(entry.logprob for entry in seq.logprobs) if wanted else None,
        logprobs=_positions(seq.logprobs, tokenizer) if wanted else None,
        finish_reason=seq.finish_reason,
        stop_reason=seq.stop_reason,
    )
    prompt_logprobs = None
    if sampling.prompt_logprobs is not None:
        prompt_logprobs = [None, *_positions(seq.prompt_logprobs, tokenizer)]
    num_cached = seq.num_cached_tokens or 0
    return RequestOutput(request.request_id, prompt, prompt_ids, [completion], prompt_logprobs, num_cached)


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

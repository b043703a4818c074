"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aphrodite.server.dialect import Call, Json, Reply, Stream, event
from aphrodite.server.errors import invalid
from aphrodite.server.generation import Choice, Generation, Piece
from aphrodite.server.openai import fields
from aphrodite.server.openai.fields import Streaming
from aphrodite.server.parameters import read
from aphrodite.server.run import Run
from aphrodite.text.formats.events import Content
from aphrodite.types.outputs import Logprob

Offload = Callable[..., Awaitable[Any]]  # calls a function on another thread

_OWN = (
    "model",
    "prompt",
    "stream",
    "stream_options",
    "echo",
    "suffix",
    "response_format",
    "user",
    "priority",
    "cache_salt",
    "timeout",
    "add_special_tokens",
)
_WITHOUT_EFFECT = ("user",)


@dataclass(frozen=True)
class _Asked:
    """What the body holds."""

    generation: Generation
    streaming: Streaming
    echo: bool

    @property
    def is_long(self) -> bool:
        """Whether the answer may be so long that it is not for the event loop to write: prompts are, sometimes."""
        return self.echo and self.generation.sampling.prompt_logprobs is not None


async def complete(call: Call) -> Reply:
    """Continue prompts."""
    body = call.json()
    call.service.check_model(body.get("model"))
    asked = _read(body, call)
    run = await call.start(asked.generation)
    model = call.service.settings.model_names[0]
    head = fields.head("text_completion", "cmpl", model)
    if asked.generation.ignored:
        head["ignored_params"] = list(asked.generation.ignored)
    if asked.streaming.on:
        return Stream(_frames(run, asked, head, call.service.offload))
    return Json(await _whole(run, asked, head, call.service.offload))


def _read(body: Mapping[str, Any], call: Call) -> _Asked:
    streaming = Streaming.read(body)
    echo = fields.flag(body, "echo")
    if fields.text(body, "suffix"):
        raise invalid(
            "suffix", "suffix is not supported: there is no insertion here, leave it out", "unsupported_parameter"
        )
    fields.refuse_structure(body)
    if not fields.flag(body, "add_special_tokens", True):
        raise invalid("add_special_tokens", "add_special_tokens false is not supported: pass token ids as prompt")
    prompts = prompts_of(body.get("prompt"), call.limits.num_prompts)
    found = read(body, own=_OWN)
    sampling, ignored = found.sampling, found.ignored + fields.ignored_of(body, _WITHOUT_EFFECT)
    if echo and sampling.logprobs is not None:
        sampling = sampling.replace(prompt_logprobs=sampling.logprobs)
    return _Asked(
        Generation(
            sampling=sampling,
            prompts=prompts,
            ignored=ignored,
            priority=fields.whole(body, "priority", -(2**31), 2**31 - 1) or 0,
            cache_salt=fields.text(body, "cache_salt"),
            timeout_s=fields.seconds(body, "timeout"),
        ),
        streaming,
        echo,
    )


def prompts_of(value: Any, most: int) -> list[Any]:
    """A text, token ids, or a list of either, as prompts."""
    if value is None:
        raise invalid("prompt", "prompt must be there: a text, token ids, or a list of these")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid("prompt", f"prompt must be a text, token ids, or a list of these, got {type(value).__name__}")
    if all(type(item) is int for item in value):
        return [value]
    if len(value) > most:
        raise invalid("prompt", f"prompt must hold at most {most} prompts, got {len(value)}")
    for place, item in enumerate(value):
        if not isinstance(item, str) and not (isinstance(item, list) and all(type(token) is int for token in item)):
            raise invalid(f"prompt[{place}]", f"prompt[{place}] must be a text or token ids")
    return value


async def _whole(run: Run, asked: _Asked, head: dict[str, Any], offload: Offload) -> dict[str, Any]:
    try:
        choices = await run.whole()
    finally:
        run.close()
    found = await offload(_choices, run, asked, choices) if asked.is_long else _choices(run, asked, choices)
    return {**head, "choices": found, "usage": fields.usage(run.usage)}


def _choices(run: Run, asked: _Asked, choices: Sequence[Choice]) -> list[dict[str, Any]]:
    found = []
    for index, choice in enumerate(choices):
        before, positions = _echoed(run, asked, index)
        logprobs = None
        if choice.logprobs is not None:
            logprobs = _Logprobs(before).add([*positions, *choice.logprobs])
        found.append(_choice(index, before + choice.content, logprobs, choice.finish_reason, choice.stop_reason))
    return found


async def _frames(run: Run, asked: _Asked, head: dict[str, Any], offload: Offload) -> AsyncIterator[bytes]:
    begun: dict[int, _Logprobs] = {}
    ignored = head.pop("ignored_params", None)
    try:
        async for pieces in run:
            parts = []
            for piece in pieces:
                if piece.choice in begun:
                    found = _piece(piece, "", [], begun[piece.choice])
                else:
                    first = partial(_first_piece, run, asked, piece)
                    found, begun[piece.choice] = await offload(first) if asked.is_long else first()
                if found is None:
                    continue
                chunk = {**head, "choices": [found]}
                if ignored is not None:
                    chunk["ignored_params"], ignored = ignored, None
                parts.append(event(chunk))
            if parts:
                yield b"".join(parts)
        if asked.streaming.include_usage:
            yield event({**head, "choices": [], "usage": fields.usage(run.usage)})
        yield b"data: [DONE]\n\n"
    finally:
        run.close()


def _first_piece(run: Run, asked: _Asked, piece: Piece) -> tuple[dict[str, Any] | None, _Logprobs]:
    before, positions = _echoed(run, asked, piece.choice)
    logprobs = _Logprobs(before)
    return _piece(piece, before, positions, logprobs), logprobs


def _piece(piece: Piece, before: str, positions: Sequence[Any], logprobs: _Logprobs) -> dict[str, Any] | None:
    text = before + "".join(one.text for one in piece.events if isinstance(one, Content))
    found = None
    if piece.logprobs is not None:
        found = logprobs.add([*positions, *piece.logprobs])
    if not text and piece.finish_reason is None and not (piece.logprobs):
        return None
    return _choice(piece.choice, text, found, piece.finish_reason, piece.stop_reason)


def _choice(index: int, text: str, logprobs: Any, finish_reason: str | None, stop_reason: Any) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
        "stop_reason": stop_reason,
    }


def _echoed(run: Run, asked: _Asked, choice: int) -> tuple[str, list[Mapping[int, Logprob] | str]]:
    """The prompt's text and log-probabilities, where they are to stand before the answer."""
    if not asked.echo:
        return "", []
    place = choice // asked.generation.sampling.n
    output = run.output(place)
    positions = output.prompt_logprobs
    if positions is None:
        return run.prompt_text(place), []
    # Nothing comes before the first token: it has a text and no log-probability.
    first = run.token_text(run.prompts[place].prepared.requests[0].prompt_token_ids[0])
    return run.prompt_text(place), [first, *(one for one in positions if one is not None)]


class _Logprobs:
    """Log-probabilities in parallel lists; offsets count characters of the text from its start.

    before  what is echoed: a token that the tokenizer has put in front of it is no part of the text
    """

    def __init__(self, before: str) -> None:
        self._before = before
        self._offset = 0

    def add(self, positions: Sequence[Mapping[int, Logprob] | str]) -> dict[str, list[Any]]:
        """Those of further tokens; a text stands for a token that has none."""
        found: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        for position in positions:
            if isinstance(position, str):
                token, logprob, top = position, None, None
                width = len(token) if self._before.startswith(token) else 0
            else:
                _, entry = fields.chosen(position)
                token, logprob = fields.spelled(entry), fields.number(entry.logprob)
                width = len(token)
                top = {fields.spelled(one): fields.number(one.logprob) for one in position.values()}
            found["text_offset"].append(self._offset)
            found["token_logprobs"].append(logprob)
            found["tokens"].append(token)
            found["top_logprobs"].append(top)
            self._offset += width
        return found

"""Answers of /v1/messages: a message, or the events that make one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from aphrodite.server.dialect import event
from aphrodite.server.generation import Choice, ToolCall, Usage
from aphrodite.server.run import Run
from aphrodite.text.formats.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning

_REASONS: Mapping[str, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@dataclass(frozen=True)
class Answer:
    """The answer to one request.

    thinks      whether what the model thinks is shown
    max_tokens  that it may have; it ends before if the context does
    """

    run: Run
    model: str
    thinks: bool
    max_tokens: int | None

    async def whole(self) -> dict[str, Any]:
        """The message."""
        try:
            choice = (await self.run.whole())[0]
        finally:
            self.run.close()
        return {
            **_head(self.model),
            "content": _blocks(choice, thinks=self.thinks),
            **self._end(choice.finish_reason, choice.stop_reason),
            "usage": _usage(self.run.usage),
        }

    async def frames(self) -> AsyncIterator[bytes]:
        """The message as events. Nothing is sent before the first token is there, so that a failure has a status."""
        run, blocks = self.run, _Blocks(thinks=self.thinks)
        begun = False
        try:
            async for pieces in run:
                parts = []
                if not begun:
                    parts = [_event("message_start", message={**_head(self.model), "usage": _usage(run.usage, 0)})]
                begun = True
                for piece in pieces:
                    parts += [frame for found in piece.events for frame in blocks.frames(found)]
                    if piece.finish_reason is not None:
                        delta = self._end(piece.finish_reason, piece.stop_reason)
                        parts += [*blocks.close(), _event("message_delta", delta=delta, usage=_usage(run.usage))]
                if parts:
                    yield b"".join(parts)
            yield _event("message_stop")
        finally:
            run.close()

    def _end(self, finish: str | None, stop: int | str | None) -> dict[str, str | None]:
        """Why it has ended."""
        reason = _REASONS.get(finish or "")
        if finish == "stop" and isinstance(stop, str):
            reason = "stop_sequence"
        request = self.run.prompts[0].prepared.requests[0]
        room = request.max_total_tokens - len(request.prompt_token_ids)
        if finish == "length" and self.max_tokens is not None and room < self.max_tokens:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": stop if isinstance(stop, str) else None}


class _Blocks:
    """The blocks of a message that is being written: at most one is open."""

    def __init__(self, *, thinks: bool) -> None:
        self._thinks = thinks
        self._index = -1
        self._kind: type[Content] | type[Reasoning] | type[CallStart] | None = None

    def frames(self, found: Event) -> list[bytes]:
        """What an event of the model's output becomes."""
        match found:
            case Content(text):
                return [
                    *self._open(Content, {"type": "text", "text": ""}),
                    self._delta({"type": "text_delta", "text": text}),
                ]
            case Reasoning(text) if self._thinks:
                opened = self._open(Reasoning, {"type": "thinking", "thinking": "", "signature": ""})
                return [*opened, self._delta({"type": "thinking_delta", "thinking": text})]
            case CallStart(_, call_id, name):
                used = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                return [*self.close(), *self._open(CallStart, used)]
            case CallArguments(_, text):
                return [self._delta({"type": "input_json_delta", "partial_json": text})]
            case CallEnd():
                return self.close()
        return []

    def close(self) -> list[bytes]:
        """Close the block that is open."""
        if self._kind is None:
            return []
        signed = [self._delta({"type": "signature_delta", "signature": ""})] if self._kind is Reasoning else []
        self._kind = None
        return [*signed, _event("content_block_stop", index=self._index)]

    def _open(self, kind: type[Content] | type[Reasoning] | type[CallStart], block: Mapping[str, Any]) -> list[bytes]:
        if self._kind is kind:
            return []
        closed = self.close()
        self._kind = kind
        self._index += 1
        return [*closed, _event("content_block_start", index=self._index, content_block=block)]

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, kind)


def _head(model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(choice: Choice, *, thinks: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if choice.reasoning and thinks:
        found.append({"type": "thinking", "thinking": choice.reasoning, "signature": ""})
    if choice.content:
        found.append({"type": "text", "text": choice.content})
    return found + [block for call in choice.calls for block in _called(call)]


def _called(call: ToolCall) -> list[dict[str, Any]]:
    """A call as a block; one whose arguments are no object is shown as the text that it is."""
    try:
        arguments = msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return [{"type": "text", "text": f"{call.name} {call.arguments}"}]
    return [{"type": "tool_use", "id": call.call_id, "name": call.name, "input": arguments}]


def _usage(usage: Usage, output_tokens: int | None = None) -> dict[str, Any]:
    """Tokens. Those from the cache are counted apart from the others, as Anthropic does."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens if output_tokens is None else output_tokens,
    }

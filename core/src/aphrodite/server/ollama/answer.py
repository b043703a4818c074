"""Answers of /api/generate and /api/chat: one object, or an object a line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from aphrodite.server.dialect import written
from aphrodite.server.generation import Choice, Piece, ToolCall
from aphrodite.server.run import Run
from aphrodite.text.formats.events import CallArguments, CallEnd, CallStart, Content, Reasoning

_REASONS: Mapping[str, str] = {"tool_calls": "stop", "abort": "abort"}

Shape = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]
"""Text, thoughts and calls as one route says them."""


def generated(text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """As /api/generate does."""
    found: dict[str, Any] = {"response": text}
    return found | ({"thinking": thinking} if thinking else {})


def message(text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """As /api/chat does."""
    found: dict[str, Any] = {"role": "assistant", "content": text}
    found |= {"thinking": thinking} if thinking else {}
    return {"message": found | ({"tool_calls": calls} if calls else {})}


async def whole(run: Run, model: str, shape: Shape) -> dict[str, Any]:
    """The answer as one object."""
    try:
        choice: Choice = (await run.whole())[0]
    finally:
        run.close()
    text, calls = choice.content, []
    for call in choice.calls:
        data = _called(call)
        if data is None:
            text += f"{call.name} {call.arguments}"
        else:
            calls.append(data)
    return {**_head(model), **shape(text, choice.reasoning, calls), **_end(run, choice.finish_reason)}


async def lines(run: Run, model: str, shape: Shape) -> AsyncIterator[bytes]:
    """The answer in parts. A call is one part: it is told when its arguments are whole."""
    calls = _Calls()
    try:
        async for pieces in run:
            parts = []
            for piece in pieces:
                parts += [{**_head(model), **shape(*part), "done": False} for part in calls.parts(piece)]
                if piece.finish_reason is not None:
                    parts.append({**_head(model), **shape("", "", []), **_end(run, piece.finish_reason)})
            if parts:
                yield b"".join(line(part) for part in parts)
    finally:
        run.close()


def line(data: Any) -> bytes:
    """One object of a stream."""
    return written(data) + b"\n"


def loaded(model: str, shape: Shape) -> dict[str, Any]:
    """The answer to a request that has nothing to answer."""
    return {**_head(model), **shape("", "", []), "done": True, "done_reason": "load"}


class _Calls:
    """Calls of a stream, put together."""

    def __init__(self) -> None:
        self._open = ToolCall("", "", "", False)
        self._arguments: list[str] = []

    def parts(self, piece: Piece) -> list[tuple[str, str, list[dict[str, Any]]]]:
        """What a piece holds: (text, thoughts, calls) each."""
        found: list[tuple[str, str, list[dict[str, Any]]]] = []
        for event in piece.events:
            match event:
                case Content(text):
                    found.append((text, "", []))
                case Reasoning(text):
                    found.append(("", text, []))
                case CallStart(_, call_id, name):
                    self._open, self._arguments = ToolCall(call_id, name, "", False), []
                case CallArguments(_, text):
                    self._arguments.append(text)
                case CallEnd():
                    call = ToolCall(self._open.call_id, self._open.name, "".join(self._arguments), True)
                    data = _called(call)
                    found.append(("", "", [data]) if data is not None else (f"{call.name} {call.arguments}", "", []))
        return found


def _called(call: ToolCall) -> dict[str, Any] | None:
    """A call; None if its arguments are no object: then it is shown as the text that it is."""
    try:
        arguments = msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(arguments, dict):
        return None
    return {"id": call.call_id, "function": {"name": call.name, "arguments": arguments}}


def _head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": shown_time(time.time())}


def shown_time(seconds: float) -> str:
    """A time of time.time() as this API writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _end(run: Run, reason: str | None) -> dict[str, Any]:
    """How it ended, and what it took. Durations are in nanoseconds."""
    usage, end_s = run.usage, run.now_s()
    first_s = run.first_piece_s or end_s
    return {
        "done": True,
        "done_reason": _REASONS.get(reason or "", reason),
        "total_duration": _ns(end_s - run.began_s),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": _ns(first_s - run.began_s),
        "eval_count": usage.completion_tokens,
        "eval_duration": _ns(end_s - first_s),
    }


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))

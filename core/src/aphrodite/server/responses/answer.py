"""A response: as a whole, and as the events that make it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aphrodite.server.dialect import event
from aphrodite.server.errors import ApiError
from aphrodite.server.generation import Usage
from aphrodite.server.responses.request import Asked
from aphrodite.text.formats.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning

CANCELLED = "cancelled"  # the error's code of a response whose client has ended it


@dataclass
class Response:
    """What there is of a response so far. `take` adds an event of the model's output and gives the frames that tell."""

    asked: Asked
    model: str
    name: str = field(default_factory=lambda: f"resp_{secrets.token_hex(16)}")
    created_at: int = field(default_factory=lambda: int(time.time()))
    output: list[dict[str, Any]] = field(default_factory=list)
    status: str = "in_progress"
    error: Mapping[str, Any] | None = None
    incomplete: str | None = None
    usage: Usage | None = None
    num_reasoning: int = 0  # tokens of the output's reasoning
    _open: str | None = None  # the type of the last item of the output, while it is not done
    _number: int = 0

    def body(self) -> dict[str, Any]:
        """The response as a client reads it."""
        body, sampling = self.asked.body, self.asked.generation.sampling
        found: dict[str, Any] = {
            "id": self.name,
            "object": "response",
            "created_at": self.created_at,
            "status": self.status,
            "error": self.error,
            "incomplete_details": None if self.incomplete is None else {"reason": self.incomplete},
            "instructions": body.get("instructions"),
            "max_output_tokens": sampling.max_tokens,
            "metadata": self.asked.metadata,
            "model": self.model,
            "output": self.output,
            "parallel_tool_calls": True,
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
            "store": self.asked.store,
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None if self.usage is None else _usage(self.usage, self.num_reasoning),
            "user": body.get("user"),
        }
        if self.asked.generation.ignored:
            found["ignored_params"] = list(self.asked.generation.ignored)
        return found

    def messages(self) -> list[Mapping[str, Any]]:
        """The conversation with this answer at its end."""
        text = "".join(part["text"] for item in self.output if item["type"] == "message" for part in item["content"])
        calls = [
            {
                "id": item["call_id"],
                "type": "function",
                "function": {"name": item["name"], "arguments": item["arguments"]},
            }
            for item in self.output
            if item["type"] == "function_call"
        ]
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = calls
        return [*self.asked.messages, message]

    # ---- frames -----------------------------------------------------------------------------------------------------

    def begin(self) -> list[bytes]:
        """The first frames."""
        return [
            self._frame("response.created", response=self.body()),
            self._frame("response.in_progress", response=self.body()),
        ]

    def take(self, found: Event) -> list[bytes]:
        """An event of the model's output."""
        match found:
            case Content(text):
                return [*self._opened("message"), self._text("response.output_text.delta", text)]
            case Reasoning(text):
                return [*self._opened("reasoning"), self._text("response.reasoning_text.delta", text)]
            case CallStart(_, call_id, name):
                frames = [*self._close(), *self._opened("function_call")]
                self.output[-1] |= {"call_id": call_id, "name": name}
                added = self._frame("response.output_item.added", output_index=self._index, item=dict(self.output[-1]))
                return [*frames, added]
            case CallArguments(_, text):
                self.output[-1]["arguments"] += text
                return [self._frame("response.function_call_arguments.delta", **self._place(), delta=text)]
            case CallEnd():
                return self._close()

    @property
    def reasoning(self) -> str:
        """What the model has thought."""
        thoughts = [item for item in self.output if item["type"] == "reasoning"]
        return "".join(part["text"] for item in thoughts for part in item["content"])

    def finish(self, reason: str, usage: Usage, num_reasoning: int) -> list[bytes]:
        """The end."""
        frames = self._close("incomplete" if reason in ("length", "abort") else "completed")
        self.usage, self.num_reasoning = usage, num_reasoning
        self.status = "completed"
        if reason == "length":
            self.status, self.incomplete = "incomplete", "max_output_tokens"
        elif reason == "abort":
            self.status = "cancelled"
        name = "response.completed" if self.status == "completed" else "response.incomplete"
        return [*frames, self._frame(name, response=self.body())]

    def fail(self, error: ApiError) -> list[bytes]:
        """An error after frames were sent. There is no event of its own for the end that a client has asked for."""
        self.cut_off(CANCELLED if error.code == CANCELLED else "failed")
        self.error = {"code": error.code, "message": error.message}
        return [self._frame("response.failed", response=self.body())]

    def cut_off(self, status: str) -> None:
        """The end, before the output's."""
        self.status = status
        if self._open is not None:
            self.output[-1]["status"] = "incomplete"
            self._open = None

    @property
    def _index(self) -> int:
        return len(self.output) - 1

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.output[-1]["id"], "output_index": self._index}

    def _opened(self, kind: str) -> list[bytes]:
        """Frames that open an item, unless one of that kind is open."""
        if self._open == kind:
            return []
        frames = self._close()
        self._open = kind
        name = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        item: dict[str, Any] = {"id": f"{name}_{secrets.token_hex(12)}", "type": kind, "status": "in_progress"}
        if kind == "function_call":
            self.output.append({**item, "call_id": "", "name": "", "arguments": ""})
            return frames  # it is told of when its name is known
        if kind == "message":
            item |= {"role": "assistant"}
        else:
            item |= {"summary": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        if kind == "reasoning":
            part = {"type": "reasoning_text", "text": ""}
        self.output.append({**item, "content": [dict(part)]})
        added = self._frame("response.output_item.added", output_index=self._index, item={**item, "content": []})
        return [*frames, added, self._frame("response.content_part.added", **self._place(), content_index=0, part=part)]

    def _text(self, name: str, text: str) -> bytes:
        self.output[-1]["content"][0]["text"] += text
        extra: dict[str, Any] = {"logprobs": []} if self._open == "message" else {}
        return self._frame(name, **self._place(), content_index=0, delta=text, **extra)

    def _close(self, status: str = "completed") -> list[bytes]:
        """Frames that close the item that is open."""
        if self._open is None:
            return []
        kind, item, self._open = self._open, self.output[-1], None
        item["status"] = status
        place = self._place()
        if kind == "function_call":
            frames = [
                self._frame(
                    "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
                )
            ]
        else:
            part = item["content"][0]
            name = "response.output_text.done" if kind == "message" else "response.reasoning_text.done"
            extra: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
            frames = [
                self._frame(name, **place, content_index=0, text=part["text"], **extra),
                self._frame("response.content_part.done", **place, content_index=0, part=part),
            ]
        return [*frames, self._frame("response.output_item.done", output_index=self._index, item=item)]

    def _frame(self, kind: str, **data: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": kind, "sequence_number": number, **data}, kind)


def _usage(found: Usage, num_reasoning: int) -> dict[str, Any]:
    return {
        "input_tokens": found.prompt_tokens,
        "input_tokens_details": {"cached_tokens": found.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": found.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": num_reasoning},
        "total_tokens": found.prompt_tokens + found.completion_tokens,
    }

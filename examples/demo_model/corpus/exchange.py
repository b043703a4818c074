"""One question and its answer: what chats are made of and what evaluation asks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Exchange:
    """A user's message, the reply, and how a reply is judged.

    task    what the figures are reported under
    check   "number": the reply's last number is `answer`; "json": the reply is JSON equal to `answer`'s;
            "text": the reply holds `answer`, as whole words; "call": the reply is a tool call equal to `answer`
    before  messages that come first, say those that a question refers to
    tools   schemas of the tools that this exchange is about
    after   messages that may follow the reply: a tool's result and what is made of it
    """

    task: str
    user: str
    reply: str
    check: str
    answer: str
    before: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    calls: Sequence[Mapping[str, Any]] = ()
    after: Sequence[Mapping[str, Any]] = field(default=())

    def messages(self) -> list[dict[str, Any]]:
        """All of it as chat messages."""
        reply: dict[str, Any] = {"role": "assistant", "content": self.reply}
        if self.calls:
            reply["tool_calls"] = [{"type": "function", "function": dict(call)} for call in self.calls]
        return [*map(dict, self.before), {"role": "user", "content": self.user}, reply, *map(dict, self.after)]

    def is_right(self, reply: str) -> bool:
        """Whether a reply passes."""
        if self.check == "number":
            numbers = _NUMBER.findall(reply)
            return bool(numbers) and numbers[-1] == self.answer
        if self.check == "json":
            return bool(parsed(reply) == json.loads(self.answer))
        if self.check == "call":
            found = re.fullmatch(r"\s*<tool_call>(.*)</tool_call>\s*", reply, re.DOTALL)
            return found is not None and bool(parsed(found[1]) == json.loads(self.answer))
        return re.search(rf"(?<!\w){re.escape(self.answer)}(?!\w)", reply, re.IGNORECASE) is not None


def parsed(text: str) -> Any:
    """What a JSON text says; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None

"""What a request asks for and what it gets, in no dialect's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aphrodite.text.formats.events import Event
from aphrodite.types.outputs import Logprob
from aphrodite.types.sampling_params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation, to be written by the model's chat template.

    messages     as OpenAI writes them: role, content (a text or text parts), tool_calls, tool_call_id ...
    tools        functions that the model may call, as OpenAI writes them; None: none, and nothing is read as a call
    extract      whether reasoning and calls are told apart from the answer; else all of the output is content
    template_kwargs  what else the template reads
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    extract: bool = True
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A request, checked as far as it can be without the model. Either prompts or a chat.

    prompts    each a text or token ids
    source     what the caller calls its one prompt, where that is not "messages" or "prompt[0]"
    ignored    names of parameters that the caller sent and that have no effect: told in the answer
    priority   lower goes first, where the engine's policy is "priority"
    cache_salt  cached blocks are shared with requests of the same salt alone
    timeout_s  the whole of it must be done in that time; None: the server's own limit
    """

    sampling: SamplingParams
    prompts: Sequence[str | Sequence[int]] = ()
    chat: Chat | None = None
    source: str | None = None
    ignored: tuple[str, ...] = ()
    priority: int = 0
    cache_salt: str | None = None
    timeout_s: float | None = None

    @property
    def num_sequences(self) -> int:
        """Continuations that it takes, as the queue counts them."""
        return max(1, len(self.prompts)) * self.sampling.n


@dataclass(frozen=True, slots=True)
class Piece:
    """What one continuation has got since the last time.

    choice         its number: prompts in order, the continuations of each beside each other
    events         text, reasoning and calls, in the order in which they were written
    logprobs       a mapping for each new token, where they were asked for
    finish_reason  "stop", "length", "tool_calls" or "abort", with its last piece; None before
    stop_reason    the stop string or the token that ended it, if it was not the model's own end
    """

    choice: int
    events: Sequence[Event]
    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, Logprob]] | None
    finish_reason: str | None
    stop_reason: int | str | None


@dataclass(frozen=True)
class Usage:
    """Tokens: of the prompts, of these those that came from the prefix cache, and of all continuations."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class ToolCall:
    """A call that the model has written; `arguments` is JSON as text, whole or not."""

    call_id: str
    name: str
    arguments: str
    complete: bool


@dataclass
class Choice:
    """One continuation as a whole."""

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Mapping[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

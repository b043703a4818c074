"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from aphrodite.server.dialect import Call, Json, Reply, Stream, event
from aphrodite.server.errors import ApiError, form, invalid
from aphrodite.server.generation import Chat, Choice, Generation, Piece
from aphrodite.server.idle import Idle, Kind, idle
from aphrodite.server.openai import fields
from aphrodite.server.openai.fields import Streaming
from aphrodite.server.openai.tools import check_choice, checked_tools
from aphrodite.server.parameters import read
from aphrodite.server.run import Run
from aphrodite.text.formats.events import CallArguments, CallStart, Content, Event, Reasoning
from aphrodite.types.outputs import Logprob
from aphrodite.types.sampling_params import MAX_LOGPROBS
from aphrodite.types.shown import shown

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
CONVERSATION = (  # fields of which the prompt is made
    "messages",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "reasoning_effort",
    "chat_template",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "documents",
    "separate_reasoning",
)
IDLE: Mapping[str, Idle] = {"add_special_tokens": Idle(Kind.SWITCH, (False,))}  # a chat template writes its own
_OWN = (
    *CONVERSATION,
    "model",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "parallel_tool_calls",
    "response_format",
    "user",
    "metadata",
    "store",
    "service_tier",
    "modalities",
    "priority",
    "cache_salt",
    "timeout",
    *IDLE,
)
_WITHOUT_EFFECT = ("user", "metadata", "store", "service_tier", "modalities", "parallel_tool_calls")


async def chat_complete(call: Call) -> Reply:
    """Answer a conversation."""
    body = call.json()
    call.service.check_model(body.get("model"))
    streaming = Streaming.read(body)
    generation = _read(body, call)
    run = await call.start(generation)
    model = call.service.settings.model_names[0]
    if streaming.on:
        head = fields.head("chat.completion.chunk", "chatcmpl", model)
        return Stream(_frames(run, generation, streaming, head))
    return Json(await _whole(run, generation, fields.head("chat.completion", "chatcmpl", model)))


def _read(body: Mapping[str, Any], call: Call) -> Generation:
    fields.refuse_structure(body)
    wants = fields.flag(body, "logprobs")
    top = fields.whole(body, "top_logprobs", 0, MAX_LOGPROBS)
    if top is not None and top > 0 and not wants:
        raise invalid("top_logprobs", "top_logprobs may only be there when logprobs is true")
    conversed = conversation(body, call)
    found = read(
        body,
        own=_OWN,
        defaults={"max_tokens": None},
        fixed={"logprobs": top or 0} if wants else {},
    )
    return Generation(
        sampling=found.sampling,
        chat=conversed,
        ignored=(*found.ignored, *fields.ignored_of(body, _WITHOUT_EFFECT), *idle(body, IDLE)),
        priority=fields.whole(body, "priority", -(2**31), 2**31 - 1) or 0,
        cache_salt=fields.text(body, "cache_salt"),
        timeout_s=fields.seconds(body, "timeout"),
    )


def conversation(body: Mapping[str, Any], call: Call) -> Chat:
    """The part of a body that is written by the chat template."""
    if body.get("chat_template") is not None:
        raise invalid(
            "chat_template", "chat_template must come from the operator (--chat-template), not from a request"
        )
    for old in ("functions", "function_call"):
        if body.get(old) is not None:
            raise invalid(old, f"{old} is not supported: use tools and tool_choice", "unsupported_parameter")
    tools = checked_tools(body.get("tools"), call.limits)
    may_call = check_choice(body.get("tool_choice"), tools)
    kwargs = dict(fields.mapping(body, "chat_template_kwargs") or {})
    effort = fields.text(body, "reasoning_effort")
    if effort is not None:
        kwargs.setdefault("reasoning_effort", effort)
    documents = fields.array(body, "documents")
    if documents is not None:
        kwargs.setdefault("documents", documents)
    add = body.get("add_generation_prompt")
    return Chat(
        messages=checked_chat(body.get("messages"), call.limits.num_messages),
        tools=tools if may_call else None,
        extract=fields.flag(body, "separate_reasoning", True),
        add_generation_prompt=None if add is None else fields.flag(body, "add_generation_prompt"),
        continue_final_message=fields.flag(body, "continue_final_message"),
        template_kwargs=kwargs,
    )


def checked_chat(messages: Any, most: int) -> list[dict[str, Any]]:
    """Messages as templates read them. ApiError names the first that is wrong as messages[i]."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", f"messages must be a list of at least one message, got {form(messages)}")
    if len(messages) > most:
        raise invalid("messages", f"messages must hold at most {most} messages, got {len(messages)}")
    found = []
    open_calls: set[Any] = set()
    has_calls = False
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        one = _message(message, where)
        for call in one.get("tool_calls") or ():
            has_calls = True
            open_calls.add(call.get("id"))
        if one["role"] in ("tool", "function") and not has_calls:
            raise _wrong(where, "answers a tool call, and there is none before it")
        answered = one.get("tool_call_id")
        if one["role"] == "tool" and answered is not None and answered not in open_calls:
            raise _wrong(f"{where}.tool_call_id", f"is {shown(answered)}, which no tool call before it has")
        found.append(one)
    return found


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _wrong(where, "must be an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise _wrong(f"{where}.role", f"must be one of {', '.join(ROLES)}, got {shown(role)}")
    fields.text(message, "tool_call_id", f"{where}.")
    one = {**message, "role": "system" if role == "developer" else role}
    calls = one.get("tool_calls")
    if calls is not None:
        one["tool_calls"] = [_called(call, f"{where}.tool_calls[{at}]") for at, call in enumerate(_list(calls, where))]
    if one.get("content") is None and not (role == "assistant" and (calls or one.get("reasoning_content"))):
        raise _wrong(f"{where}.content", "must be a text or a list of text parts")
    return one


def _list(calls: Any, where: str) -> list[Any]:
    if not isinstance(calls, list):
        raise _wrong(f"{where}.tool_calls", "must be a list")
    return calls


def _called(call: Any, where: str) -> dict[str, Any]:
    """A call that the model made. Templates want its arguments as data, and clients send them as a text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _wrong(where, 'must be {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}')
    fields.text(call, "id", f"{where}.")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = arguments_of(arguments, f"{where}.function.arguments")
    return {**call, "function": {**function, "arguments": {} if arguments is None else arguments}}


def arguments_of(text: str, where: str) -> Any:
    """A call's arguments as data."""
    try:
        return msgspec.json.decode(text.encode()) if text.strip() else {}
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise _wrong(where, f"must be JSON as a text, got {shown(text)}") from None


def _wrong(where: str, what: str) -> ApiError:
    return invalid(where, f"{where} {what}")


# ---- the answer -----------------------------------------------------------------------------------------------------


async def _whole(run: Run, generation: Generation, head: dict[str, Any]) -> dict[str, Any]:
    try:
        choices = await run.whole()
    finally:
        run.close()
    found: dict[str, Any] = {
        **head,
        "choices": [
            {
                "index": index,
                "message": message_of(choice),
                "logprobs": _logprobs(choice.logprobs, generation.sampling.logprobs or 0),
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": fields.usage(run.usage),
    }
    if generation.ignored:
        found["ignored_params"] = list(generation.ignored)
    return found


def message_of(choice: Choice) -> dict[str, Any]:
    """A continuation as a message."""
    message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        message["content"] = choice.content or None
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return message


async def _frames(run: Run, generation: Generation, streaming: Streaming, head: dict[str, Any]) -> AsyncIterator[bytes]:
    begun: set[int] = set()
    extra: dict[str, Any] = {"ignored_params": list(generation.ignored)} if generation.ignored else {}
    try:
        async for pieces in run:
            parts = []
            for piece in pieces:
                if piece.choice not in begun:
                    begun.add(piece.choice)
                    first = _chunk(head, piece.choice, {"role": "assistant", "content": ""})
                    parts.append(event({**first, **extra}))
                    extra = {}
                parts += [event(chunk) for chunk in _chunks(head, piece, generation.sampling.logprobs or 0)]
            if parts:
                yield b"".join(parts)
        if streaming.include_usage:
            yield event({**head, "choices": [], "usage": fields.usage(run.usage)})
        yield b"data: [DONE]\n\n"
    finally:
        run.close()


def _chunks(head: dict[str, Any], piece: Piece, count: int) -> list[dict[str, Any]]:
    """A piece in chunks; the first has its log-probabilities, the last the reason for the end."""
    deltas = [delta for delta in map(_delta, piece.events) if delta is not None]
    if not deltas and (piece.finish_reason is not None or piece.logprobs):
        deltas = [{}]
    found = [_chunk(head, piece.choice, delta) for delta in deltas]
    if found and piece.logprobs is not None:
        found[0]["choices"][0]["logprobs"] = _logprobs(piece.logprobs, count)
    if found and piece.finish_reason is not None:
        found[-1]["choices"][0]["finish_reason"] = piece.finish_reason
        found[-1]["choices"][0]["stop_reason"] = piece.stop_reason
    return found


def _delta(found: Event) -> dict[str, Any] | None:
    match found:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case CallStart(index, call_id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return None


def _chunk(head: dict[str, Any], choice: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {**head, "choices": [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}]}


def _logprobs(positions: Sequence[Mapping[int, Logprob]] | None, count: int) -> dict[str, Any] | None:
    """Positions in OpenAI's words, with so many of the likeliest tokens at each."""
    if positions is None:
        return None
    content = []
    for position in positions:
        _, entry = fields.chosen(position)
        # The chosen token stands first in any case; among the likeliest it stands only if it is one of them.
        likeliest = sorted((one for one in position.values() if one.rank <= count), key=lambda one: one.rank)
        content.append({**_token(entry), "top_logprobs": [_token(one) for one in likeliest]})
    return {"content": content, "refusal": None}


def _token(entry: Logprob) -> dict[str, Any]:
    text = fields.spelled(entry)
    return {"token": text, "logprob": fields.number(entry.logprob), "bytes": list(text.encode("utf-8", "replace"))}

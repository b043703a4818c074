"""The body of a Kobold generation as a Generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.engine.host import Model
from aphrodite.server.dialect import Call
from aphrodite.server.errors import invalid
from aphrodite.server.generation import Generation
from aphrodite.server.openai import fields
from aphrodite.server.parameters import read
from aphrodite.types.shown import shown

_DEFAULT_LENGTH = 80
_MAX_INT = 2**31 - 1
_CHARS_A_TOKEN = 64  # of a prompt that is cut, no more than so many times the room's tokens are looked at
_MAX_KEY_CHARS = 128
_OWN = (
    "prompt",
    "memory",
    "max_context_length",
    "genkey",
    "singleline",
    "trim_stop",
    "render_special",
    "images",
    "audio",
    "logprobs",
    "replace_instruct_placeholders",
)
_OPPOSITES: Mapping[str, str] = {"trim_stop": "include_stop_str_in_output", "render_special": "skip_special_tokens"}
_PLACEHOLDER = "{{["  # KoboldCpp puts the model's own turns in their place


@dataclass(frozen=True)
class Asked:
    """What the body holds. genkey: what the client calls this generation, "" for nothing."""

    generation: Generation
    genkey: str


async def asked(body: Mapping[str, Any], call: Call) -> Asked:
    """A request for a continuation. ApiError names what is wrong."""
    prompt = fields.text(body, "prompt")
    if prompt is None:
        raise invalid("prompt", "prompt must be there: a text")
    for media in ("images", "audio"):
        if fields.array(body, media):
            raise invalid(media, f"{media} cannot be read here: leave {media} out", "unsupported_parameter")
    defaults: dict[str, Any] = {
        "include_stop_str_in_output": not fields.flag(body, "trim_stop", True),
        "skip_special_tokens": not fields.flag(body, "render_special"),
        "max_tokens": _DEFAULT_LENGTH,
    }
    found = read({**body, "stop_sequence": _stop(body)}, own=_OWN, defaults=defaults)
    context = fields.whole(body, "max_context_length", 1, _MAX_INT)
    memory = fields.text(body, "memory") or ""
    whole: str | Sequence[int] = memory + prompt
    if context is not None:
        length = found.sampling.max_tokens or _DEFAULT_LENGTH
        whole = await call.service.offload(_fitted, call.service.model, memory, prompt, context, length)
    ignored = list(found.ignored)
    if fields.flag(body, "logprobs"):
        ignored.append("logprobs")
    if fields.flag(body, "replace_instruct_placeholders") and _PLACEHOLDER in prompt:
        ignored.append("replace_instruct_placeholders")
    ignored += [
        name for name, ours in _OPPOSITES.items() if body.get(name) in (True, False) and body[name] is body.get(ours)
    ]
    generation = Generation(sampling=found.sampling, prompts=(whole,), source="prompt", ignored=tuple(ignored))
    return Asked(generation, genkey(body))


def genkey(body: Mapping[str, Any]) -> str:
    """What the client calls its generation."""
    found = fields.text(body, "genkey") or ""
    if len(found) > _MAX_KEY_CHARS:
        raise invalid("genkey", f"genkey must have at most {_MAX_KEY_CHARS} characters, got {len(found)}")
    return found


def _stop(body: Mapping[str, Any]) -> list[Any]:
    """The stop strings. An empty one is none: clients send what their users have left empty."""
    value = body.get("stop_sequence")
    if value is not None and not isinstance(value, (list, str)):
        raise invalid("stop_sequence", f"stop_sequence must be a list of texts, got {shown(value)}")
    found = [one for one in ([value] if isinstance(value, str) else value or ()) if one != ""]
    return [*found, "\n"] if fields.flag(body, "singleline") and "\n" not in found else found


def _fitted(model: Model, memory: str, prompt: str, context: int, length: int) -> str | list[int]:
    """Memory and prompt, of which so much of the prompt's beginning is cut away that the answer fits behind them into
    `context` tokens, or what the model has. That is what max_context_length means."""
    tokenizer = model.frontend.tokenizer
    context = min(context, model.frontend.card.max_model_len)
    room = context - length
    if room < 1:
        raise invalid(
            "max_length",
            f"max_length must be less than max_context_length and the model's own, {context} tokens, got {length}",
        )
    whole = memory + prompt
    if tokenizer is None or len(whole) <= room:  # a token has a character at least
        return whole
    tail = prompt[-room * _CHARS_A_TOKEN :]
    if len(tail) == len(prompt) and len(memory) <= room * _CHARS_A_TOKEN and len(tokenizer.encode(whole)) <= room:
        return whole
    head = tokenizer.encode(memory[: room * _CHARS_A_TOKEN])[: room - 1]
    return [*head, *tokenizer.encode_bare(tail)[len(head) - room :]]

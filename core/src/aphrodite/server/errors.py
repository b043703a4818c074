"""What a client is told when something goes wrong: a status, a code and a sentence of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from aphrodite.errors import AphroditeError, CapacityError, ContextLengthError, EngineDied, UsageError
from aphrodite.types.shown import shown

_MOST_CHARACTERS = 500
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable",
}
_RETRIED = (408, 429, 503)  # what may go well another time, unchanged
_PRIVATE = re.compile(r"0x[0-9a-fA-F]{4,}|(?<![\w.:/])(?:/[\w.@+-]+){2,}/?")  # addresses and paths


@dataclass
class ApiError(Exception):
    """An answer that is an error. Each dialect writes it its own way.

    code           from a closed list, for programs
    param          the request's field at fault
    retry_after_s  when to come again, where that is known
    closes         whether the connection is of no more use
    """

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    closes: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    @property
    def type(self) -> str:
        """Its kind, as OpenAI names them."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def reply_headers(self) -> dict[str, str]:
        """What the answer's head says of it: official clients try again unless told not to."""
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.status not in _RETRIED:
            headers["x-should-retry"] = "false"
        if self.closes:
            headers["connection"] = "close"
        return headers


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A field that cannot be used."""
    return ApiError(400, code, message, param)


def form(value: Any) -> str:
    """What a value is, where it may be a prompt, which no message repeats."""
    if value is None or isinstance(value, (bool, int, float)):
        return shown(value)
    name = "text" if isinstance(value, str) else "list" if isinstance(value, list) else "object"
    if not value:
        return f"an empty {name}"
    return f"an {name}" if name == "object" else f"a {name}"


def unknown_model(name: str, served: str) -> ApiError:
    """A model that is not here."""
    return ApiError(404, "model_not_found", f"there is no model {shown(name)}; this server has {served}", "model")


def model_loading() -> ApiError:
    """The engine is not there yet."""
    return ApiError(503, "model_loading", "the model is loading: try again soon", retry_after_s=5)


def engine_restarting() -> ApiError:
    """The engine is gone and will be back."""
    return ApiError(503, "engine_restarting", "the engine is restarting: try again soon", retry_after_s=5)


def engine_stalled() -> ApiError:
    """The engine is there, and its steps have stopped."""
    return ApiError(503, "engine_stalled", "the engine's steps have stopped: try again later", retry_after_s=10)


def draining() -> ApiError:
    """The server is about to end."""
    return ApiError(503, "draining", "the server is shutting down: ask another one", retry_after_s=10)


def numerical_error() -> ApiError:
    """The logits were no numbers."""
    return ApiError(500, "numerical_error", "the model's logits were not numbers, or left no token to draw")


def deadline_exceeded(timeout_s: float) -> ApiError:
    """Time was up."""
    return ApiError(504, "deadline_exceeded", f"the request was not done within {timeout_s:g} s")


def too_slow() -> ApiError:
    """A client that does not read."""
    return ApiError(408, "client_too_slow", "the stream was not read for too long", closes=True)


def from_exception(error: BaseException, secrets: Mapping[str, str] = MappingProxyType({})) -> ApiError:
    """What a client may know of an exception. `secrets`: texts (a folder) and what stands for them."""
    if isinstance(error, ApiError):
        return error
    param = error.subject if isinstance(error, AphroditeError) and isinstance(error.subject, str) else None
    if param is not None:
        param = param.replace("prompts[", "prompt[")  # as clients spell it
    if isinstance(error, ContextLengthError):
        return invalid(param, scrubbed(str(error), secrets), "context_length_exceeded")
    if isinstance(error, UsageError):
        return invalid(param, _without_text(scrubbed(str(error), secrets), param))
    if isinstance(error, CapacityError):
        return ApiError(503, "out_of_memory", scrubbed(str(error), secrets), retry_after_s=5)
    if isinstance(error, MemoryError):
        return ApiError(
            503, "out_of_memory", "the server had no memory for this request: ask for less", retry_after_s=5
        )
    if isinstance(error, EngineDied):
        return ApiError(500, "engine_died", scrubbed(str(error), secrets))
    if isinstance(error, AphroditeError):
        return ApiError(500, "internal", f"{type(error).__name__}: {scrubbed(str(error), secrets)}")
    return ApiError(500, "internal", f"an internal error ({type(error).__name__}); the server's log has more")


def scrubbed(text: str, secrets: Mapping[str, str] = MappingProxyType({})) -> str:
    """A text of ours without paths and addresses, in one line of bounded length."""
    text = text.replace("prompts[", "prompt[")
    for secret, stands in secrets.items():
        text = text.replace(secret, stands)
    return _shortened(" ".join(_PRIVATE.sub("...", text).split()))


def _without_text(message: str, param: str | None) -> str:
    """Messages about prompts do not repeat them."""
    if param is not None and param.startswith(("prompt", "messages", "tools", "input")):
        return message.partition(", got ")[0]
    return message


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."

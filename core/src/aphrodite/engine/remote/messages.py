"""What a server and its engine's process say to each other: tagged msgspec structs behind a length.

    [ length, 4 bytes, big endian | msgpack ] ...

No pickle: what arrives is data of these types, or the connection ends.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import msgspec

from aphrodite import errors
from aphrodite.config.engine import EngineConfig
from aphrodite.errors import AphroditeError, told
from aphrodite.types.model_card import ModelCard
from aphrodite.types.request import Request, Times, TokenLogprobs
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.shaping import PLAIN, Shaping
from aphrodite.types.stats import EngineStats

MAX_BYTES = 512 << 20  # of a message; one that says it is longer is no message of ours
HEAD = struct.Struct(">I")
VERSION = 4

Logprobs = tuple[int, float, int, tuple[tuple[int, float], ...]]


class WireRequest(msgspec.Struct, array_like=True, frozen=True):
    """A Request. Of its parameters those that were given, so that what is left out stays left out."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: dict[str, Any]
    seed: int
    stop_ids: tuple[int, ...]
    max_total_tokens: int
    shaping: Shaping | None
    child: int
    priority: int
    cache_salt: str | None


class Error(msgspec.Struct, array_like=True, frozen=True):
    """An exception: its class if it is one of ours, else "internal"; what it says; and what it is about."""

    kind: str
    message: str
    subject: str | None


class Update(msgspec.Struct, array_like=True, frozen=True):
    """What a sequence has got since its last update; `facts` with the first and the last: tokens from the prefix cache,
    preemptions and times; `error` where it ended with one and its own logits are not to blame."""

    request_id: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | None = None
    logprobs: list[Logprobs] | None = None
    prompt_logprobs: list[Logprobs] | None = None
    facts: tuple[int, int, float, float | None, float | None, float | None] | None = None
    error: Error | None = None


# ---- to the engine --------------------------------------------------------------------------------------------------


class Start(msgspec.Struct, tag=True, frozen=True):
    """The first message: what to build."""

    version: int
    config: EngineConfig


class Add(msgspec.Struct, tag=True, frozen=True):
    """Queue requests, all or none."""

    requests: list[WireRequest]


class Abort(msgspec.Struct, tag=True, frozen=True):
    """End requests."""

    request_ids: list[str]


class Hold(msgspec.Struct, tag=True, frozen=True):
    """Spend no step on these requests: their readers are behind."""

    request_ids: list[str]


class Release(msgspec.Struct, tag=True, frozen=True):
    """Let held requests go on."""

    request_ids: list[str]


class ResetPrefixCache(msgspec.Struct, tag=True, frozen=True):
    """Forget cached blocks; answered with a Pulse."""


class RefuseWaiting(msgspec.Struct, tag=True, frozen=True):
    """Abort requests of which nothing has been computed yet; of each group all or none."""

    groups: list[list[str]]


ToEngine = Start | Add | Abort | Hold | Release | ResetPrefixCache | RefuseWaiting

# ---- from the engine ------------------------------------------------------------------------------------------------


class Loading(msgspec.Struct, tag=True, frozen=True):
    """A phase of loading has begun."""

    label: str


class Drawn(msgspec.Struct, tag=True, frozen=True):
    """Which model it will be is known, and its weights are still to be loaded."""

    card: ModelCard


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The engine runs. reasons: why its settings are what they are."""

    card: ModelCard
    max_num_seqs: int
    reasons: dict[str, str]
    notes: list[str]


class Updates(msgspec.Struct, tag=True, frozen=True):
    """All that one step has given."""

    items: list[Update]


class Failed(msgspec.Struct, tag=True, frozen=True):
    """These requests have ended with an error."""

    request_ids: list[str]
    error: Error


class Pulse(msgspec.Struct, tag=True, frozen=True):
    """The engine's thread is alive: it says this between two steps, at least every few seconds."""

    stats: EngineStats


class Dying(msgspec.Struct, tag=True, frozen=True):
    """The last message of an engine that can still say why."""

    error: Error
    exit_code: int


FromEngine = Loading | Drawn | Ready | Updates | Failed | Pulse | Dying

# ---- bytes ----------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """What msgspec has no type for: mappings that nobody can write to."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a message cannot hold {type(value).__name__}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_FROM_ENGINE: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def packed(message: ToEngine | FromEngine) -> bytes:
    """A message with its length."""
    data = _ENCODER.encode(message)
    return HEAD.pack(len(data)) + data


def to_engine(data: bytes | memoryview) -> ToEngine:
    """A message for the engine. msgspec.DecodeError if it is none."""
    return _TO_ENGINE.decode(data)


def from_engine(data: bytes | memoryview) -> FromEngine:
    """A message of the engine. msgspec.DecodeError if it is none."""
    return _FROM_ENGINE.decode(data)


def length_of(head: bytes | memoryview) -> int:
    """The length that a message's head says. ValueError if none of ours is as long."""
    found: int = HEAD.unpack(head)[0]
    if found > MAX_BYTES:
        raise ValueError(f"a message of {found} bytes is longer than {MAX_BYTES}")
    return found


# ---- requests and errors --------------------------------------------------------------------------------------------


def wired(request: Request) -> WireRequest:
    """A request as a message has it."""
    sampling = request.sampling
    return WireRequest(
        request.request_id,
        request.prompt_token_ids,
        {name: getattr(sampling, name) for name in sampling.given},
        request.seed,
        tuple(request.stop_ids),
        request.max_total_tokens,
        None if request.shaping is PLAIN else request.shaping,
        request.child,
        request.priority,
        request.cache_salt,
    )


def unwired(found: WireRequest) -> Request:
    """The request again."""
    given: Mapping[str, Any] = found.sampling
    if "logit_bias" in given:  # pairs have become lists on their way
        given = {**given, "logit_bias": tuple(map(tuple, given["logit_bias"]))}
    return Request(
        found.request_id,
        found.prompt_token_ids,
        SamplingParams(**given),
        found.seed,
        frozenset(found.stop_ids),
        found.max_total_tokens,
        found.shaping or PLAIN,
        found.child,
        found.priority,
        found.cache_salt,
    )


def error_of(error: BaseException) -> Error:
    """An exception as a message has it."""
    if not isinstance(error, AphroditeError):
        return Error("internal", told(error), None)
    return Error(type(error).__name__, str(error), None if error.subject is None else str(error.subject))


def exception_of(error: Error) -> AphroditeError:
    """The exception again; what was none of ours is an AphroditeError that says what it was."""
    kind = getattr(errors, error.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, AphroditeError)):
        kind = AphroditeError
    return kind(error.message, subject=error.subject)


def logprobs_of(entry: TokenLogprobs) -> Logprobs:
    """A position as a message has it."""
    return entry.token_id, entry.logprob, entry.rank, entry.top


def times_of(facts: tuple[float | None, ...]) -> Times:
    """Times from an update's facts."""
    return Times(**dict(zip((item.name for item in fields(Times)), facts, strict=True)))  # type: ignore[arg-type]

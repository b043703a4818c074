"""What one API on the port is made of. A dialect is a file: it reads its requests into `Generation`s, and writes what a
`Run` gives in its own words.

    Dialect.routes ── Route(path, handler) ── handler(Call) -> Reply
                                                  │ body -> Generation; run = await call.start(generation)
                                                  └ Json(...)  or  Stream(frames of what `run` yields)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from aphrodite.server.body import Limits, decoded
from aphrodite.server.errors import ApiError, invalid
from aphrodite.server.generation import Generation
from aphrodite.server.run import Run
from aphrodite.server.service import Service

IGNORED_HEADER = "x-aphrodite-ignored"
MOST_LOAD_BYTES = 512  # of a body that asks for a model to be loaded, and for nothing else


class Access:
    """Who may call a route."""

    OPEN = "open"  # anybody
    KEY = "key"  # who has a key, where keys are set
    ADMIN = "admin"  # who has the admin key


@dataclass(frozen=True)
class Json:
    """A whole answer. `data` is what msgspec can write; bytes are sent as they are."""

    data: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def parts(self) -> tuple[dict[str, str], bytes]:
        """Headers and body."""
        if self.status == 204:
            return dict(self.headers), b""
        data = self.data if isinstance(self.data, bytes) else written(self.data)
        return {**self.headers, "content-type": self.content_type, "content-length": str(len(data))}, data


@dataclass(frozen=True)
class Stream:
    """An answer in frames, each complete in itself. An ApiError that comes out of `frames` is written by the dialect's
    `broken`, and is the last frame; the run is aborted when the client leaves."""

    frames: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream; charset=utf-8"


Reply = Json | Stream


@dataclass
class Call:
    """One request on its way to a route's handler.

    request_id  what logs, headers and answers call it: the client's own if it is fit to be shown, else one of ours
    tenant      who asks, as a salt of the prefix cache; None where keys are not told apart
    on_start    called before a generation is begun: from then on it matters whether the client is still there
    """

    scope: Mapping[str, Any]
    receive: Callable[[], Awaitable[Any]]
    service: Service
    limits: Limits
    request_id: str
    path_params: Mapping[str, str] = field(default_factory=dict)
    tenant: str | None = None
    ignored: tuple[str, ...] = ()
    body: bytes | None = field(default=None, repr=False)  # of routes that have one
    on_start: Callable[[], None] = field(default=lambda: None, repr=False)

    def header(self, name: str) -> str | None:
        """A header's first value."""
        return header(self.scope["headers"], name.lower().encode())

    @property
    def query(self) -> Mapping[str, str]:
        """The query's fields; of those given twice the last. ApiError if they are too many."""
        from urllib.parse import parse_qsl

        text, most = self.scope["query_string"].decode("latin-1"), self.limits.num_query_fields
        if text.count("&") >= most:
            raise invalid("query", f"the query must have at most {most} fields, got {text.count('&') + 1}")
        return dict(parse_qsl(text, keep_blank_values=True))

    def json(self) -> dict[str, Any]:
        """The body as a JSON object, within limits. ApiError for anything else."""
        return decoded(self.body or b"", self.limits)

    def ignore(self, names: Sequence[str]) -> None:
        """Tell of fields that have no effect, in the answer's head. ApiError where they are to be refused."""
        self.ignored = tuple(names)
        self.service.check_ignored(self.ignored)

    async def start(self, generation: Generation) -> Run:
        """Take a request on. ApiError if it cannot be run, or not now; nothing was sent by then."""
        self.ignore(generation.ignored)
        self.on_start()
        return await self.service.start(generation, self)


Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """A path, what answers there, and what is told about it in the OpenAPI document.

    path      with {name} for a part, {name:path} for all that is left
    body      JSON schema of the request; None for a route without
    answer    JSON schema of the answer with status 200
    statuses  other statuses that it may have, beside those of every route
    frames    content type of its stream, if it has one
    lenient   whether a body may be called a form, as curl does (see `read_body`)
    generates whether it takes at least one sequence: where there is room for none, the body is not even read
    loads     whether a short body may ask for no sequence after all, and is read to find out
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Mapping[str, Any]
    body: Mapping[str, Any] | None = None
    frames: str | None = None
    access: str = Access.KEY
    statuses: tuple[int, ...] = ()
    lenient: bool = False
    generates: bool = False
    loads: bool = False

    def is_refused_unread(self, num_body_bytes: int | None) -> bool:
        """Whether a request is, while there is room for no sequence. num_body_bytes: None if its head does not say."""
        return self.generates and not (self.loads and num_body_bytes is not None and num_body_bytes <= MOST_LOAD_BYTES)


class Dialect(Protocol):
    """One API."""

    name: str

    def routes(self) -> Sequence[Route]:
        """What it answers."""

    def error(self, error: ApiError, request_id: str) -> Json:
        """An error in its words."""

    def broken(self, error: ApiError, request_id: str) -> bytes:
        """An error as the last frame of a stream that has begun."""


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The first value of a header, by its name in small letters."""
    return next((value.decode("latin-1") for key, value in headers if key == name), None)


def refusal(dialect: Dialect, error: ApiError, request_id: str) -> Json:
    """An error as an answer."""
    reply = dialect.error(error, request_id)
    return Json(reply.data, reply.status, {**error.reply_headers(), **reply.headers}, reply.content_type)


def written(data: Any) -> bytes:
    """JSON."""
    return msgspec.json.encode(data)


def event(data: Any, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"

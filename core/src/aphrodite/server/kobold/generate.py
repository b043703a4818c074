"""Kobold's generations: whole, as a stream, looked at and ended from beside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aphrodite.server.dialect import Call, Json, Reply, Stream, event
from aphrodite.server.errors import ApiError
from aphrodite.server.generation import Piece
from aphrodite.server.idle import others
from aphrodite.server.kobold import request
from aphrodite.server.run import Run
from aphrodite.text.formats.events import Content

_ABORTED = "aborted"
_REASONS = {"stop": 1, "length": 0}  # as /api/extra/perf tells them; 2 is a stop sequence


@dataclass
class _Open:
    """A generation on its way, and its first continuation's text so far."""

    run: Run
    texts: list[str] = field(default_factory=list)


@dataclass
class Last:
    """How the last generation went."""

    prompt_s: float = 0.0
    output_s: float = 0.0
    num_prompt: int = 0
    num_output: int = 0
    stop_reason: int = -1
    seed: int = -1
    num_done: int = 0


class Generations:
    """Those of all clients. A client names its own by a key, and finds no other's: the caller's key is part of it."""

    def __init__(self) -> None:
        self._open: dict[tuple[str | None, str], list[_Open]] = {}
        self.last = Last()

    @property
    def num_open(self) -> int:
        return sum(map(len, self._open.values()))

    async def whole(self, call: Call) -> Reply:
        """POST generate."""
        asked = await request.asked(call.json(), call)
        run = await call.start(asked.generation)
        texts: list[list[str]] = [[] for _ in range(asked.generation.num_sequences)]
        reasons: list[str | None] = [None] * len(texts)
        async with aclosing(self._pieces(call, asked.genkey, run)) as pieces:
            async for piece in pieces:
                texts[piece.choice].append(_text(piece))
                reasons[piece.choice] = piece.finish_reason
        usage = run.usage
        results = [
            {
                "text": "".join(parts),
                "finish_reason": reason,
                "logprobs": None,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens // len(texts),
            }
            for parts, reason in zip(texts, reasons, strict=True)
        ]
        return Json({"results": results})

    async def stream(self, call: Call) -> Reply:
        """POST generate/stream."""
        asked = await request.asked(call.json(), call)
        run = await call.start(asked.generation)
        return Stream(self._frames(call, asked.genkey, run))

    async def check(self, call: Call) -> Reply:
        """The text so far of a generation that is on its way."""
        found = self._named(call)
        return Json({"results": [{"text": "".join(found[-1].texts) if found else ""}]})

    async def abort(self, call: Call) -> Reply:
        """End generations; they give what there is. Without a key that is the only one without, if there is but one:
        another's is never ended, and a client that leaves ends its own."""
        found = self._named(call)
        if not request.genkey(_body(call)) and len(found) > 1:
            found = []
        for one in found:
            one.run.break_off(ApiError(503, _ABORTED, "the generation was ended by its client"))
        return Json({"success": "true" if found else "false", "done": "true"})

    def _named(self, call: Call) -> list[_Open]:
        """What a caller may mean. A key that is not its own is as one that nobody has: 404."""
        body = _body(call)
        key = request.genkey(body)
        call.ignore(others(body, ("genkey",)))
        found = self._open.get((call.tenant, key), [])
        if key and not found:
            raise ApiError(404, "not_found", "there is no generation with this genkey on its way", "genkey")
        return found

    async def _frames(self, call: Call, key: str, run: Run) -> AsyncIterator[bytes]:
        async with aclosing(self._pieces(call, key, run)) as pieces:
            async for piece in pieces:
                yield event({"token": _text(piece), "finish_reason": piece.finish_reason}, "message")

    async def _pieces(self, call: Call, key: str, run: Run) -> AsyncGenerator[Piece, None]:
        """The run's pieces, while it can be found by its key. An abort ends them."""
        one = _Open(run)
        name = (call.tenant, key)
        self._open.setdefault(name, []).append(one)
        last: Piece | None = None
        try:
            async for pieces in run:
                for piece in pieces:
                    if piece.choice == 0:
                        one.texts.append(_text(piece))
                    last = piece
                    yield piece
        except ApiError as error:
            if error.code != _ABORTED:
                raise
            yield Piece(0, (), (), None, "abort", None)
        finally:
            run.close()
            self._open[name].remove(one)
            if not self._open[name]:
                del self._open[name]
            self._ended(run, last)

    def _ended(self, run: Run, last: Piece | None) -> None:
        first_s, usage = run.first_piece_s, run.usage
        if first_s is None:
            return
        reason = _REASONS.get(last.finish_reason or "", -1) if last is not None else -1
        self.last = Last(
            prompt_s=first_s - run.began_s,
            output_s=run.now_s() - first_s,
            num_prompt=usage.prompt_tokens,
            num_output=usage.completion_tokens,
            stop_reason=2 if last is not None and isinstance(last.stop_reason, str) else reason,
            seed=run.prompts[0].prepared.requests[0].seed,
            num_done=self.last.num_done + 1,
        )


def _text(piece: Piece) -> str:
    return "".join(found.text for found in piece.events if isinstance(found, Content))


def _body(call: Call) -> dict[str, Any]:
    """A body that may be absent."""
    return call.json() if call.body else {}

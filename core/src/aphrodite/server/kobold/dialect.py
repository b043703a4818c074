"""Kobold's dialect: its routes, and errors in its words."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aphrodite.engine.host import Model
from aphrodite.server.dialect import Call, Json, Reply, Route, event
from aphrodite.server.errors import ApiError, invalid
from aphrodite.server.idle import others
from aphrodite.server.kobold import schemas
from aphrodite.server.kobold.generate import Generations
from aphrodite.server.openai import fields
from aphrodite.text.tokenizer import Tokenizer

_UNITED_VERSION = "1.2.5"  # of KoboldAI United's API, which /api/v1 is
_CPP_VERSION = "1.95"  # of KoboldCpp's, which /api/extra is; clients go by the name too
_BUSY = (408, 413, 415, 429, 500, 503, 504)
_NAMED = (404, 408, 413, 415)
_MAX_LENGTH = 512  # most tokens of one answer that a client is advised to ask for


class Kobold:
    """`/api/v1`, `/api/latest` and `/api/extra`."""

    name = "kobold"

    def __init__(self) -> None:
        self._generations = Generations()
        self._began_s = time.monotonic()

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        found: list[Route] = []
        for at in ("/api/v1", "/api/latest"):
            found += [
                Route("GET", f"{at}/info/version", _united_version, "The API's version", schemas.RESULT),
                Route("GET", f"{at}/model", _model, "The model's name", schemas.RESULT),
                Route("GET", f"{at}/config/max_context_length", _context, "Longest context", schemas.VALUE),
                Route("GET", f"{at}/config/max_length", _longest, "Longest answer", schemas.VALUE),
                Route("GET", f"{at}/config/soft_prompt", _no_soft_prompt, "There is none", schemas.VALUE),
                Route("GET", f"{at}/config/soft_prompts_list", _no_soft_prompts, "There are none", schemas.VALUES),
                Route(
                    "POST",
                    f"{at}/generate",
                    self._generations.whole,
                    "Continue a prompt",
                    schemas.RESULTS,
                    body=schemas.request(),
                    generates=True,
                    statuses=_BUSY,
                ),
            ]
        return [*found, *self._extra()]

    def _extra(self) -> list[Route]:
        key = schemas.KEY
        one = self._generations
        return [
            Route(
                "POST",
                "/api/extra/generate/stream",
                one.stream,
                "Continue a prompt, in parts",
                schemas.TOKEN,
                body=schemas.request(),
                frames="text/event-stream",
                generates=True,
                statuses=_BUSY,
            ),
            Route("POST", "/api/extra/generate/check", one.check, "An answer so far", schemas.RESULTS, key,
                  statuses=_NAMED),
            Route("GET", "/api/extra/generate/check", one.check, "An answer so far", schemas.RESULTS),
            Route("POST", "/api/extra/abort", one.abort, "End an answer", schemas.SUCCESS, key, statuses=_NAMED),
            Route("POST", "/api/extra/tokencount", _tokens, "Count tokens", schemas.COUNT, schemas.PROMPT,
                  statuses=_BUSY),
            Route("POST", "/api/extra/detokenize", _text, "Text of tokens", schemas.DETOKENIZED, schemas.IDS,
                  statuses=_BUSY),
            Route("GET", "/api/extra/true_max_context_length", _context, "Longest context", schemas.VALUE),
            Route("GET", "/api/extra/version", _cpp_version, "What there is here", schemas.VERSION),
            Route("GET", "/api/extra/preloadstory", _no_story, "There is none", schemas.STORY),
            Route("GET", "/api/extra/perf", self._perf, "How the last answer went", schemas.PERF),
        ]  # fmt: skip

    def error(self, error: ApiError, request_id: str) -> Json:
        """`{"detail": {...}}`."""
        return Json(_body(error), error.status)

    def broken(self, error: ApiError, request_id: str) -> bytes:
        """The error as an event that clients do not take for text."""
        return event(_body(error), "error")

    async def _perf(self, call: Call) -> Reply:
        last = self._generations.last
        num_open = self._generations.num_open
        return Json(
            {
                "last_process": round(last.prompt_s, 3),
                "last_eval": round(last.output_s, 3),
                "last_process_speed": _rate(last.num_prompt, last.prompt_s),
                "last_eval_speed": _rate(last.num_output, last.output_s),
                "last_token_count": last.num_output,
                "last_input_count": last.num_prompt,
                "last_seed": last.seed,
                "total_gens": last.num_done,
                "stop_reason": last.stop_reason,
                "queue": num_open,
                "idle": int(num_open == 0),
                "uptime": round(time.monotonic() - self._began_s, 1),
            }
        )


def _body(error: ApiError) -> dict[str, Any]:
    return {"detail": {"type": error.code, "msg": error.message, "param": error.param}}


def _fixed(data: dict[str, Any]) -> Callable[[Call], Awaitable[Reply]]:
    async def answer(call: Call) -> Reply:
        return Json(data)

    return answer


_united_version = _fixed({"result": _UNITED_VERSION})
_no_soft_prompt = _fixed({"value": ""})
_no_soft_prompts = _fixed({"values": []})
_no_story = _fixed({})


async def _cpp_version(call: Call) -> Reply:
    found: dict[str, Any] = {"result": "KoboldCpp", "version": _CPP_VERSION, "llm": True, "admin": 0}
    absent = (
        "protected",
        "txt2img",
        "vision",
        "audio",
        "transcribe",
        "multiplayer",
        "websearch",
        "tts",
        "embeddings",
        "savedata",
    )
    return Json({**found, **dict.fromkeys(absent, False)})


async def _model(call: Call) -> Reply:
    return Json({"result": f"aphrodite/{call.service.settings.model_names[0]}"})


async def _context(call: Call) -> Reply:
    return Json({"value": call.service.model.frontend.card.max_model_len})


async def _longest(call: Call) -> Reply:
    return Json({"value": min(_MAX_LENGTH, call.service.model.frontend.card.max_model_len - 1)})


async def _tokens(call: Call) -> Reply:
    body = call.json()
    call.ignore(others(body, ("prompt", "special")))
    prompt = fields.text(body, "prompt")
    if prompt is None:
        raise invalid("prompt", "prompt must be there: a text")
    tokenizer = _tokenizer(call.service.model)
    ids = await call.service.offload(
        tokenizer.encode if fields.flag(body, "special", True) else tokenizer.encode_bare, prompt
    )
    return Json({"value": len(ids), "ids": ids})


async def _text(call: Call) -> Reply:
    model, body = call.service.model, call.json()
    call.ignore(others(body, ("ids",)))
    ids = fields.token_ids(body, "ids", model.frontend.card.vocab_size)
    return Json({"result": await call.service.offload(_tokenizer(model).decode, ids), "success": True})


def _tokenizer(model: Model) -> Tokenizer:
    tokenizer = model.frontend.tokenizer
    if tokenizer is None:
        raise invalid("prompt", "this model has no tokenizer: there are only token ids")
    return tokenizer


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds > 0 else 0.0

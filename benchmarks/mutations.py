"""Requests that are nearly right: what clients send, with some of its bytes changed, and what becomes of them."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from served import posted

_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_CHAT = {"messages": [{"role": "user", "content": "Grüße 1 + 1"}], "max_tokens": 3}
BODIES: Mapping[str, Any] = {
    "/v1/completions": {
        "model": "demo-draft", "prompt": ["a", "b"], "max_tokens": 3, "n": 2, "temperature": 0.5, "seed": 1,
        "stop": ["x", "\n"], "logprobs": 1, "echo": True, "logit_bias": {"5": -1.5}, "top_k": 4, "user": None,
    },
    "/v1/chat/completions": {
        **_CHAT, "tools": [_TOOL], "tool_choice": "auto", "stream": True, "stream_options": {"include_usage": True},
    },
    "/v1/responses": {"input": [{"role": "user", "content": "1 + 1"}], "max_output_tokens": 3, "stream": False},
    "/v1/messages": {**_CHAT, "system": [{"type": "text", "text": "be brief"}], "stop_sequences": ["x"]},
    "/v1/messages/count_tokens": _CHAT,
    "/tokenize": {"prompt": "1 + 1", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [5, 6, 700]},
    "/api/v1/generate": {"prompt": "1 + 1", "max_length": 3, "rep_pen": 1.1, "genkey": "k", "stop_sequence": ["x"]},
    "/api/extra/tokencount": {"prompt": "1 + 1"},
    "/api/chat": {**_CHAT, "options": {"num_predict": 3, "seed": 1}, "keep_alive": "5m"},
    "/api/generate": {"prompt": "1 + 1", "options": {"num_predict": 3}, "raw": True, "stream": False},
}  # fmt: skip
_WORDS = (
    b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 40, b"18446744073709551616", b"true", b"null", b"[]", b"{}",
    b'"', b"\\", b"\\ud800", b"\\u0000", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"\r\n\r\n", b":", b",",
    b"[" * 80, b"%2e%2e/", b"//", b"chunked", b"GET ", b"HTTP/9.9", b"\xef\xbb\xbf",
)  # fmt: skip
_WAIT_S = 5.0
_AT_A_TIME = 32


def mutated(request: bytes, rng: random.Random) -> bytes:
    """One to four places changed: a bit, a byte, a slice left out, doubled or moved, a word put in."""
    data = bytearray(request)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 4, 16, 64)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end]
        elif kind == 4:
            part = data[at:end]
            del data[at:end]
            to = rng.randrange(len(data) + 1)
            data[to:to] = part
        else:
            data[at:at] = rng.choice(_WORDS)
    return bytes(data)


def made(rng: random.Random) -> bytes:
    """A request of which only the body is wrong, so that it is read to its end, or any part."""
    path = rng.choice(list(BODIES))
    body = json.dumps(BODIES[path], ensure_ascii=False).encode()
    if rng.random() < 0.75:
        return posted(mutated(body, rng), path.encode())
    return mutated(posted(body, path.encode()), rng)


async def send(port: int, request: bytes) -> str:
    """What becomes of it: a status, "closed" without one, "waits" for what was announced and does not come, or "cut" in
    the middle of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b""
    try:
        writer.write(request)
        async with asyncio.timeout(_WAIT_S):
            while part := await reader.read(1 << 16):
                data += part
    except TimeoutError:
        if not data:
            return "waits"
    except OSError:
        return "closed" if not data else "cut"
    finally:
        writer.close()
    return data.split(b" ", 2)[1].decode() if data.startswith(b"HTTP/1.1 ") else "closed"


async def mutate(port: int, count: int, rng: random.Random) -> Counter[str]:
    """Send so many, some at a time; how often each thing became of them."""
    seen: Counter[str] = Counter()
    requests = (made(rng) for _ in range(count))

    async def some() -> None:
        for request in requests:
            seen[await send(port, request)] += 1

    await asyncio.gather(*(some() for _ in range(_AT_A_TIME)))
    return seen

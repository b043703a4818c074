"""Two keys at one server: neither may find what the other has cached, in the answers or in how long they take."""

from __future__ import annotations

import json
import random
import time
from typing import Any

from served import Server, ask, posted

_KEYS = ("first", "second")
_WORDS = ("engine", "block", "token", "step", "sequence", "cache", "prompt", "answer")
_NUM_WORDS = 150  # so that what is cached would be seen in the time


async def tenants(flags: tuple[str, ...], count: int, rng: random.Random) -> dict[str, float]:
    """One key has prompts computed; the other asks for these and for fresh ones, by turns of chance.

    Returns cached tokens that were told to it, and how well the time tells the two kinds apart: the share of pairs in
    which the fresh prompt took longer (0.5: not at all). `own_auc` is the same where a key asks for its own: a check
    that time would tell.
    """
    server = Server(*flags, "--api-keys", ",".join(_KEYS))
    try:
        await server.ready(canary=False)
        shared, taken = 0, {"known": [], "fresh": []}
        for _ in range(count):
            kind = rng.choice(("known", "fresh"))
            prompt = _prompt(rng)
            await _ask(server, _KEYS[0], prompt if kind == "known" else _prompt(rng))
            cached, took_s = await _ask(server, _KEYS[1], prompt)
            shared += cached
            taken[kind].append(took_s)
        own = {"known": [], "fresh": []}
        for _ in range(count // 10):
            prompt = _prompt(rng)
            own["fresh"].append((await _ask(server, _KEYS[0], prompt))[1])
            own["known"].append((await _ask(server, _KEYS[0], prompt))[1])
    finally:
        server.end()
    return {"requests": count, "shared_tokens": shared, "auc": _auc(**taken), "own_auc": _auc(**own)}


def _prompt(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=_NUM_WORDS))


async def _ask(server: Server, key: str, prompt: str) -> tuple[int, float]:
    """Cached tokens of a prompt, and seconds."""
    body = json.dumps({"prompt": prompt, "max_tokens": 1, "temperature": 0}).encode()
    began = time.perf_counter()
    status, answer = await ask(server.port, posted(body, key=key))
    took_s = time.perf_counter() - began
    if status != 200:
        raise RuntimeError(f"{status} for a plain request")
    usage: dict[str, Any] = json.loads(answer)["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"], took_s


def _auc(known: list[float], fresh: list[float]) -> float:
    """The share of pairs in which the fresh one took longer."""
    ranked = sorted([(one, 0) for one in known] + [(one, 1) for one in fresh])
    ranks = sum(place + 1 for place, (_, is_fresh) in enumerate(ranked) if is_fresh)
    return (ranks - len(fresh) * (len(fresh) + 1) / 2) / (len(known) * len(fresh))

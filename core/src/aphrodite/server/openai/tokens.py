"""POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Any

from aphrodite.engine.host import Model
from aphrodite.server.dialect import Call, Json, Reply
from aphrodite.server.errors import invalid
from aphrodite.server.generation import Generation
from aphrodite.server.openai import chat, fields
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.sampling_params import SamplingParams


async def tokenize(call: Call) -> Reply:
    """The tokens of a text or of a chat."""
    body = call.json()
    call.service.check_model(body.get("model"))
    model = call.service.model
    tokenizer = _tokenizer(model)
    if "messages" in body:
        generation = Generation(sampling=SamplingParams(), chat=chat.conversation(body, call))
        prepared = await call.service.offload(call.service.prepare, model, generation)
        ids = list(prepared[0].requests[0].prompt_token_ids)
    else:
        text = fields.text(body, "prompt")
        if text is None:
            raise invalid("prompt", "prompt must be there: a text; or messages")
        encode = tokenizer.encode if fields.flag(body, "add_special_tokens", True) else tokenizer.encode_bare
        ids = await call.service.offload(encode, text)
    strings = [tokenizer.token(one) for one in ids] if fields.flag(body, "return_token_strs") else None
    return Json(
        {
            "count": len(ids),
            "max_model_len": model.frontend.card.max_model_len,
            "tokens": ids,
            "token_strs": strings,
        }
    )


async def detokenize(call: Call) -> Reply:
    """The text of tokens."""
    body = call.json()
    call.service.check_model(body.get("model"))
    model = call.service.model
    tokenizer = _tokenizer(model)
    ids: Any = body.get("tokens")
    size = model.frontend.card.vocab_size
    if not isinstance(ids, list) or not all(type(one) is int and 0 <= one < size for one in ids):
        raise invalid("tokens", f"tokens must be a list of token ids in 0..{size - 1}")
    return Json({"prompt": await call.service.offload(lambda: tokenizer.decode(ids, skip_special_tokens=False))})


def _tokenizer(model: Model) -> Tokenizer:
    tokenizer = model.frontend.tokenizer
    if tokenizer is None:
        raise invalid("prompt", "this model has no tokenizer: there are only token ids")
    return tokenizer

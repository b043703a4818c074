"""POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from aphrodite.engine.host import Model
from aphrodite.server.dialect import Call, Json, Reply
from aphrodite.server.errors import invalid
from aphrodite.server.idle import idle, others
from aphrodite.server.openai import chat, fields
from aphrodite.text.tokenizer import Tokenizer

_COMMON = ("model", "return_token_strs")


async def tokenize(call: Call) -> Reply:
    """The tokens of a text or of a chat."""
    body = call.json()
    call.service.check_model(body.get("model"))
    model = call.service.model
    tokenizer = _tokenizer(model)
    spelled = fields.flag(body, "return_token_strs")
    if body.get("messages") is not None:
        call.ignore(others(body, (*_COMMON, *chat.CONVERSATION, *chat.IDLE)) + idle(body, chat.IDLE))
        ids = await call.service.offload(call.service.encode, model, chat.conversation(body, call))
    else:
        call.ignore(others(body, (*_COMMON, "prompt", "add_special_tokens")))
        text = fields.text(body, "prompt")
        if text is None:
            raise invalid("prompt", "prompt must be there: a text; or messages")
        encode = tokenizer.encode if fields.flag(body, "add_special_tokens", True) else tokenizer.encode_bare
        ids = await call.service.offload(encode, text)
    strings = [tokenizer.token(one) for one in ids] if spelled else None
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
    call.ignore(others(body, ("model", "tokens")))
    ids = fields.token_ids(body, "tokens", model.frontend.card.vocab_size)
    return Json({"prompt": await call.service.offload(lambda: tokenizer.decode(ids, skip_special_tokens=False))})


def _tokenizer(model: Model) -> Tokenizer:
    tokenizer = model.frontend.tokenizer
    if tokenizer is None:
        raise invalid("prompt", "this model has no tokenizer: there are only token ids")
    return tokenizer

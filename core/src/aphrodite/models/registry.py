"""Which family page reads which architecture."""

from __future__ import annotations

from collections.abc import Callable

from aphrodite.errors import ModelError
from aphrodite.models import (
    cohere,
    cohere2,
    gemma2,
    gemma3,
    llama,
    mistral,
    mixtral,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    starcoder2,
)
from aphrodite.models.config import HFConfig
from aphrodite.models.spec import DecoderSpec
from aphrodite.models.unread import Seen, refuse_unread

_PAGES = (cohere, cohere2, gemma2, gemma3, llama, mistral, mixtral, phi3, qwen2, qwen3, qwen3_moe, starcoder2)
FAMILIES: dict[str, Callable[[HFConfig], DecoderSpec]] = {
    name: page.spec for page in _PAGES for name in page.ARCHITECTURES
}


def page_of(config: HFConfig) -> str | None:
    """The architecture of a config that has a page; None if none has. ModelError if it names no architecture."""
    listed = config.data.get("architectures")
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise ModelError(
            f"{config.where}: the field 'architectures' must be a list of names, got {listed!r}",
            subject="architectures",
        )
    return next((name for name in listed if name in FAMILIES), None)


def decoder_spec(config: HFConfig) -> DecoderSpec:
    """The network of a config that has a page. ModelError names a field that its page must know, and does not."""
    name = page_of(config)
    assert name is not None, "no page reads this config"
    seen = Seen(config.data)
    spec = FAMILIES[name](HFConfig(seen, config.where))
    refuse_unread(config, seen.names)
    return spec

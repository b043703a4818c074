"""Which family page reads which architecture."""

from __future__ import annotations

from collections.abc import Callable

from aphrodite.errors import ModelError
from aphrodite.models import gemma2, gemma3, llama, mistral
from aphrodite.models.config import HFConfig
from aphrodite.models.spec import DecoderSpec

_PAGES = (gemma2, gemma3, llama, mistral)
FAMILIES: dict[str, Callable[[HFConfig], DecoderSpec]] = {
    name: page.spec for page in _PAGES for name in page.ARCHITECTURES
}


def decoder_spec(config: HFConfig) -> DecoderSpec:
    """The network of a config. ModelError names an architecture that no page reads."""
    listed = config.data.get("architectures")
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise ModelError(
            f"{config.where}: the field 'architectures' must be a list of names, got {listed!r}",
            subject="architectures",
        )
    for name in listed:
        if name in FAMILIES:
            return FAMILIES[name](config)
    raise ModelError(
        f"{config.where}: architecture {', '.join(listed)} is not supported; supported: {', '.join(sorted(FAMILIES))}",
        subject=listed[0],
    )

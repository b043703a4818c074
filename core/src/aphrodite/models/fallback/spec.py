"""A network of modules in numbers, as DecoderSpec is one that has a page."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.layers.rope import Longest
from aphrodite.models.config import HFConfig
from aphrodite.models.fallback.find import Found, find, longest
from aphrodite.models.fallback.probe import Probed, probe
from aphrodite.models.fallback.quiet import quiet


@dataclass(frozen=True)
class ModuleSpec:
    """What is known of such a network before memory is taken."""

    found: Found
    probed: Probed
    longest: Longest

    @classmethod
    def read(cls, config: HFConfig, architecture: str, pages: str) -> ModuleSpec:
        """The network of a config that has no page. ModelError names what is missing."""
        found = find(config, architecture, pages)
        with quiet():
            return cls(found, probe(found), longest(found))

    @property
    def vocab_size(self) -> int:
        return self.probed.vocab_size

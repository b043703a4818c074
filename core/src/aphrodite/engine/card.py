"""The card of a model: what front ends know of it."""

from __future__ import annotations

from aphrodite.blueprint import Blueprint
from aphrodite.types.model_card import ModelCard


def card_of(blueprint: Blueprint) -> ModelCard:
    """What front ends must know of a model that is drawn up."""
    return ModelCard(
        name=blueprint.config.model.model,
        folder=str(blueprint.folder),
        vocab_size=blueprint.spec.vocab_size,
        max_model_len=blueprint.sizes.max_model_len,
        end_ids=blueprint.generation.end_ids,
        defaults=blueprint.generation.defaults,
        seed=blueprint.config.model.seed,
    )

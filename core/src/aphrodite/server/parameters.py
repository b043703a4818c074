"""Sampling parameters as clients send them: the one table, other names for its entries, and loose forms.

Nothing vanishes: what has no effect here is listed, in the answer's head and body, unless its value would have none
anywhere. Under --strict-params it is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aphrodite.errors import UsageError
from aphrodite.server.errors import ApiError, invalid
from aphrodite.types.sampling_params import Items, Rule, SamplingParams, parameters

_RULES: Mapping[str, Rule] = {item.name: item.metadata["rule"] for item in parameters()}

# Other names that clients have for entries of the table. One that is in the table already goes before its others.
ALIASES: Mapping[str, str] = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "n_predict": "max_tokens",
    "min_length": "min_tokens",
    "min_new_tokens": "min_tokens",
    "stopping_strings": "stop",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "rep_pen": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "freq_pen": "frequency_penalty",
    "presence_pen": "presence_penalty",
    "sampler_seed": "seed",
    "random_seed": "seed",
    "ban_eos_token": "ignore_eos",
    "custom_token_bans": "bad_token_ids",
}

# Samplers and switches that other engines have and this one does not yet, with the values at which they do nothing.
_OFF: Mapping[str, tuple[Any, ...]] = {
    "temperature_last": (False,),
    "dynatemp_min": (0,),
    "dynatemp_max": (0,),
    "dynatemp_low": (0, 1),
    "dynatemp_high": (0, 1),
    "dynatemp_range": (0,),
    "dynatemp_exponent": (1, 0),
    "dynamic_temperature": (False,),
    "top_a": (0,),
    "tfs": (1,),
    "tfs_z": (1,),
    "typical": (1,),
    "typical_p": (1,),
    "eta_cutoff": (0,),
    "epsilon_cutoff": (0,),
    "nsigma": (0, -1),
    "top_n_sigma": (0, -1),
    "skew": (0,),
    "smoothing_factor": (0,),
    "smoothing_curve": (1, 0),
    "xtc_threshold": (0, 0.1),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "dry_base": (1.75, 1, 0),
    "dry_allowed_length": (2, 0),
    "dry_penalty_last_n": (0, -1),
    "dry_range": (0,),
    "dry_sequence_breakers": ((), "[]", ""),
    "dry_sequence_breaker_ids": ((),),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "mirostat_tau": (0, 5),
    "mirostat_eta": (0, 0.1),
    "rep_pen_range": (0, -1),
    "rep_pen_slope": (0, 1),
    "repeat_last_n": (0, -1),
    "repetition_penalty_range": (0, -1),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "penalty_alpha": (0,),
    "guidance_scale": (1, 0),
    "negative_prompt": ("",),
    "num_beams": (1, 0),
    "beam_width": (1, 0),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "best_of": (1, 0),
    "do_sample": (True,),
    "add_bos_token": (True,),
    "banned_tokens": ((), "", "[]"),
    "banned_strings": ((), "", "[]"),
    "bad_token_ids": ((), "", "[]"),
    "sampler_priority": ((),),
    "sampler_order": ((),),
    "samplers": ((),),
    "samplers_priorities": ((),),
    "grammar": ("",),
    "grammar_string": ("",),
    "guided_json": ("",),
    "guided_grammar": ("",),
    "guided_regex": ("",),
    "guided_choice": ((),),
    "json_schema": ({}, ""),
    "structured_outputs": ({},),
    "speculative_ngram": (False,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (-1, 0),
    "logit_bias_exp": ((),),
    "adaptive_target": (-1, 0),
    "adaptive_decay": (0.9,),
    "typical_mass": (1,),
    "include_reasoning": (True,),
    "detokenize": (True,),
}


@dataclass(frozen=True)
class Read:
    """What a body holds of parameters: those that count, and the names of those that do not."""

    sampling: SamplingParams
    ignored: tuple[str, ...]


def read(
    body: Mapping[str, Any],
    *,
    own: Collection[str],
    aliases: Mapping[str, str] = ALIASES,
    defaults: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Read:
    """The sampling parameters of a request's body.

    own       fields that the dialect reads itself
    aliases   other names; those of a dialect go before the common ones if it passes {**ALIASES, ...}
    defaults  in place of parameters that are not there
    fixed     whatever the body says
    strict    refuse what would be ignored
    ApiError names the field as the client spelled it, with its value and what is legal. null is as good as absent.
    """
    found: dict[str, Any] = dict(defaults or {})
    spelled: dict[str, str] = {}
    ignored: list[str] = []
    for name, value in body.items():
        if name in own or value is None:
            continue
        target = name if name in _RULES else aliases.get(name, name)
        if target in _RULES:
            if target not in spelled or target == name:
                spelled[target] = name
                found[target] = _loose(name, value, _RULES[target])
        elif not _is_off(target, value):
            ignored.append(name[:64] if name.isprintable() else repr(name)[:64])
    if strict and ignored:
        raise invalid(
            ignored[0],
            f"{ignored[0]} has no effect here, and --strict-params refuses such parameters: leave it out",
            "unsupported_parameter",
        )
    found.update(fixed or {})
    try:
        return Read(SamplingParams(**found), tuple(ignored))
    except UsageError as error:
        raise _renamed(error, spelled) from None


def _renamed(error: UsageError, spelled: Mapping[str, str]) -> ApiError:
    """The refusal with the name that the client used."""
    subject = str(error.subject)
    name = spelled.get(subject, subject)
    return invalid(name, str(error).replace(subject, name, 1)[:500])


def _loose(name: str, value: Any, rule: Rule) -> Any:
    """A value in the forms that clients send: 1.0 for an integer, ids as texts in a bias, "," for a list of none."""
    if rule.kind is int and type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if rule.items is Items.BIASES and isinstance(value, Mapping):
        return {_token(name, token): bias for token, bias in value.items()}
    if rule.items is Items.TEXTS and isinstance(value, list):
        return tuple(value)
    return value


def _token(name: str, token: Any) -> Any:
    """A token id, which JSON can only spell as a text where it is a key."""
    if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 16:
        return int(token)
    raise invalid(name, f"{name} must map token ids to numbers, got the key {token[:32]!r}")


def _is_off(name: str, value: Any) -> bool:
    """Whether this value of a sampler that we do not have changes nothing."""
    if name not in _OFF:
        return False
    value = tuple(value) if isinstance(value, list) else value
    return any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in _OFF[name])

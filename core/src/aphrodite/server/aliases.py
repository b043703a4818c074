"""What clients call sampling parameters, and when a parameter that is not here would do nothing anyway.

One table for all dialects: their names mean the same wherever two of them have one. What a name means in one dialect
alone stands with that dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aphrodite.types.sampling_params import MAX_N, Rule

# Name of a client -> ours. Where a body has several of one, that of the table itself goes before the others.
ALIASES: Mapping[str, str] = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_length": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "min_length": "min_tokens",
    "min_new_tokens": "min_tokens",
    "stopping_strings": "stop",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "temp": "temperature",
    "rep_pen": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "freq_pen": "frequency_penalty",
    "presence_pen": "presence_penalty",
    "sampler_seed": "seed",
    "random_seed": "seed",
    "sampling_seed": "seed",
    "ban_eos_token": "ignore_eos",
    "bypass_eos": "ignore_eos",
    "include_stop": "include_stop_str_in_output",
    # What is not here yet, under the name that it will have.
    "typical": "typical_p",
    "tfs_z": "tfs",
    "top_n_sigma": "nsigma",
    "mirostat": "mirostat_mode",
    "rep_pen_range": "repetition_penalty_range",
    "repeat_last_n": "repetition_penalty_range",
    "penalty_range": "repetition_penalty_range",
    "rep_pen_slope": "repetition_penalty_slope",
    "encoder_rep_pen": "encoder_repetition_penalty",
    "dynatemp_low": "dynatemp_min",
    "dynatemp_high": "dynatemp_max",
    "dry_penalty_last_n": "dry_range",
    "banned_tokens": "custom_token_bans",
    "grammar_string": "guided_grammar",
    "grammar": "guided_grammar",
    "json_schema": "guided_json",
    "samplers": "sampler_priority",
    "samplers_priorities": "sampler_priority",
}

Off = Callable[[Any], bool]


def _one_of(*values: Any) -> Off:
    return lambda value: any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in values)


def _empty(value: Any) -> bool:
    return value in ("", [], {}, "[]", "{}")


def _anything(value: Any) -> bool:
    return True


# Parameters of other engines that are not here, and the values at which they do nothing.
OFF: Mapping[str, Off] = {
    "temperature_last": _one_of(False),
    "dynatemp_min": _one_of(0),
    "dynatemp_max": _one_of(0),
    "dynatemp_range": _one_of(0),
    "dynatemp_mode": _one_of(0),
    "dynamic_temperature": _one_of(False),
    "top_a": _one_of(0),
    "tfs": _one_of(1, 0),
    "typical_p": _one_of(1, 0),
    "eta_cutoff": _one_of(0),
    "epsilon_cutoff": _one_of(0),
    "nsigma": _one_of(0, -1),
    "skew": _one_of(0),
    "smoothing_factor": _one_of(0),
    "xtc_probability": _one_of(0),
    "dry_multiplier": _one_of(0),
    "mirostat_mode": _one_of(0),
    "adaptive_target": lambda value: isinstance(value, (int, float)) and value < 0,
    "repetition_penalty_range": _one_of(-1, 0),
    "repetition_penalty_slope": _one_of(0, 1),
    "repetition_decay": _one_of(0),
    "encoder_repetition_penalty": _one_of(1),
    "no_repeat_ngram_size": _one_of(0),
    "penalty_alpha": _one_of(0),
    "penalize_newline": _one_of(True),
    "guidance_scale": _one_of(1, 0),
    "negative_prompt": _empty,
    "num_beams": _one_of(1, 0),
    "beam_width": _one_of(1, 0),
    "use_beam_search": _one_of(False),
    "length_penalty": _one_of(1),
    "early_stopping": _one_of(False),
    "best_of": _one_of(1, 0),
    "do_sample": _one_of(True),
    "add_bos_token": _one_of(True),
    "custom_token_bans": _empty,
    "banned_strings": _empty,
    "sampler_priority": _empty,
    "sampler_order": _empty,
    "guided_json": _empty,
    "guided_grammar": _empty,
    "guided_regex": _empty,
    "guided_choice": _empty,
    "structured_outputs": _empty,
    "speculative_ngram": _one_of(False),
    "spaces_between_special_tokens": _one_of(True),
    "truncate_prompt_tokens": _one_of(-1, 0),
    "logit_bias_exp": _empty,
    "include_reasoning": _one_of(True),
    "detokenize": _one_of(True),
    "min_keep": _one_of(0, 1),
    "max_tokens_second": _one_of(0),
    "prompt_lookup_num_tokens": _one_of(0),
    "cache_prompt": _one_of(True),
    "n_probs": _one_of(0),
    "stream_interval": _one_of(1, 0),
    "thinking_token_budget": _one_of(-1),
    # Kobold's switches for what is put around a prompt, and for its own window.
    "use_story": _one_of(False),
    "use_memory": _one_of(False),
    "use_authors_note": _one_of(False),
    "use_world_info": _one_of(False),
    "use_userscripts": _one_of(False),
    "use_default_badwordsids": _one_of(False),
    "gui_settings": _one_of(False),
    "grammar_retain_state": _one_of(False),
    "quiet": _anything,  # whether the server's terminal shows the text: it never does
}

# Of parameters that are not here those that ask for work: what they may be all the same.
BOUNDS: Mapping[str, Rule] = {"best_of": Rule(int, f"in 0..{MAX_N}", lambda value: 0 <= value <= MAX_N)}

# A parameter that does nothing while another is off: parameter -> those others, all of them off.
DETAILS: Mapping[str, tuple[str, ...]] = {
    "dynatemp_exponent": ("dynatemp_range", "dynatemp_min", "dynatemp_max"),
    "smoothing_curve": ("smoothing_factor",),
    "xtc_threshold": ("xtc_probability",),
    "dry_base": ("dry_multiplier",),
    "dry_allowed_length": ("dry_multiplier",),
    "dry_range": ("dry_multiplier",),
    "dry_max_ngram": ("dry_multiplier",),
    "dry_max_occurrences": ("dry_multiplier",),
    "dry_early_exit_match_len": ("dry_multiplier",),
    "dry_sequence_breakers": ("dry_multiplier",),
    "dry_sequence_breaker_ids": ("dry_multiplier",),
    "mirostat_tau": ("mirostat_mode",),
    "mirostat_eta": ("mirostat_mode",),
    "adaptive_decay": ("adaptive_target",),
    "repetition_penalty_range": ("repetition_penalty",),
    "repetition_penalty_slope": ("repetition_penalty",),
    "repetition_decay": ("repetition_penalty",),
}

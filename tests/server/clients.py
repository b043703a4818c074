"""Bodies as clients send them: which fields, in which forms, with the values that a user has who changes little.

Each names the repository, path and commit in which its fields were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.server.says import WEATHER

_TEXTGEN = "SillyTavern/SillyTavern public/scripts/textgen-settings.js 91f31e746ee2f0c1e31f852facff64e00205729c"
_KOBOLD = "SillyTavern/SillyTavern src/endpoints/backends/kobold.js 0901c6c0468494a98ecac2dad84bb93be94ed274"
_TEXT_COMPLETIONS = (
    "SillyTavern/SillyTavern src/endpoints/backends/text-completions.js 06253f4a980455207bec40a678f0d45d4ddd1d55"
)
_OPEN_WEBUI = "open-webui/open-webui backend/open_webui/utils/payload.py 05746a9960269ccc4faf7dc29cc189f43cb2c539"
_CUSTOM = "SillyTavern/SillyTavern src/endpoints/backends/chat-completions.js 000b092f2bf0ae3808e41d0274b0da5a6d4d098c"
_OPEN_WEBUI_TOOLS = (
    "open-webui/open-webui backend/open_webui/utils/middleware.py 000032ed1cfec98667bbf62795b0f8e0c76025b5"
)
_LIBRECHAT_IMAGES = (
    "danny-avila/LibreChat api/server/services/Files/images/encode.js 00b3bc32f0f5dd65befa49a0773dae7d26d8e587"
)
_LIBRECHAT = "danny-avila/LibreChat packages/api/src/endpoints/openai/llm.ts 00b3bc32f0f5dd65befa49a0773dae7d26d8e587"


@dataclass(frozen=True)
class Body:
    """A body. means: parameters that it sets; ignored: fields that have no effect here and are not neutral."""

    source: str
    body: Mapping[str, Any]
    means: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()


# SillyTavern forwards its whole settings object, its own housekeeping included.
SILLY_TAVERN: Mapping[str, Any] = {
    "prompt": "### Instruction:\nthe engine\n### Response:\n",
    "model": "tiny",
    "max_new_tokens": 7,
    "max_tokens": 7,
    "logprobs": 0,
    "temperature": 0.7,
    "top_p": 0.95,
    "typical_p": 1,
    "typical": 1,
    "sampler_seed": -1,
    "min_p": 0.02,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_k": 0,
    "skew": 0,
    "min_length": 0,
    "minimum_message_content_tokens": 0,
    "min_tokens": 0,
    "add_bos_token": True,
    "smoothing_factor": 0,
    "smoothing_curve": 1,
    "dry_allowed_length": 2,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_sequence_breakers": '["\\n", ":", "\\"", "*"]',
    "dry_penalty_last_n": 0,
    "max_tokens_second": 0,
    "stopping_strings": ["\nUser:"],
    "stop": ["\nUser:"],
    "truncation_length": 8192,
    "ban_eos_token": False,
    "skip_special_tokens": True,
    "include_reasoning": True,
    "top_a": 0,
    "tfs": 1,
    "mirostat_mode": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "custom_token_bans": [],
    "banned_strings": [],
    "api_type": "aphrodite",
    "api_server": "http://127.0.0.1:2242/",
    "legacy_api": False,
    "xtc_threshold": 0.1,
    "xtc_probability": 0,
    "nsigma": 0,
    "top_n_sigma": 0,
    "min_keep": 0,
    "adaptive_target": -1,
    "adaptive_decay": 0.9,
    "n": 1,
    "temperature_last": False,
    "eta_cutoff": 0,
    "epsilon_cutoff": 0,
    "ignore_eos": False,
    "spaces_between_special_tokens": True,
    "early_stopping": False,
    "include_stop_str_in_output": False,
    "no_repeat_ngram_size": 0,
    "stream": False,
}

COMPLETIONS: Mapping[str, Body] = {
    "SillyTavern, Aphrodite": Body(
        _TEXTGEN,
        SILLY_TAVERN,
        {
            "max_tokens": 7,
            "temperature": 0.7,
            "top_k": 0,
            "repetition_penalty": 1.1,
            "stop": ("\nUser:",),
            "seed": -1,
        },
        frozenset(
            ("minimum_message_content_tokens", "truncation_length", "api_type", "api_server", "legacy_api")
        ),
    ),
    "SillyTavern, samplers in use": Body(
        _TEXTGEN,
        {**SILLY_TAVERN, "top_a": 0.2, "dry_multiplier": 0.8, "temperature_last": True, "top_k": -1, "seed": 42},
        {"top_k": -1, "seed": 42},
        frozenset(
            (
                "minimum_message_content_tokens", "truncation_length", "api_type", "api_server", "legacy_api", "top_a",
                "dry_multiplier", "dry_base", "dry_allowed_length", "dry_sequence_breakers",
                "dry_penalty_last_n", "temperature_last",
            )
        ),
    ),
    "SillyTavern, llama.cpp's names": Body(
        _TEXTGEN,
        {
            "prompt": "a", "rep_pen": 1.2, "rep_pen_range": 0, "repetition_penalty_range": 0, "guidance_scale": 1,
            "negative_prompt": "", "repeat_penalty": 1.2, "tfs_z": 1, "repeat_last_n": 0, "n_predict": 9,
            "num_predict": 9, "num_ctx": 4096, "mirostat": 0, "ignore_eos": False, "rep_pen_slope": 1,
            "logit_bias": [[5, 1.5], [6, False]], "grammar": "", "cache_prompt": True,
        },
        {"repetition_penalty": 1.2, "max_tokens": 9, "logit_bias": ((5, 1.5), (6, -100.0))},
        frozenset(("num_ctx",)),
    ),
}  # fmt: skip

_CALLED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "the"}'}}
_PIXEL = "data:image/png;base64,iVBORw0KGgo="

# What they send to get a stream, with tools that the model may call; then again, with the call and its result.
TOOLS: Mapping[str, Body] = {
    "SillyTavern, custom source": Body(
        _CUSTOM,
        {
            "messages": [
                {"role": "system", "content": "Write the next reply."},
                {"role": "user", "content": "how is it?", "name": "User"},
            ],
            "model": "tiny", "temperature": 1, "max_tokens": 300, "stream": True, "presence_penalty": 0,
            "frequency_penalty": 0, "top_p": 1, "logit_bias": {}, "seed": 7, "logprobs": True, "top_logprobs": 5,
            "stop": ["\nUser:"], "tools": [WEATHER], "tool_choice": "auto",
        },
        {"max_tokens": 300, "seed": 7, "stop": ("\nUser:",), "logprobs": 5},
    ),
    "SillyTavern, custom source, the result": Body(
        _CUSTOM,
        {
            "messages": [
                {"role": "user", "content": "how is it?"},
                {"role": "assistant", "content": "", "tool_calls": [_CALLED]},
                {"role": "tool", "tool_call_id": "call_1", "content": "fine"},
            ],
            "model": "tiny", "temperature": 1, "max_tokens": 300, "stream": True, "tools": [WEATHER],
            "tool_choice": "auto", "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "stop": [],
        },
        {"max_tokens": 300, "stop": ()},
    ),
    "Open WebUI": Body(
        _OPEN_WEBUI_TOOLS,
        {
            "model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.8,
            "messages": [{"role": "system", "content": "help"}, {"role": "user", "content": "how is it?"}],
            "tools": [WEATHER],
        },
        {"temperature": 0.8},
    ),
    "Open WebUI, the result": Body(
        _OPEN_WEBUI_TOOLS,
        {
            "model": "tiny", "stream": True, "tools": [WEATHER],
            "messages": [
                {"role": "user", "content": "how is it?"},
                {"role": "assistant", "content": "", "tool_calls": [{"index": 0, **_CALLED}]},
                {"role": "tool", "tool_call_id": "call_1", "content": ""},
            ],
        },
    ),
    "LibreChat": Body(
        _LIBRECHAT,
        {
            "model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "temperature": 1, "top_p": 1,
            "presence_penalty": 0, "frequency_penalty": 0, "n": 1, "user": "65f0", "tools": [WEATHER],
            "messages": [
                {"role": "system", "content": "help"},
                {"role": "user", "content": [{"type": "text", "text": "how is it?"}]},
            ],
        },
        {"temperature": 1.0, "n": 1},
        frozenset(("user",)),
    ),
    "LibreChat, the result": Body(
        _LIBRECHAT,
        {
            "model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "tools": [WEATHER],
            "messages": [
                {"role": "user", "content": "how is it?"},
                {"role": "assistant", "content": "", "tool_calls": [_CALLED]},
                {"role": "tool", "content": "fine", "name": "weather", "tool_call_id": "call_1"},
            ],
        },
    ),
}  # fmt: skip

# What they send with a picture, which no model here can look at.
PICTURES: Mapping[str, Body] = {
    "SillyTavern": Body(
        _CUSTOM,
        {
            "model": "tiny", "stream": True, "max_tokens": 5,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is it?"},
                        {"type": "image_url", "image_url": {"url": _PIXEL, "detail": "low"}},
                    ],
                }
            ],
        },
    ),
    "Open WebUI": Body(
        _OPEN_WEBUI_TOOLS,
        {
            "model": "tiny", "stream": True,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is it?"},
                        {"type": "image_url", "image_url": {"url": _PIXEL}},
                    ],
                }
            ],
        },
    ),
    "LibreChat": Body(
        _LIBRECHAT_IMAGES,
        {
            "model": "tiny", "stream": True,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is it?"},
                        {"type": "image_url", "image_url": {"url": _PIXEL, "detail": "auto"}},
                    ],
                }
            ],
        },
    ),
}  # fmt: skip

KOBOLD: Mapping[str, Body] = {
    "SillyTavern, KoboldAI Classic": Body(
        _KOBOLD,
        {
            "prompt": "the engine", "use_story": False, "use_memory": False, "use_authors_note": False,
            "use_world_info": False, "max_context_length": 256, "max_length": 6, "rep_pen": 1, "rep_pen_range": 0,
            "rep_pen_slope": 0.9, "temperature": 1, "tfs": 1, "top_a": 0, "top_k": 0, "top_p": 1, "min_p": 0,
            "typical": 1, "sampler_order": [6, 0, 1, 2, 3, 4, 5], "singleline": False,
            "use_default_badwordsids": False, "mirostat": 0, "mirostat_eta": 0.1, "mirostat_tau": 5, "grammar": "",
            "sampler_seed": -1, "stop_sequence": ["\nYou:"],
        },
        {"max_tokens": 6, "temperature": 1.0, "stop": ("\nYou:",)},
        frozenset(("sampler_order",)),
    ),
    "Kobold Lite": Body(
        "LostRuins/lite.koboldai.net index.html 98dde9dd3f396a6639336c81b7c9ce8dd89fc8e8",
        {
            "n": 1, "max_context_length": 256, "max_length": 6, "rep_pen": 1.07, "temperature": 0.75, "top_p": 0.92,
            "top_k": 100, "top_a": 0, "typical": 1, "tfs": 1, "rep_pen_range": 360, "rep_pen_slope": 0.7,
            "sampler_order": [6, 0, 1, 3, 4, 2, 5], "memory": "", "trim_stop": True, "genkey": "KCPP9485", "min_p": 0,
            "dynatemp_range": 0, "dynatemp_exponent": 1, "smoothing_factor": 0, "nsigma": 0, "banned_tokens": [],
            "render_special": False, "logprobs": False, "replace_instruct_placeholders": True, "presence_penalty": 0,
            "logit_bias": {}, "prompt": "the engine", "quiet": True, "stop_sequence": ["{{[INPUT]}}", ""],
            "use_default_badwordsids": False, "bypass_eos": False,
        },
        {"max_tokens": 6, "repetition_penalty": 1.07, "top_k": 100, "stop": ("{{[INPUT]}}",)},
        frozenset(("rep_pen_range", "rep_pen_slope", "sampler_order")),
    ),
}  # fmt: skip

OLLAMA: Mapping[str, Body] = {
    "SillyTavern": Body(
        _TEXT_COMPLETIONS,
        {
            "model": "tiny", "prompt": "the engine", "stream": False, "keep_alive": -1, "raw": True,
            "options": {
                "num_predict": 6, "num_ctx": 256, "stop": ["\nUser:"], "temperature": 0.7, "repeat_penalty": 1.1,
                "presence_penalty": 0, "frequency_penalty": 0, "top_k": 40, "top_p": 0.9, "tfs_z": 1, "typical_p": 1,
                "seed": 3, "repeat_last_n": 0, "min_p": 0,
            },
        },
        {"max_tokens": 6, "top_k": 40, "repetition_penalty": 1.1, "seed": 3, "stop": ("\nUser:",)},
    ),
    "Open WebUI": Body(
        _OPEN_WEBUI,
        {
            "model": "tiny:latest", "messages": [{"role": "user", "content": "the engine"}], "stream": False,
            "options": {"temperature": 0.8, "num_predict": 6, "top_p": 0.9, "seed": 0, "num_thread": 4},
        },
        {"max_tokens": 6, "temperature": 0.8, "top_p": 0.9, "seed": 0},
        frozenset(("num_thread",)),
    ),
}  # fmt: skip

CHATS: Mapping[str, Body] = {
    "Open WebUI": Body(
        _OPEN_WEBUI,
        {
            "model": "tiny", "stream": False, "messages": [{"role": "user", "content": "the engine"}],
            "temperature": 0.8, "top_p": 0.9, "max_tokens": 6, "frequency_penalty": 0.0, "seed": 0, "stop": ["###"],
        },
        {"max_tokens": 6, "stop": ("###",), "seed": 0},
    ),
    "LibreChat": Body(
        _LIBRECHAT,
        {
            "model": "tiny", "stream": False, "temperature": 1, "top_p": 1, "presence_penalty": 0,
            "frequency_penalty": 0, "n": 1, "max_completion_tokens": 6, "parallel_tool_calls": True,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "the engine"}]}],
        },
        {"max_tokens": 6, "temperature": 1.0},
    ),
}  # fmt: skip

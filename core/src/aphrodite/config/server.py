"""ServerConfig: every setting of the server, frozen, declared once. Flags and docs are generated from it."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.config import env
from aphrodite.config.engine import Section, setting

LOG_FORMS = ("auto", "text", "json")
METRICS_COMPAT = ("vllm", "none")


@dataclass(frozen=True)
class ServerConfig(Section):
    """Where the server listens, who may call it, and how much it takes on."""

    host: str = setting(
        "127.0.0.1", "Address to listen on; a public one needs --api-keys, or --insecure.", is_common=True
    )
    port: int = setting(2242, "Port to listen on; 0: any that is free.", low=0, high=65535, is_common=True)
    uds: str | None = setting(None, "Unix socket to listen on, in place of host and port.", metavar="PATH")
    api_keys: str | None = setting(
        None,
        "Keys that clients must show: a,b or @FILE, one a line.",
        metavar="KEYS",
        env=env.API_KEYS,
        unset="none is needed",
        aliases=("api_key",),
        is_secret=True,
        is_common=True,
    )
    admin_key: str | None = setting(
        None,
        "Key of the administrator's routes, KEY or @FILE; without it they are on --admin-uds alone.",
        metavar="KEY",
        is_secret=True,
    )
    admin_uds: str | None = setting(
        None,
        "Unix socket for the administrator, in a folder of the owner's alone; no key is needed there.",
        metavar="PATH",
    )
    insecure: bool = setting(False, "Allow a public address without keys.")
    served_model_name: str | None = setting(
        None,
        "Names that clients may call the model by: a,b; the first is shown.",
        metavar="NAMES",
        unset="the model's own",
        is_common=True,
    )
    chat_template: str | None = setting(
        None,
        "Chat template in place of the model's: a file, a text, or the name of one of the model's.",
        metavar="FILE",
    )
    tool_call_parser: str = setting(
        "auto",
        "Format in which the model writes tool calls, by name; auto: as its chat template shows; none: they are text.",
        metavar="NAME",
    )
    reasoning_parser: str = setting(
        "auto", "The same for its reasoning; with harmony, one name stands for both.", metavar="NAME"
    )
    max_queue: int = setting(512, "Most sequences that may wait beside those that run; more are answered 429.", low=0)
    max_prompt_logprobs: int = setting(
        1 << 18, "Most log-probabilities of prompts in one answer: tokens times what is asked for of each, and n."
    )
    max_output_logprobs: int = setting(
        1 << 22,
        "The same of outputs: max_tokens, or the room behind the prompt, times what is asked for of each, and n.",
    )
    max_queue_tokens: int = setting(
        1 << 20, "Most tokens of prompts that may wait; a request that finds more is answered 429."
    )
    request_timeout: int = setting(0, "Seconds in which a request must be done; 0: no limit.", low=0)
    shutdown_timeout: int = setting(30, "Seconds that requests have to end in after SIGTERM.", low=0)
    engine_stall: int = setting(25, "Seconds without a sign of the engine after which the server is not ready.", low=7)
    strict_params: bool = setting(False, "Refuse parameters that would have no effect.")
    single_user_mode: bool = setting(False, "One sequence at a time, and KV blocks for no more: the least memory.")
    tensor_parallel_size: int = setting(1, "Devices that share a model; more than one is not supported yet.")
    root_path: str = setting("", "Prefix that a proxy leaves in front of paths.", metavar="PATH")
    allowed_origins: str = setting("", "Origins whose pages may call from a browser: a,b or *.", metavar="LIST")
    ssl_keyfile: str | None = setting(None, "Key of the certificate, for HTTPS.", metavar="PATH")
    ssl_certfile: str | None = setting(None, "Certificate, for HTTPS.", metavar="PATH")
    max_body_bytes: int = setting(2 << 20, "Most bytes of a request's body.", low=1024)
    log_requests: bool = setting(
        True, "Log a line for each request, without what it says; one a second for those that a full queue refuses."
    )
    log_format: str = setting("auto", "Log lines: text, json; auto: text on a terminal.", choices=LOG_FORMS)
    metrics_compat: str = setting("vllm", "Show metrics under another server's names too.", choices=METRICS_COMPAT)

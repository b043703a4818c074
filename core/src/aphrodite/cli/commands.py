"""Every command of `aphrodite`. What they do stands in modules of their own, loaded when they run."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.cli.command import Command
from aphrodite.config.engine import Section, setting
from aphrodite.config.table import group

_ENGINE = (group("model"), group("device"), group("cache"), group("scheduler"))
_TERMINAL = group("terminal")
_BENCHED = group("sampling").without(  # a benchmark fixes how many tokens there are, so nothing else may end a request
    "n", "seed", "max_tokens", "min_tokens", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos"
)


@dataclass(frozen=True)
class Generate(Section):
    """Options of `generate`."""

    prompt: tuple[str, ...] = setting((), "A prompt (again for another one).", metavar="TEXT")
    token_ids: tuple[str, ...] = setting(
        (), "A prompt as token ids, such as 1,15,7 (again for another one).", metavar="IDS"
    )


@dataclass(frozen=True)
class Chat(Section):
    """Options of `chat`."""

    system: str | None = setting(None, "The system message.", metavar="TEXT")
    chat_template: str | None = setting(
        None, "Chat template in place of the model's: a file, or the template itself.", metavar="PATH|TEXT"
    )


@dataclass(frozen=True)
class Explain(Section):
    """Options of `explain`."""

    op: str | None = setting(None, "This operation alone, such as rms_norm or attn_paged.", metavar="NAME")


@dataclass(frozen=True)
class Latency(Section):
    """Options of `bench latency`."""

    batch_size: int = setting(1, "Requests that run together.")
    input_len: int = setting(32, "Tokens of each prompt.")
    output_len: int = setting(128, "Tokens generated for each.", low=2)
    num_warmup: int = setting(2, "Batches run before those that count.", low=0)
    num_iters: int = setting(10, "Batches that count.")
    seed: int = setting(0, "Seed of prompts and draws.", low=0)
    out: str | None = setting(None, "Write the JSON document to a file, too.", metavar="FILE")


@dataclass(frozen=True)
class Throughput(Section):
    """Options of `bench throughput`."""

    num_prompts: int = setting(100, "Requests.")
    input_len: str = setting("32..256", "Tokens of a prompt, N or LOW..HIGH, evenly drawn.", metavar="RANGE")
    output_len: str = setting("32..256", "Tokens generated for one, likewise.", metavar="RANGE")
    num_warmup: int = setting(2, "Requests run before those that count.", low=0)
    seed: int = setting(0, "Seed of lengths, prompts and draws.", low=0)
    out: str | None = setting(None, "Write the JSON document to a file, too.", metavar="FILE")


@dataclass(frozen=True)
class NoOptions(Section):
    """For commands that have none of their own."""


COMMANDS: tuple[Command, ...] = (
    Command(
        "generate",
        "generate",
        "continue prompts and print the text",
        "Continue one or more prompts. Text goes to standard output, all else to standard error.",
        ('generate ./my-model --prompt "Once upon a time"',),
        Generate,
        (group("sampling"), *_ENGINE, _TERMINAL),
    ),
    Command(
        "chat",
        "chat",
        "talk with a model in the terminal",
        "Talk with a model; Ctrl-C stops an answer, Ctrl-D leaves, /help lists what else. If standard input is no "
        "terminal, each of its lines is a message.",
        ("chat owner/name --temperature 0.7", "chat ./my-model < questions.txt"),
        Chat,
        (group("sampling").without("n", "logprobs", "prompt_logprobs"), *_ENGINE, _TERMINAL),
        {"max_tokens": None},
    ),
    Command(
        "run",
        "run",
        "serve a model over HTTP",
        "Serve a model on http://127.0.0.1:2242 with the APIs of OpenAI, Anthropic, Kobold and Ollama. Ctrl-C ends it.",
        ("run ./my-model --port 8000", "run owner/name --host 0.0.0.0 --api-keys @keys.txt"),
        NoOptions,
        (group("server"), *_ENGINE, _TERMINAL),
        {"log_level": "info"},
    ),
    Command(
        "explain",
        "explain",
        "show which kernel serves each place of a model, and why",
        "Plan a model for a device without loading its weights: the kernel at each site, and each loser's reason.",
        ("explain ./my-model --op linear",),
        Explain,
        (*_ENGINE, _TERMINAL),
    ),
    Command(
        "plugins",
        "plugins",
        "list hardware plugins, their state and why",
        "List installed plugins: ready, unavailable, disabled, incompatible or failed, each with its reason.",
        ("plugins", "plugins --plugins=-toy --json"),
        NoOptions,
        (group("device").only("plugins"), _TERMINAL),
        takes_model=False,
    ),
    Command(
        "bench latency",
        "bench_latency",
        "time a batch: its first tokens, each token, the whole",
        "Time batches of equal requests with random token ids: to the first token, for each further one, and in all.",
        ("bench latency ./my-model --batch-size 8", "bench latency ./my-model --load-format dummy"),
        Latency,
        (_BENCHED, *_ENGINE, _TERMINAL),
    ),
    Command(
        "bench throughput",
        "bench_throughput",
        "requests and tokens a second, of many at once",
        "Give an engine many requests of random lengths and token ids at once, and see how long it takes.",
        ("bench throughput ./my-model --input-len 64..512",),
        Throughput,
        (_BENCHED, *_ENGINE, _TERMINAL),
    ),
    Command(
        "env",
        "env",
        "describe this machine and what is installed",
        "Describe the machine, the packages and the plugins. Secrets and users' names in paths are left out.",
        ("env", "env --json"),
        NoOptions,
        (group("device").only("plugins"), _TERMINAL),
        takes_model=False,
    ),
)

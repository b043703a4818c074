"""What the benchmarks have in common: prompts, statistics, and how figures are shown."""

from __future__ import annotations

import math
import platform
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aphrodite._version import __version__
from aphrodite.cli.command import Call
from aphrodite.cli.output import document, print_document, write_document
from aphrodite.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from aphrodite.engine.llm import LLM
    from aphrodite.types.outputs import RequestOutput

PERCENTILES = (50, 90, 99)


def prompts_of(lengths: Iterable[int], vocab_size: int, draw: random.Random) -> list[list[int]]:
    """Prompts of these lengths; token ids are evenly drawn, so that no two prompts begin alike for long."""
    return [[draw.randrange(vocab_size) for _ in range(length)] for length in lengths]


def check_lengths(llm: LLM, input_len: int, output_len: int) -> None:
    """UsageError unless the engine takes requests of this length, which would be cut short."""
    longest = llm.blueprint.sizes.max_model_len
    if input_len + output_len > longest:
        raise UsageError(
            f"input_len {input_len} and output_len {output_len} need {input_len + output_len} tokens, and "
            f"max_model_len is {longest}: lower them, or raise it",
            subject="input_len",
        )


def check_outputs(outputs: Sequence[RequestOutput], lengths: Sequence[int]) -> None:
    """DeviceError unless each request generated what it should: figures of others would mislead."""
    for output, length in zip(outputs, lengths, strict=True):
        completion = output.outputs[0]
        if len(completion.token_ids) != length:
            raise DeviceError(
                f"request {output.request_id} generated {len(completion.token_ids)} of {length} tokens and ended by "
                f"{completion.finish_reason!r}: nothing is measured",
                subject=output.request_id,
            )


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Mean, least, greatest and the percentiles, which are values that occurred (nearest rank)."""
    ordered = sorted(values)
    found = {"mean": math.fsum(ordered) / len(ordered), "min": ordered[0], "max": ordered[-1]}
    ranks = {f"p{p}": ordered[-(-p * len(ordered) // 100) - 1] for p in PERCENTILES}
    return found | ranks


def finish(call: Call, llm_facts: Mapping[str, Any], figures: Mapping[str, Any], show: Callable[[], None]) -> int:
    """Print the table or the document, and write the document where --out says."""
    settings = {name: value for name, value in vars(call.options).items() if name != "out"}
    content = document(call.command, {"model": call.model, **llm_facts, "options": settings, **figures})
    if call.options.out is not None:
        write_document(content, call.options.out)
    if call.common.json:
        print_document(content)
    else:
        show()
    return 0


def facts(llm: LLM) -> dict[str, Any]:
    """On what it was measured."""
    blueprint = llm.blueprint
    return {
        "aphrodite": __version__,
        "python": platform.python_version(),
        "device": blueprint.entry.info.device,
        "device_name": blueprint.entry.info.name,
        "plugin": blueprint.entry.plugin,
        "dtype": blueprint.dtype,
        "max_model_len": blueprint.sizes.max_model_len,
        "num_blocks": blueprint.sizes.kv.num_blocks,
    }


def heading(call: Call, found: Mapping[str, Any]) -> str:
    """A line that says what was measured where."""
    return f"{call.model} on {found['device']} ({found['device_name']}), {found['dtype']}"


def check_out(path: str | None) -> None:
    """UsageError if the file cannot be written, before anything is measured for it."""
    if path is None:
        return
    try:
        with open(path, "a", encoding="utf-8"):
            pass
    except (OSError, ValueError) as error:
        raise UsageError(f"out {path!r} cannot be written: {error}", subject="out") from None

"""`aphrodite generate`: continue prompts and print the text."""

from __future__ import annotations

import dataclasses
from typing import Any

from aphrodite.cli.command import Call
from aphrodite.cli.output import document, print_document, print_error, print_note, safe_for_terminal
from aphrodite.errors import UsageError
from aphrodite.progress import progress


def run(call: Call) -> int:
    """Print each continuation, or one JSON document."""
    options = call.options
    prompts: list[Any] = [*options.prompt, *(token_ids(text) for text in options.token_ids)]
    if not prompts:
        raise UsageError("there is nothing to continue: pass --prompt TEXT or --token-ids 1,2,3", subject="prompt")
    sampling = call.sampling()

    from aphrodite.engine.llm import LLM

    with LLM(progress=progress(call.quiet), **call.settings) as llm:
        outputs = llm.generate(prompts, sampling, progress=progress(call.quiet))
        if not call.quiet:  # behind what may be refused: an error is one line
            print_note(llm.blueprint.summary)
        has_text = llm.tokenizer is not None
    failed = [
        place
        for place, output in enumerate(outputs)
        if any(completion.finish_reason == "error" for completion in output.outputs)
    ]
    for place in failed:
        print_error(f"prompts[{place}]: the logits were not numbers; the request has failed")
    if call.common.json:
        content = {"model": call.model, "outputs": [dataclasses.asdict(output) for output in outputs]}
        print_document(document(call.command, content))
        return 1 if failed else 0
    lone = len(outputs) == 1 and len(outputs[0].outputs) == 1
    for output in outputs:
        for completion in output.outputs:
            shown = completion.text if has_text else ",".join(map(str, completion.token_ids))
            head = "" if lone else f"--- {output.prompt or output.prompt_token_ids}\n"
            print(safe_for_terminal(head + shown))
    return 1 if failed else 0


def token_ids(text: str) -> list[int]:
    """The ids in "1,15,7". UsageError if they are no integers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"token ids must be integers with commas between, got {text!r}", subject="token_ids") from None

"""`aphrodite generate`: continue prompts and print the text."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from aphrodite.cli.flags import engine_settings, sampling_params, token_ids
from aphrodite.errors import UsageError


def run(args: argparse.Namespace) -> int:
    """Print each continuation, or one JSON document."""
    prompts: list[Any] = [*args.prompt, *(token_ids(text) for text in args.token_ids)]
    if not prompts:
        raise UsageError("there is nothing to continue: pass --prompt TEXT or --token-ids 1,2,3", subject="prompt")
    sampling = sampling_params(args)  # a wrong parameter is refused before the model is touched
    settings = engine_settings(args)

    from aphrodite.cli.progress import progress
    from aphrodite.engine.llm import LLM

    with LLM(args.model, progress=progress(args.quiet), **settings) as llm:
        if not args.quiet:
            print(llm.blueprint.summary, file=sys.stderr)
        outputs = llm.generate(prompts, sampling, progress=progress(args.quiet))
        has_text = llm.tokenizer is not None
    failed = [
        place
        for place, output in enumerate(outputs)
        if any(completion.finish_reason == "error" for completion in output.outputs)
    ]
    for place in failed:
        print(
            f"aphrodite: error: prompts[{place}]: the logits were not numbers; the request has failed", file=sys.stderr
        )
    if args.json:
        document = {
            "schema": "aphrodite.generate/1",
            "model": args.model,
            "outputs": [dataclasses.asdict(output) for output in outputs],
        }
        print(json.dumps(document, ensure_ascii=False))
        return 1 if failed else 0
    lone = len(outputs) == 1 and len(outputs[0].outputs) == 1
    for output in outputs:
        for completion in output.outputs:
            shown = completion.text if has_text else ",".join(map(str, completion.token_ids))
            print(shown if lone else f"--- {output.prompt or output.prompt_token_ids}\n{shown}")
    return 1 if failed else 0

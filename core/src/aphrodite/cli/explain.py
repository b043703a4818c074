"""`aphrodite explain`: which kernel serves each distinct site of a model, and why the others do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from aphrodite.blueprint import Blueprint, draw_up
from aphrodite.cli.command import Call
from aphrodite.cli.output import document, print_document
from aphrodite.config.engine import config_from
from aphrodite.errors import UsageError
from aphrodite.ops.table import COMPOSITES, OPS
from aphrodite.program.explain import SiteReport, count_torch_forms, explain
from aphrodite.program.plan import Plan
from aphrodite.runner.programs import record_updates, record_zeroing
from aphrodite.sampling.program import Variant, record


def run(call: Call) -> int:
    """Print the plan of every Program of a model."""
    op = call.options.op
    if op is not None:
        known = sorted({name.partition("@")[0] for name in (*OPS, *COMPOSITES)})
        if op.partition("@")[0] not in known:
            raise UsageError(f"--op must be one of {', '.join(known)}, got {op!r}", subject="op")
    blueprint = draw_up(config_from(call.settings), show_bars=not call.quiet)
    try:
        plans = all_plans(blueprint)
    finally:
        blueprint.platform.device.close()
    reports = [report for plan in plans for report in explain(plan) if _wanted(report, op)]
    if call.common.json:
        print_document(document(call.command, _content(call.model, blueprint, plans, reports)))
        return 0
    _print_settings(call.model, blueprint)
    for report in reports:
        _print_site(report)
    print()
    for plan in plans:
        forms, sites = count_torch_forms(plan)
        print(f"{plan.program.name}: {forms} of {sites} sites use a torch form")
    return 0


def all_plans(blueprint: Blueprint) -> list[Plan]:
    """The plans of all Programs: forward, the fullest sampling one, row updates, the zeroing of blocks."""
    sampling = record(Variant.fullest(), vocab_size=blueprint.spec.vocab_size, dtype=blueprint.dtype)
    others = (sampling, record_updates(), record_zeroing(blueprint.decoder.kv_refs))
    own = [plan for plan in (blueprint.forward, blueprint.attention) if plan is not None]
    return [*own, *(blueprint.planner.plan(program) for program in others)]


def _wanted(report: SiteReport, op: str | None) -> bool:
    return op is None or op in (report.op, report.op.partition("@")[0])


def _content(
    model: str, blueprint: Blueprint, plans: Sequence[Plan], reports: Sequence[SiteReport]
) -> dict[str, object]:
    return {
        "model": model,
        "device": blueprint.entry.info.device,
        "plugin": blueprint.entry.plugin,
        "settings": dict(blueprint.reasons),
        "notes": list(blueprint.notes),
        "torch_forms": {plan.program.name: count_torch_forms(plan) for plan in plans},
        "sites": [dataclasses.asdict(report) for report in reports],
    }


def _print_settings(model: str, blueprint: Blueprint) -> None:
    print(f"{model} on {blueprint.entry.info.device} ({blueprint.entry.info.name})")
    for name, reason in blueprint.reasons.items():
        print(f"  {name:14} {reason}")
    for note in blueprint.notes:
        print(f"  note           {note}")


def _print_site(report: SiteReport) -> None:
    places = report.sites[0] + (f" and {len(report.sites) - 1} more" if len(report.sites) > 1 else "")
    weights = "" if report.weights == "plain" else f" weights={report.weights}"
    print(f"\n{report.op}  {report.what}{weights}\n  at {places} [{report.program}]")
    if report.within:
        print(f"  done inside {report.within}; alone it would be")
    for choice in report.choices:
        label = f" for {choice.sizes}" if choice.sizes and len(report.choices) > 1 else ""
        print(f"  -> {choice.winner or 'its own calls'}{label}")
        for verdict in choice.verdicts:
            mark = "chosen" if verdict.chosen else "not"
            print(f"       {verdict.provider}: {mark}: {verdict.reason}")

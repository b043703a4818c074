"""`aphrodite plugins`: every plugin that is installed, its state and the reason."""

from __future__ import annotations

import dataclasses
import textwrap

from aphrodite.cli.command import Call
from aphrodite.cli.output import document, print_document
from aphrodite.config.engine import config_from
from aphrodite.discovery.discover import PluginReport
from aphrodite.discovery.hooks import CONTRACT
from aphrodite.resolve import find_plugins


def run(call: Call) -> int:
    """Print the report. A broken plugin is a line in it, not a failure of the command."""
    reports = find_plugins(config_from(call.settings)).reports
    contract = CONTRACT.removeprefix("v").replace("_", ".")
    if call.common.json:
        content = {"contract": contract, "plugins": [dataclasses.asdict(report) for report in reports]}
        print_document(document(call.command, content))
        return 0
    print(f"contract {contract}, {len(reports)} plugin{'' if len(reports) == 1 else 's'} installed")
    for report in reports:
        _print(report)
    print("\ncore: the CPU through torch forms alone, whenever no plugin serves it")
    return 0


def _print(report: PluginReport) -> None:
    print(f"\n{report.name}  {report.state}  ({report.distribution} {report.version})")
    if report.reason:
        print(f"  why      {report.reason}")
    if report.hint:
        print(f"  do       {report.hint}")
    for device in report.devices:
        print(f"  device   {device.device}: {device.name}" + (f" ({device.arch})" if device.arch else ""))
    if report.kernels:
        print(textwrap.fill(f"  kernels  {', '.join(report.kernels)}", 80, subsequent_indent=" " * 11))
    for provider, reason in report.dropped:
        print(f"  dropped  {provider}: {reason}")
    for note in report.notes:
        print(f"  note     {note}")

"""`--dump-config`: each value in effect, where it comes from, and what "auto" becomes on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aphrodite.cli.command import Call
from aphrodite.cli.output import print_document, print_error
from aphrodite.config.engine import config_from
from aphrodite.config.layers import Given
from aphrodite.config.table import GROUPS, Entry, Kind
from aphrodite.errors import AphroditeError

SCHEMA = "aphrodite.config/1"
_COMMENT_COLUMN = 40


@dataclass(frozen=True)
class Resolved:
    """What the model and the device make of the settings: value and reason by name, sampling defaults of the model.

    error  why it could not be found out, None if it was, or if there is no model to look at
    """

    reasons: Mapping[str, str] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    error: AphroditeError | None = None
    is_known: bool = False


def run(call: Call) -> int:
    """Print the values; the exit code is that of what stands in the way of the model, if something does."""
    resolved = _resolve(call)
    values = {entry: _effective(entry, given, resolved) for entry, given in call.values.items()}
    if call.common.json:
        print_document(_document(call, values, resolved))
    else:
        print("\n".join(_lines(call, values, resolved)))
    if resolved.error is None:
        return 0
    print_error(str(resolved.error))
    return resolved.error.exit_code


def _resolve(call: Call) -> Resolved:
    """Draws up the engine: no weights are read, nothing is allocated."""
    if not call.command.takes_model or not call.model:
        return Resolved()
    from aphrodite.blueprint import draw_up

    try:
        blueprint = draw_up(config_from(call.settings), show_bars=not call.quiet)
    except AphroditeError as error:
        return Resolved(error=error)
    blueprint.platform.device.close()
    return Resolved(blueprint.reasons, blueprint.generation.defaults, is_known=True)


def _effective(entry: Entry, given: Given, resolved: Resolved) -> Given:
    """A parameter that nobody gave has the model's own default, if it has one; a secret is not shown."""
    if entry.is_secret and given.value:
        return Given("(set, not shown)", given.origin)
    if given.is_default and _in_sampling(entry) and entry.name in resolved.sampling:
        return Given(resolved.sampling[entry.name], "the model's generation config")
    return given


def _document(call: Call, values: Mapping[Entry, Given], resolved: Resolved) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": SCHEMA, "command": call.command.name, "values": {}, "unused": {}}
    for entry, given in values.items():
        item = {"value": _plain(entry, given.value), "origin": given.origin}
        if found := _outcome(entry, resolved):
            item["resolved"], item["reason"] = found
        content["values"][entry.key] = item
    content["unused"] = [entry.key for entry in call.unused]
    content["notes"] = _notes(values, resolved)
    if resolved.error is not None:
        content["error"] = {"message": str(resolved.error), "exit_code": resolved.error.exit_code}
    return content


def _lines(call: Call, values: Mapping[Entry, Given], resolved: Resolved) -> list[str]:
    """YAML that --config takes."""
    lines = [f"# the values in effect for `aphrodite {call.command.name}`, and where each comes from"]
    flat = [entry for entry in values if not _in_sampling(entry)]
    lines += [_line(entry, values[entry], resolved) for entry in flat]
    if sampling := [entry for entry in values if _in_sampling(entry)]:
        lines.append("sampling:")
        for entry in sampling:
            line = _line(entry, values[entry], resolved)
            if values[entry].is_default and not resolved.is_known:  # as a value it would hide the model's own default
                line = f"# {line}, if the model's generation config has none"
            lines.append(f"  {line}")
        if all(line.startswith("  # ") for line in lines[-len(sampling) :]):
            lines[-len(sampling) - 1] = "sampling: {}"
    lines += [f"# not used by {call.command.name}: {entry.key}" for entry in call.unused]
    lines += [f"# {name}: {reason}" for name, reason in _notes(values, resolved).items()]
    return lines


def _line(entry: Entry, given: Given, resolved: Resolved) -> str:
    name = str(entry.key).rpartition(".")[2]
    comment = given.origin
    if found := _outcome(entry, resolved):
        comment += f"; becomes {found[0]}: {found[1]}"
    return f"{f'{name}: {_yaml(_plain(entry, given.value))}':{_COMMENT_COLUMN}}  # {' '.join(comment.split())}"


def _notes(values: Mapping[Entry, Given], resolved: Resolved) -> dict[str, str]:
    """What was decided beside the settings."""
    names = {entry.name for entry in values if not _in_sampling(entry)}
    return {name: " ".join(reason.split()) for name, reason in resolved.reasons.items() if name not in names}


def _outcome(entry: Entry, resolved: Resolved) -> tuple[str, str] | None:
    """(value, reason) of a setting that was resolved."""
    if _in_sampling(entry) or entry.name not in resolved.reasons:
        return None
    value, _, reason = resolved.reasons[entry.name].partition(": ")
    return value, reason


def _in_sampling(entry: Entry) -> bool:
    return any(entry in group.entries for group in GROUPS if group.mapping == "sampling")


def _plain(entry: Entry, value: Any) -> Any:
    """A value as a file spells it."""
    if value is None and not _in_sampling(entry) and entry.kind is Kind.INTEGER:
        return "auto"
    if entry.kind is Kind.BIASES:
        return dict(value)
    if isinstance(value, Mapping):
        return {name: list(items) if isinstance(items, tuple) else items for name, items in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=1 << 30)
    return text.strip()[1:-1]

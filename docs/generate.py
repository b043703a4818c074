"""Write the pages of the documentation that are made from the code: docs/contract.md and docs/reference.md.

python docs/generate.py            write them
python docs/generate.py --check    exit 1 if one is stale, or if the contract differs from its golden snapshot
python docs/generate.py --accept   write them, and the snapshot tests/contracts/contract.txt: the contract changes
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pluggy

from aphrodite import plugin
from aphrodite.cli.command import COMMON
from aphrodite.cli.commands import COMMANDS
from aphrodite.config import env
from aphrodite.config.table import GROUPS, Entry, Kind
from aphrodite.discovery import hooks
from aphrodite.ops.table import COMPOSITES, OPS

ROOT = Path(__file__).parent.parent
SNAPSHOT = ROOT / "tests/contracts/contract.txt"
NOTE = "<!-- Made by docs/generate.py from the code. Do not edit. -->\n"


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--accept", action="store_true")
    args = parser.parse_args()
    pages = {ROOT / "docs/contract.md": contract_page(), ROOT / "docs/reference.md": reference_page()}
    if args.accept:
        pages[SNAPSHOT] = snapshot()
    if not args.check:
        for path, text in pages.items():
            path.write_text(text)
        return 0
    pages[SNAPSHOT] = snapshot()
    stale = [
        str(path.relative_to(ROOT)) for path, text in pages.items() if not path.is_file() or path.read_text() != text
    ]
    for name in stale:
        print(
            f"{name} is stale: run docs/generate.py"
            + (" --accept, if the contract is meant to change" if "tests" in name else "")
        )
    return 1 if stale else 0


def snapshot() -> str:
    """Every signature that a plugin can see, a line each."""
    lines = [f"contract {plugin.CONTRACT}"]
    lines += [f"hook {name}{_signature(spec)}" for name, spec in _hooks()]
    lines += [f"op {op.name}({op.schema.text})" for op in OPS.values()]
    lines += [f"composite {c.name}({c.schema.text})" for c in COMPOSITES.values()]
    for name in plugin.__all__:
        lines += _lines(name, getattr(plugin, name))
    return "\n".join(lines) + "\n"


def contract_page() -> str:
    """docs/contract.md"""
    version = plugin.CONTRACT.removeprefix("v").replace("_", ".")
    parts = [
        NOTE,
        f"# The contract, version {version}\n",
        "All that a plugin may import is `aphrodite.plugin`. [How to write a plugin](plugins.md) shows the parts\n"
        "at work; this page lists them. A plugin and a core match when their contracts have the same number.\n",
        "## Hooks\n",
    ]
    parts += [f"### `{name}{_signature(spec)}`\n\n{inspect.getdoc(spec)}\n" for name, spec in _hooks()]
    parts.append(
        "## Operations\n\n`!` is written, `?` may be absent. A and X stand for f32, f16 or bf16. Optional arguments,\n"
        "and attributes that differ from their default, are features: a kernel names those it serves.\n"
    )
    for op in OPS.values():
        schema = op.schema.text.replace("\n", " ")
        forms = "reference and portable form" if op.portable else "the reference is portable"
        forms += "; both read the host, so steps that they serve are not captured" if op.reads_host else ""
        about = inspect.getdoc(op.reference) or ""
        parts.append(f"### `{op.name}`\n\n`{schema}`\n\n```text\n{about}\n```\n\nTorch forms: {forms}.\n")
    parts.append("## Composites\n\nA kernel may serve one of these runs of calls whole.\n")
    parts += [f"### `{c.name}`\n\n`{c.schema.text}`\n\n{c.doc}\n" for c in COMPOSITES.values()]
    parts.append("## Names in `aphrodite.plugin`\n")
    parts += [_section(name, getattr(plugin, name)) for name in plugin.__all__]
    return "\n".join(parts).rstrip() + "\n"


def reference_page() -> str:
    """docs/reference.md"""
    parts = [
        NOTE,
        "# Settings, parameters and flags\n",
        "One table makes the Python classes, the flags of the [command line](cli.md), the keys of a YAML file and\n"
        "this page. A setting is an argument of `LLM(...)`, a sampling parameter one of `SamplingParams(...)`.",
    ]
    for group in GROUPS:
        title = group.name.capitalize() + (" parameters" if group.mapping else "")
        where = f", under `{group.mapping}` in a file" if group.mapping else ""
        parts += [f"\n## {title}\n", f"{group.about[0].upper()}{group.about[1:]}{where}.\n"]
        parts += ["| name | flag | default | legal | meaning |", "|---|---|---|---|---|"]
        parts += [_row(entry) for entry in group.entries]
    parts += ["\n## Commands\n", "| command | does |", "|---|---|"]
    parts += [f"| `aphrodite {command.name}` | {command.about} |" for command in COMMANDS]
    parts += ["\nEvery command takes:\n", *_options(COMMON.entries)]
    for command in COMMANDS:
        groups = ", ".join(f"[{group.name}](#{_anchor(group.name)})" for group in command.groups)
        parts += [f"\n### `aphrodite {command.name}`\n", f"{command.description} Settings: {groups}.\n"]
        parts += _options(command.own.entries) if command.own.entries else ["It has no options of its own."]
    parts += ["\n## Environment\n", "| variable | meaning |", "|---|---|"]
    parts += [f"| `{name}` | {about} |" for name, about in env.VARIABLES.items()]
    return "\n".join(parts) + "\n"


def _anchor(group: str) -> str:
    return "sampling-parameters" if group == "sampling" else group


def _row(entry: Entry) -> str:
    flag = f"`{_flag(entry)}`" if entry.flag else "the first word"
    meaning = entry.doc + (f" Environment: `{entry.env}`." if entry.env else "")
    meaning += "".join(f" Also `{alias}`." for alias in entry.aliases)
    return _cells(f"`{entry.name}`", flag, f"`{entry.default_of({})}`", entry.legal, meaning)


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _options(entries: tuple[Entry, ...]) -> list[str]:
    rows = [_cells(f"`{_flag(entry)}`", f"`{entry.default_of({})}`", entry.doc) for entry in entries]
    return ["| option | default | meaning |", "|---|---|---|", *rows]


def _flag(entry: Entry) -> str:
    if entry.kind is Kind.SWITCH:
        return f"{entry.flag}, --no-{str(entry.flag)[2:]}"
    return f"{entry.flag} {entry.metavar}"


def _hooks() -> Iterator[tuple[str, Any]]:
    manager = pluggy.PluginManager("aphrodite")
    manager.add_hookspecs(hooks)
    for name, value in vars(hooks).items():
        if name.startswith("aphrodite_"):
            yield name, value


def _signature(function: Any) -> str:
    """A signature as it is written, in the same words under every version of Python."""
    signature = inspect.signature(function)
    parts: list[str] = []
    keyword_only = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            parts.append("*")
            keyword_only = True
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        note = "" if parameter.annotation is parameter.empty else f": {_annotation(parameter.annotation)}"
        parts.append(f"{stars}{name}{note}{_default(parameter)}")
    returns = signature.return_annotation
    return f"({', '.join(parts)})" + ("" if returns is signature.empty else f" -> {_annotation(returns)}")


def _annotation(value: Any) -> str:
    return str(getattr(value, "__forward_arg__", value)).replace("'", "")


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is parameter.empty:
        return ""
    simple = value is None or type(value) in (bool, int, float, str, tuple)
    return f" = {value!r}" if simple else " = ..."


def _lines(name: str, value: Any) -> Iterator[str]:
    """The signatures of one public name."""
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base.__name__ not in ("object", "Protocol"))
        yield f"class {name}({bases})"
        if issubclass(value, enum.Enum):
            yield from (f"  {name}.{member}" for member in value.__members__)
            return
        made = dataclasses.is_dataclass(value) or issubclass(value, tuple) or "__init__" in vars(value)
        if made and not getattr(value, "_is_protocol", False):
            yield f"  {name}{_signature(value)}"
        for attribute, member in vars(value).items():
            if isinstance(member, property):
                yield f"  {name}.{attribute}: {_annotation(inspect.signature(member.fget).return_annotation)}"  # type: ignore[arg-type]
            elif attribute.startswith("_") and attribute != "__getitem__":
                continue
            elif isinstance(member, (classmethod, staticmethod)):
                yield f"  {name}.{attribute}{_signature(getattr(value, attribute))}"
            elif inspect.isfunction(member):
                yield f"  {name}.{attribute}{_signature(member)}"
    elif inspect.isfunction(value):
        yield f"def {name}{_signature(value)}"
    elif callable(value) or "typing" in type(value).__module__ or "collections.abc" in type(value).__module__:
        yield f"{name} = {value}" if not isinstance(value, pluggy.HookimplMarker) else f"{name}: HookimplMarker"
    else:
        yield f"{name} = {value!r}" if isinstance(value, (int, str)) else f"{name}: {type(value).__name__}"


def _section(name: str, value: Any) -> str:
    """One public name as a section."""
    lines = "\n".join(_lines(name, value))
    own = inspect.isclass(value) or inspect.isfunction(value)
    about = (inspect.getdoc(value) or "") if own else ""
    if own and dataclasses.is_dataclass(value) and about.startswith(f"{name}("):
        about = ""
    methods = []
    if inspect.isclass(value):
        for attribute, member in vars(value).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if attribute.startswith("_") or not inspect.isfunction(function):
                continue
            if said := inspect.getdoc(function):
                methods.append(f"{attribute}: {said}")
    text = "\n\n".join([about, *methods]).strip()
    return f"### `{name}`\n\n```python\n{lines}\n```\n" + (f"\n```text\n{text}\n```\n" if text else "")


if __name__ == "__main__":
    sys.exit(main())

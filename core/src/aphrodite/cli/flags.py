"""Flags made from the tables: EngineConfig's fields and the sampling parameters. None is written by hand."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from aphrodite.config.engine import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig
from aphrodite.config.server import ServerConfig
from aphrodite.errors import UsageError
from aphrodite.types.sampling_params import Items, SamplingParams, parameters

_SECTIONS = {
    "model": ModelConfig,
    "device and kernels": DeviceConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
}


class Formatter(argparse.HelpFormatter):
    """Help with room for the flags' names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting of EngineConfig, but the model itself."""
    for title, items in engine_groups().items():
        group = parser.add_argument_group(title)
        for item in items:
            _add(group, item)


def engine_groups() -> dict[str, list[dataclasses.Field[Any]]]:
    """The settings of EngineConfig by the title they are shown under; the model itself is none."""
    return {
        title: [item for item in dataclasses.fields(section) if item.name != "model"]
        for title, section in _SECTIONS.items()
    }


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting of ServerConfig."""
    group = parser.add_argument_group("server")
    for item in dataclasses.fields(ServerConfig):
        _add(group, item)


def server_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of the server; those not given are left out."""
    found = {item.name: getattr(args, item.name) for item in dataclasses.fields(ServerConfig)}
    return {name: value for name, value in found.items() if value is not None}


def add_plugin_flag(parser: argparse.ArgumentParser) -> None:
    """--plugins alone."""
    _add(parser, DeviceConfig.__dataclass_fields__["plugins"])


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every sampling parameter."""
    group = parser.add_argument_group("sampling")
    for item in parameters():
        rule = item.metadata["rule"]
        flag, doc = _flag(item.name), item.metadata["doc"]
        default = item.metadata["default"]
        about = f"{doc} ({rule.legal}" + (f"; default {default})" if default not in (None, ()) else ")")
        if rule.kind is bool:
            about = f"{doc} (default {default})"
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=about)
        elif rule.items is Items.TEXTS:
            group.add_argument(flag, action="append", metavar="TEXT", help=f"{about}; may be repeated")
        elif rule.items is Items.BIASES:
            group.add_argument(flag, type=_biases, metavar="ID=BIAS,...", help=about)
        elif rule.kind is tuple:
            group.add_argument(flag, type=_ids, metavar="IDS", help=about)
        else:
            group.add_argument(flag, type=rule.kind, metavar=rule.kind.__name__.upper(), help=about)


def engine_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say, by setting; those not given are left out."""
    found = {}
    for item in (item for items in engine_groups().values() for item in items):
        value = getattr(args, item.metadata.get("flag", item.name), None)
        if value is not None:
            found[item.name] = _kernels(value) if item.name == "kernels" else value
    return found


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """What the sampling flags say."""
    given = {item.name: getattr(args, item.name) for item in parameters()}
    return SamplingParams(**{name: value for name, value in given.items() if value is not None})


def token_ids(text: str) -> list[int]:
    """The ids in "1,15,7". UsageError if they are no integers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"token ids must be integers with commas between, got {text!r}", subject="token_ids") from None


def _add(group: argparse._ActionsContainer, item: dataclasses.Field[Any]) -> None:
    meta = item.metadata
    is_number = "int" in str(item.type)
    kind = int if is_number else str
    default = item.default if item.default is not dataclasses.MISSING else None
    about = meta["doc"] + (f" (default {default})" if default not in (None, "", "auto") else "")
    options: dict[str, Any] = {"help": about, "default": None}
    if "choices" in meta:
        options["choices"] = meta["choices"]
    elif item.type in ("bool", bool):
        options["action"] = argparse.BooleanOptionalAction
    elif item.name == "kernels":
        options |= {"action": "append", "metavar": meta["metavar"]}
    else:
        options |= {"type": kind, "metavar": meta.get("metavar", "N" if is_number else "TEXT")}
    group.add_argument(_flag(meta.get("flag", item.name)), **options)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _ids(text: str) -> tuple[int, ...]:
    return tuple(token_ids(text))


def _biases(text: str) -> tuple[tuple[int, float], ...]:
    """15=-100,7=2.5 as pairs."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return tuple((int(token), float(bias)) for token, bias in pairs)
    except ValueError:
        raise UsageError(f"logit_bias must have the form ID=BIAS,ID=BIAS, got {text!r}", subject="logit_bias") from None


def _kernels(rules: list[str]) -> Mapping[str, tuple[str, ...]]:
    """--kernels rms_norm=acme.*,reference as {"rms_norm": ("acme.*", "reference")}."""
    found = {}
    for rule in rules:
        name, sign, providers = rule.partition("=")
        if not sign or not name or not providers:
            raise UsageError(
                f"--kernels must have the form operation=provider,provider, got {rule!r}", subject="kernels"
            )
        found[name] = tuple(providers.split(","))
    return found

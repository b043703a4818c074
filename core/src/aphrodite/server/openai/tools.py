"""Tools that a request brings: checked before anything is done with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aphrodite.server.body import Limits
from aphrodite.server.errors import ApiError, invalid
from aphrodite.types.shown import shown

_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_MAX_PATTERN = 1000


def checked_tools(
    value: Any, limits: Limits, *, at: str = ".function", schema: str = "parameters"
) -> list[Mapping[str, Any]] | None:
    """Tools, or None for none. ApiError names the first that is wrong as tools[i].

    at      where in a tool the caller writes what it says of its function
    schema  what it calls the function's parameters
    """
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise invalid("tools", f"tools must be a list, got {shown(value)}")
    if len(value) > limits.num_tools:
        where = f"tools[{limits.num_tools}]"
        raise invalid(where, f"{where} is one too many: there may be {limits.num_tools} tools, got {len(value)}")
    names: set[str] = set()
    for place, tool in enumerate(value):
        where = f"tools[{place}]"
        name = _checked(tool, where, limits, at, schema)
        if name in names:
            raise _wrong(f"{where}{at}.name", f"is {shown(name)}, which another tool has already")
        names.add(name)
    return value


def check_choice(value: Any, tools: list[Mapping[str, Any]] | None) -> bool:
    """Whether the model may call tools: tool_choice "auto" or "none". ApiError for what would have to be enforced."""
    if value is None or value == "auto":
        return True
    if value == "none":
        return False
    if isinstance(value, dict):
        kind = value.get("type", "function")
        if kind != "function":
            raise invalid(
                "tool_choice",
                f"tool_choice of type {shown(kind)} is not supported: use auto or none",
                "unsupported_parameter",
            )
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
        if not any(tool["function"]["name"] == name for tool in tools or ()):
            raise invalid("tool_choice", f"tool_choice names {shown(name)}, which is none of the tools")
        raise invalid(
            "tool_choice",
            "tool_choice that names a tool is not supported yet: use auto or none",
            "unsupported_parameter",
        )
    if value == "required":
        raise invalid(
            "tool_choice", "tool_choice required is not supported yet: use auto or none", "unsupported_parameter"
        )
    raise invalid("tool_choice", f"tool_choice must be auto, none, required or a tool, got {shown(value)}")


def _checked(tool: Any, where: str, limits: Limits, at: str, schema: str) -> str:
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        form = '"function": ...' if at else '"name": ..., "parameters": ...'
        raise _wrong(where, f'must be {{"type": "function", {form}}}, got {shown(tool)}')
    function = tool.get("function")
    if not isinstance(function, dict):
        raise _wrong(f"{where}.function", f"must be an object, got {shown(function)}")
    name = function.get("name")
    if not isinstance(name, str) or len(name) > limits.name_chars or not _NAME.fullmatch(name):
        raise _wrong(
            f"{where}{at}.name", f"must be 1 to {limits.name_chars} letters, digits and _.:-, got {shown(name)}"
        )
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise _wrong(f"{where}{at}.description", f"must be a text, got {shown(description)}")
    parameters = function.get("parameters")
    if parameters is not None:
        _check_schema(parameters, f"{where}{at}.{schema}")
    return name


def _check_schema(schema: Any, where: str) -> None:
    """The parts of a JSON schema that can be wrong in a way that everybody calls wrong."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise _wrong(where, "must be an object")
    kind = schema.get("type")
    for one in kind if isinstance(kind, list) else () if kind is None else (kind,):
        if one not in _TYPES:
            raise _wrong(f"{where}.type", f"must be one of {', '.join(_TYPES)}, got {shown(one)}")
    pattern = schema.get("pattern")
    if pattern is not None:
        _check_pattern(pattern, f"{where}.pattern")
    properties = schema.get("properties")
    if properties is not None:
        if not isinstance(properties, dict):
            raise _wrong(f"{where}.properties", "must be an object")
        for name, inner in properties.items():
            _check_schema(inner, f"{where}.properties.{name[:64]}")
    for name in ("items", "additionalProperties", "not"):
        if name in schema:
            _check_schema(schema[name], f"{where}.{name}")
    for name in ("anyOf", "oneOf", "allOf"):
        inner = schema.get(name, [])
        if not isinstance(inner, list):
            raise _wrong(f"{where}.{name}", "must be a list")
        for place, one in enumerate(inner):
            _check_schema(one, f"{where}.{name}[{place}]")


def _check_pattern(pattern: Any, where: str) -> None:
    if not isinstance(pattern, str) or len(pattern) > _MAX_PATTERN:
        raise _wrong(where, f"must be a text of at most {_MAX_PATTERN} characters")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        raise _wrong(where, "is no regular expression") from None


def _wrong(where: str, what: str) -> ApiError:
    return invalid(where, f"{where} {what}")

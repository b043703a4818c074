"""The environment that chat templates are rendered in: the one of Transformers, within bounds.

The immutable sandbox, trim_blocks, lstrip_blocks, loop controls, `raise_exception`, `strftime_now`, `tojson` that does
not escape HTML, `{% generation %}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from aphrodite.text.sandbox.budget import BUDGET, CALL, STEP, Budget, BudgetError, budget_of
from aphrodite.text.sandbox.costs import pay_braces, pay_function, pay_operator
from aphrodite.text.sandbox.metering import metered, metered_filters, metered_tests, written

_MAX_MESSAGE = 2000
_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        {
            *("capitalize", "casefold", "center", "count", "endswith", "expandtabs", "find", "format", "index"),
            *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric"),
            *("isprintable", "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition"),
            *("removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip"),
            *("split", "splitlines", "startswith", "strip", "swapcase", "title", "upper", "zfill"),
        }
    ),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
}
_NOT_NEEDED = ("forceescape", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")  # costs hard to bound


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment of chat templates. Renders with `render`; templates are made with `from_string`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # nothing is computed when a template is compiled: there is no budget yet
            finalize=written,
        )
        for name in _NOT_NEEDED:
            del self.filters[name]
        self.filters["tojson"] = _tojson
        self.filters = metered_filters(self.filters)
        self.tests = metered_tests(self.tests)
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "namespace": _Namespace,
        }

    def render(self, template: Template, variables: Mapping[str, Any]) -> str:
        """The text. Whatever the template raises; BudgetError for too much work."""
        return template.render({**variables, BUDGET: Budget()})

    def parse_only(self, source: str) -> nodes.Template:
        """A template as it is written, for those who look for something in it."""
        return super()._parse(source, None, None)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = metered(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call from a template, paid for. SecurityError for methods of values that templates have no need of."""
        budget = budget_of(__context)
        budget.spend(CALL + STEP * (len(args) + len(kwargs)))
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        for kind in (str, list, tuple, dict, int, float, bytes):
            if isinstance(owner, kind):
                if method.__name__ not in _METHODS.get(kind, frozenset()):
                    raise SecurityError(f"a template cannot call {kind.__name__}.{method.__name__}")
                if method.__name__ == "format":
                    pay_braces(budget, str(owner), [*args, *kwargs.values()])
                if kind in (list, tuple):
                    budget.weigh(owner)  # its methods compare with all of it
                args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
                pay_function(budget, method.__name__, owner, args, kwargs)
                break
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result can be large, paid for."""
        pay_operator(budget_of(context), operator, left, right)
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """{% generation %} marks what a model wrote, for training; here it is a block like any other."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own way to say it

    def parse(self, parser: Parser) -> nodes.Node:
        """Its body, in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(Namespace):
    """No name with an underscore before it, behind which Python keeps its own."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as Jinja's: `self` may be a name
        self, *rest = args
        names = dict(*rest, **kwargs)
        for name in names:
            _Namespace._check_name(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check_name(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check_name(name: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise SecurityError(f"a name in a namespace must not begin with an underscore, got {name!r}")


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(str(message)[:_MAX_MESSAGE])


def _strftime_now(form: str) -> str:
    if len(form) > 100 or re.search(r"\d", form):
        raise BudgetError("a time format of more than 100 characters, or with widths")
    return datetime.now().strftime(form)

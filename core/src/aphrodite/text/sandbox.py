"""Jinja for chat templates, which come with checkpoints from anywhere: no way out of it, and an end to all work.

The environment is the one that Transformers renders with: the immutable sandbox, trim_blocks, lstrip_blocks, loop
controls, `raise_exception`, `strftime_now`, `tojson` that does not escape HTML, `{% generation %}`. Jinja's sandbox
bounds `range` alone; here every loop step, call, filter, comparison and output is paid for from a budget, before it is
done and by the size of its result, so that a rendering ends in seconds and within bounded memory, by count and not by
clock: the same messages render or fail alike on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.environment import Template
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_WORK = 1 << 26  # units: a character or element made is one, a step _STEP
MAX_SIZE = 1 << 24  # characters and elements of one value, all that it holds counted each time it is held
_STEP = 64
_CALL = 4 * _STEP
_BUDGET = " budget"  # a variable's name that no template can spell
_MAX_BITS = 4096
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
_COMPARING = frozenset({"dictsort", "groupby", "index", "max", "min", "sort", "unique"})
_QUICK = frozenset({"count", "d", "default", "first", "last", "length"})
_COSTLY_TESTS = ("in", "eq", "equalto", "ne", "lt", "lessthan", "le", "gt", "greaterthan", "ge", "upper", "lower")
_NOT_NEEDED = ("forceescape", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")  # costs hard to bound
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(?:\d{4}|\{)")


class BudgetError(Exception):
    """A rendering that would take more work or memory than it may."""


class Budget:
    """What is left of a rendering's work."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def spend(self, units: int) -> None:
        """Pay. BudgetError if too little is left."""
        self._left -= units
        if self._left < 0:
            raise BudgetError(f"rendering takes more than {MAX_WORK} units of work")

    def weigh(self, value: Any) -> int:
        """The characters that a value has when written, about; pays for looking at it."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, range):
            return 8 * len(value)
        self.spend(_STEP)
        if isinstance(value, Mapping):
            size = sum(self.weigh(key) + self.weigh(item) + 4 for key, item in value.items())
        elif isinstance(value, (list, tuple, set, frozenset)):
            size = sum(self.weigh(item) + 2 for item in value)
        elif isinstance(value, int):
            return value.bit_length() // 3 + 5
        elif value is None or isinstance(value, (float, Undefined)):
            return 24
        else:
            raise SecurityError(f"a template cannot write a {type(value).__name__}")
        if size > MAX_SIZE:
            raise BudgetError(f"a value of more than {MAX_SIZE} characters")
        return size

    def looked_at(self, value: Any) -> Any:
        """A value that is compared or made of others: paid for."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.weigh(value)
        return value

    def made(self, value: Any) -> Any:
        """What a call or filter gave: paid for, or to be paid for as it is read."""
        if isinstance(value, (str, list, tuple, dict)):
            self.spend(len(value))
        elif isinstance(value, Iterator):
            return self._read(value)
        return value

    def _read(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(_STEP)
            yield item

    def check(self, name: str, owner: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Pay for a method of a value or a filter, as much as its result can be larger than what it reads."""
        if isinstance(owner, str):
            self.spend(len(owner))
        elif name in _COMPARING and isinstance(owner, (list, tuple, dict, range)):
            self.weigh(owner)
            self.spend(_CALL * len(owner))
        elif isinstance(owner, (list, tuple, range)) and name not in _QUICK:
            self.spend(len(owner))
        every = [*args, *kwargs.values()]
        numbers = [abs(arg) for arg in every if isinstance(arg, int)]
        if any(number > MAX_SIZE for number in numbers) and name != "default":
            raise BudgetError(f"{name} with {max(numbers)}")
        if name in ("center", "ljust", "rjust", "zfill", "batch", "slice", "expandtabs", "indent", "truncate"):
            lines = 1 + (owner.count("\n") + owner.count("\t") if isinstance(owner, str) else 0)
            self.spend((sum(numbers) + sum(len(arg) for arg in every if isinstance(arg, str))) * lines)
        elif name == "replace" and len(every) >= 2:
            self.spend(str(owner).count(str(every[0])) * self.weigh(every[1]))
        elif name == "join":
            text, items = (owner, every[:1]) if isinstance(owner, str) and every else ("", [owner, *every])
            count = sum(len(item) for item in items if isinstance(item, (list, tuple, dict, str)))
            glue = max([len(text), *(len(item) for item in every if isinstance(item, str))])
            self.spend(sum(map(self.weigh, items)) + glue * count)
        elif name in ("tojson", "string", "escape", "e", "urlencode"):
            others = sum(self.weigh(arg) for arg in every if not isinstance(arg, int))
            self.spend(self.weigh(owner) * (8 + sum(numbers) + others))
        elif name == "round" and any(number > 100 for number in numbers):
            raise BudgetError(f"round with {max(numbers)}")
        elif name == "sum" and not all(isinstance(arg, (int, float, str)) or arg is None for arg in every):
            raise BudgetError("sum of what are no numbers")

    def check_format(self, text: str, values: Any, wide: re.Pattern[str], mark: str) -> None:
        """Pay for a format, by all values at all its fields."""
        if wide.search(text):
            raise BudgetError("a format with a field of 1000 characters or more")
        self.spend(len(text) + text.count(mark) * (1000 + self.weigh(values)))


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment of chat templates. Renders with `render`; templates are made with `from_string`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # nothing is computed when a template is compiled: there is no budget yet
            finalize=_written,
        )
        for name in _NOT_NEEDED:
            del self.filters[name]
        self.filters["tojson"] = _tojson
        self.filters = {name: _guarded(name, function) for name, function in self.filters.items()}
        costly = [name for name in self.tests if name in _COSTLY_TESTS or not name.isidentifier()]
        self.tests |= {name: _paid_test(self.tests[name]) for name in costly}
        self.filters |= {"#loop": _loop, "#concat": _concat, "#look": _look, "#search": _search}
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "namespace": _Namespace,
        }

    def render(self, template: Template, variables: Mapping[str, Any]) -> str:
        """The text. Whatever the template raises; BudgetError for too much work."""
        return template.render({**variables, _BUDGET: Budget()})

    def parse_only(self, source: str) -> nodes.Template:
        """A template as it is written, for those who look for something in it."""
        return super()._parse(source, None, None)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Metered().visit(tree)
        tree.set_environment(self)
        return tree

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call from a template, paid for. SecurityError for methods of values that templates have no need of."""
        budget = _budget(__context)
        budget.spend(_CALL + _STEP * (len(args) + len(kwargs)))
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        for kind in (str, list, tuple, dict, int, float, bytes):
            if isinstance(owner, kind):
                if method.__name__ not in _METHODS.get(kind, frozenset()):
                    raise SecurityError(f"a template cannot call {kind.__name__}.{method.__name__}")
                if method.__name__ == "format":
                    budget.check_format(str(owner), [*args, *kwargs.values()], _WIDE_BRACES, "{")
                if kind in (list, tuple):
                    budget.weigh(owner)  # its methods compare with all of it
                args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
                budget.check(method.__name__, owner, args, kwargs)
                break
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result can be large, paid for."""
        budget = _budget(context)
        budget.spend(_STEP)
        both = (left, right)
        sizes = [len(value) for value in both if isinstance(value, (str, list, tuple))]
        if not sizes and any(isinstance(value, int) and value.bit_length() > _MAX_BITS for value in both):
            raise BudgetError(f"a number of more than {_MAX_BITS} bits")
        if operator == "+" and sizes:
            budget.spend(sum(sizes))
        elif operator == "%" and isinstance(left, str):
            budget.check_format(left, right, _WIDE_PERCENT, "%")
        elif operator == "*" and sizes:
            budget.spend(sizes[0] * max((value for value in both if isinstance(value, int)), default=0))
        elif operator in ("*", "**") and all(isinstance(value, int) for value in both):
            bits = left.bit_length()
            if (bits * right if operator == "**" else bits + right.bit_length()) > _MAX_BITS:
                raise BudgetError(f"a number of more than {_MAX_BITS} bits")
        return super().call_binop(context, operator, left, right)


def _budget(context: Context) -> Budget:
    budget: Budget = context.parent[_BUDGET]
    return budget


class _Metered(NodeTransformer):
    """Puts a filter that pays at what Jinja offers no hook for."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """A step of the loop."""
        self.generic_visit(node)
        node.iter = _through("#loop", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """a ~ b."""
        self.generic_visit(node)
        return _through("#concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Equality and order look at all of both sides, `in` at all of a text or list."""
        self.generic_visit(node)
        searches = all(operand.op.endswith("in") for operand in node.ops)  # in, and not in
        name = "#search" if searches else "#look"
        node.expr = _through(name, node.expr)
        for operand in node.ops:
            operand.expr = _through(name, operand.expr)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        """A list made of others."""
        self.generic_visit(node)
        return _through("#look", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """A mapping made of others."""
        self.generic_visit(node)
        return _through("#look", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """A tuple made of others; not one of names to assign to."""
        self.generic_visit(node)
        return _through("#look", node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """A slice."""
        self.generic_visit(node)
        return _through("#look", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        """The template's own text, written like any other."""
        return nodes.Const(node.data, lineno=node.lineno)


def _through(name: str, value: nodes.Node) -> nodes.Filter:
    assert isinstance(value, nodes.Expr)
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


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


# ---- what templates call --------------------------------------------------------------------------------------------


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays. That it takes the context also keeps Jinja from computing it while it compiles."""
    kind = getattr(function, "jinja_pass_arg", None)  # an enum of Jinja's: what it wants before the value

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(context)
        budget.spend(_STEP)
        if isinstance(value, Iterator) and name in ("join", "tojson", "string"):
            value = list(value)
        if name == "format":
            budget.check_format(str(value), kwargs or args, _WIDE_PERCENT, "%")
        budget.check(name, value, args, kwargs)
        wanted = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        before = [] if kind is None else [wanted[kind.name]]
        return budget.made(function(*before, value, *args, **kwargs))

    return run


def _paid_test(test: Any) -> Callable[..., bool]:
    """A test that compares: both sides are paid for."""

    @pass_context
    def run(context: Context, value: Any, *args: Any) -> bool:
        budget = _budget(context)
        budget.spend(_STEP)
        for side in (value, *args):
            budget.looked_at(side)
        answer: bool = test(value, *args)
        return answer

    return run


@pass_context
def _loop(context: Context, items: Iterable[Any]) -> Iterable[Any]:
    return _Steps(_budget(context), items)


class _Steps:
    """What a loop runs over, paid for at each step; it has a length if that has one."""

    def __init__(self, budget: Budget, items: Iterable[Any]) -> None:
        self._budget = budget
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.spend(_STEP)
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # TypeError, as from a generator itself


@pass_context
def _concat(context: Context, parts: Sequence[Any]) -> str:
    budget = _budget(context)
    budget.spend(_STEP + sum(map(budget.weigh, parts)))
    return "".join(map(str, parts))


@pass_context
def _look(context: Context, value: Any) -> Any:
    return _budget(context).looked_at(value)


@pass_context
def _search(context: Context, value: Any) -> Any:
    return value if isinstance(value, dict) else _budget(context).looked_at(value)


@pass_context
def _written(context: Context, value: Any) -> Any:
    """What an output writes."""
    budget = _budget(context)
    budget.spend(_STEP + budget.weigh(value))
    return value


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

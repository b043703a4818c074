"""Where templates pay: at filters and tests, which are wrapped, and at syntax, into which filters that pay are put."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from aphrodite.text.sandbox.budget import STEP, Budget, budget_of
from aphrodite.text.sandbox.costs import pay_function, pay_percent

_COSTLY_TESTS = ("in", "eq", "equalto", "ne", "lt", "lessthan", "le", "gt", "greaterthan", "ge", "upper", "lower")


def metered(tree: nodes.Template) -> nodes.Template:
    """A template whose loops, comparisons and literals pay, through `metered_filters`. Changes the tree."""
    _Metered().visit(tree)
    return tree


def metered_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """These filters, each of which pays, and those that stand in a metered tree, whose names no template can spell."""
    paid = {name: _paid_filter(name, function) for name, function in filters.items()}
    return {**paid, "#loop": _loop, "#concat": _concat, "#look": _look, "#search": _search}


def metered_tests(tests: Mapping[str, Any]) -> dict[str, Any]:
    """These tests, of which those pay that compare."""
    costly = [name for name in tests if name in _COSTLY_TESTS or not name.isidentifier()]
    return {**tests, **{name: _paid_test(tests[name]) for name in costly}}


@pass_context
def written(context: Context, value: Any) -> Any:
    """What an output writes."""
    budget = budget_of(context)
    budget.spend(STEP + budget.weigh(value))
    return value


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


def _paid_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays. That it takes the context also keeps Jinja from computing it while it compiles."""
    kind = getattr(function, "jinja_pass_arg", None)  # an enum of Jinja's: what it wants before the value

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        budget.spend(STEP)
        if isinstance(value, Iterator) and name in ("join", "tojson", "string"):
            value = list(value)
        if name == "format":
            pay_percent(budget, str(value), kwargs or args)
        pay_function(budget, name, value, args, kwargs)
        wanted = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        before = [] if kind is None else [wanted[kind.name]]
        return budget.made(function(*before, value, *args, **kwargs))

    return run


def _paid_test(test: Any) -> Callable[..., bool]:
    """A test that compares: both sides are paid for."""

    @pass_context
    def run(context: Context, value: Any, *args: Any) -> bool:
        budget = budget_of(context)
        budget.spend(STEP)
        for side in (value, *args):
            budget.looked_at(side)
        answer: bool = test(value, *args)
        return answer

    return run


@pass_context
def _loop(context: Context, items: Iterable[Any]) -> Iterable[Any]:
    return _Steps(budget_of(context), items)


class _Steps:
    """What a loop runs over, paid for at each step; it has a length if that has one."""

    def __init__(self, budget: Budget, items: Iterable[Any]) -> None:
        self._budget = budget
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.spend(STEP)
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # TypeError, as from a generator itself


@pass_context
def _concat(context: Context, parts: Sequence[Any]) -> str:
    budget = budget_of(context)
    budget.spend(STEP + sum(map(budget.weigh, parts)))
    return "".join(map(str, parts))


@pass_context
def _look(context: Context, value: Any) -> Any:
    return budget_of(context).looked_at(value)


@pass_context
def _search(context: Context, value: Any) -> Any:
    return value if isinstance(value, dict) else budget_of(context).looked_at(value)

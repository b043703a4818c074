"""Broken plugins: each is reported alone, with its state and reason, and whatever else was found is registered."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aphrodite.discovery.discover import Discovery, Found, PluginReport, discover, find
from aphrodite.discovery.hooks import CONTRACT
from aphrodite.ops.constraints import C
from aphrodite.ops.kernel import Kernel
from aphrodite.ops.table import COMPOSITES, OPS
from aphrodite.plugin import DeviceInfo, KVLayout, Limits, Unavailable, WeightLayout, hookimpl

SCHEMAS = {name: x.schema for name, x in {**OPS, **COMPOSITES}.items()}


@dataclass(frozen=True)
class Entry:
    """An entry point that loads what it is given."""

    load: Callable[[], object]


def bind(binding: Any) -> Any:
    return lambda dims: None


def add(res: Any, x: Any) -> None:
    res.add_(x)


class Plugin(SimpleNamespace):
    """A sound plugin for one device, its hooks replaced by those given; None leaves one out."""

    def __init__(self, name: str, **hooks: Any) -> None:
        @hookimpl
        def aphrodite_probe() -> Any:
            return [DeviceInfo(f"{name}dev", "a device")]

        @hookimpl
        def aphrodite_platforms(reg: Any) -> None:
            reg.platform(f"{name}dev", lambda info: None)

        @hookimpl
        def aphrodite_kernels(reg: Any, device: DeviceInfo) -> None:
            reg.kernel(Kernel("add@1", f"{name}.add", fn=add))

        sound = {
            "aphrodite_probe": aphrodite_probe,
            "aphrodite_platforms": aphrodite_platforms,
            "aphrodite_kernels": aphrodite_kernels,
        }
        merged = {**sound, **hooks}
        super().__init__(**{hook: body for hook, body in merged.items() if body is not None})


def found(name: str, plugin: object = None, *, contract: str | None = CONTRACT, dist: str = "") -> Found:
    def load() -> object:
        return plugin() if isinstance(plugin, type) else Plugin(name) if plugin is None else plugin

    return Found(name, Entry(load), dist or f"aphrodite-{name}", "1.2", contract)  # type: ignore[arg-type]


def load(*items: Found, policy: str = "") -> Discovery:
    return discover(SCHEMAS, policy=policy, env={"NEST": "oak"}, found=items)


def one(**hooks: Any) -> PluginReport:
    """The report of a plugin "bad" with these hooks, between two sound ones that must not notice."""
    return judge(found("bad", Plugin("bad", **hooks)))


def judge(bad: Found) -> PluginReport:
    done = load(found("aaa"), bad, found("zzz"))
    first, report, last = done.reports
    assert (first.state, last.state) == ("ready", "ready") and report.name == bad.name
    registry = done.registry
    if report.state == "ready":
        assert bad.name in [entry.plugin for entry in registry.platforms]
    else:
        assert [entry.plugin for entry in registry.platforms] == ["aaa", "zzz"]
        assert set(registry.kernels) == {"aaadev", "zzzdev"}
        assert set(registry.kv_layouts) == {"nhd", "hnd", "latent"} and set(registry.weight_layouts) == {"plain"}
        assert report.devices == () and report.kernels == ()
    assert [k.provider for k in registry.kernels["aaadev"]] == ["aaa.add"]
    return report


def raising(error: BaseException, *arguments: str) -> Any:
    """A hook that raises, taking these arguments."""
    namespace: dict[str, Any] = {"error": error}
    source = f"def hook({', '.join(arguments)}):\n    raise error\n"
    exec(source, namespace)  # noqa: S102 - the arguments of a hook are its contract
    return hookimpl(namespace["hook"])


def test_a_sound_plugin_is_ready_with_its_devices_and_kernels() -> None:
    report = one()
    assert report == PluginReport(
        "bad", "aphrodite-bad", "1.2", CONTRACT, "ready",
        devices=(DeviceInfo("baddev", "a device"),), kernels=("bad.add",),
    )  # fmt: skip


# ---- raising --------------------------------------------------------------------------------------------------------


class Hostile(Exception):
    """An exception that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")


class Panic(BaseException):
    """What extensions written in Rust raise when they panic: no Exception."""


ERRORS = [
    (ImportError("libacme.so.1: no such file"), "ImportError: libacme.so.1: no such file"),
    (ValueError("first line\nthe last line"), "ValueError: the last line"),
    (SystemExit("no licence"), "SystemExit: no licence"),
    (RuntimeError(), "RuntimeError"),
    (Hostile(), "Hostile"),
    (Panic("index out of bounds"), "Panic: index out of bounds"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "line"), ERRORS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        ("aphrodite_probe", ["env"]),
        ("aphrodite_platforms", ["reg"]),
        ("aphrodite_kernels", ["reg", "device"]),
        ("aphrodite_limits", ["device"]),
    ],
)
def test_a_hook_that_raises_fails_its_plugin_alone(
    hook: str, arguments: list[str], error: BaseException, line: str
) -> None:
    report = one(**{hook: raising(error, *arguments)})
    assert (report.state, report.reason) == ("failed", f"{hook}: {line}")


def test_an_interrupt_that_no_user_made_is_the_plugins_own_failure() -> None:
    """Python tells of Ctrl-C in the main thread alone, and engines are built on others."""
    reports: list[PluginReport] = []
    hook = raising(KeyboardInterrupt(), "env")
    thread = threading.Thread(target=lambda: reports.append(one(aphrodite_probe=hook)))
    thread.start()
    thread.join()
    assert [(report.state, report.reason) for report in reports] == [("failed", "aphrodite_probe: KeyboardInterrupt")]


@pytest.mark.parametrize(("error", "line"), ERRORS, ids=lambda x: type(x).__name__)
def test_a_plugin_that_raises_while_it_is_imported(error: BaseException, line: str) -> None:
    def loader() -> object:
        raise error

    report = judge(Found("bad", Entry(loader), "aphrodite-bad", "1.2", CONTRACT))  # type: ignore[arg-type]
    assert (report.state, report.reason) == ("failed", f"import: {line}")


def test_a_keyboard_interrupt_is_the_users_and_goes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        one(aphrodite_probe=raising(KeyboardInterrupt()))


def test_what_was_registered_before_a_hook_raised_is_rolled_back() -> None:
    @hookimpl
    def aphrodite_kernels(reg: Any, device: DeviceInfo) -> None:
        reg.kernel(Kernel("add@1", "bad.add", fn=add))
        reg.kv_layout(KVLayout("badkv", ("head", "kv", "block", "token", "dim")))
        reg.weight_layout(WeightLayout("badw", lambda n, k: (n, k)))
        raise OSError("in the middle")

    assert one(aphrodite_kernels=aphrodite_kernels).reason == "aphrodite_kernels: OSError: in the middle"


# ---- hooks that are not the contract's ------------------------------------------------------------------------------


def test_a_wrong_signature_names_the_hook_and_the_argument() -> None:
    @hookimpl
    def aphrodite_probe(environment: Any) -> Any:
        return []

    report = one(aphrodite_probe=aphrodite_probe)
    assert report.state == "failed" and report.reason.startswith("import: PluginValidationError")
    assert "environment" in report.reason


def test_an_unknown_hook_is_named() -> None:
    @hookimpl
    def aphrodite_kernel(reg: Any) -> None: ...

    report = one(aphrodite_kernel=aphrodite_kernel)
    assert report.state == "failed" and "aphrodite_kernel" in report.reason


@pytest.mark.parametrize("hook", ["aphrodite_probe", "aphrodite_platforms"])
def test_a_required_hook_that_is_not_marked_or_not_there(hook: str) -> None:
    def unmarked(reg: Any) -> Any:
        return []

    for body in (unmarked, None):
        report = one(**{hook: body})
        assert report.state == "failed"
        assert report.reason == f"import: PluginError: {hook} is not implemented (is it marked @hookimpl?)"


def test_kernels_and_limits_may_be_left_out() -> None:
    report = one(aphrodite_kernels=None)
    assert report.state == "ready" and report.kernels == ()


def test_provisional_hooks_are_noted_and_not_called() -> None:
    report = one(aphrodite_models=raising(AssertionError("called"), "reg"))
    assert report.state == "ready" and report.notes == ("aphrodite_models is provisional: this core does not call it",)


def test_a_probe_may_ask_for_the_environment_and_gets_a_copy() -> None:
    seen: list[dict[str, str]] = []

    @hookimpl
    def aphrodite_probe(env: dict[str, str]) -> Any:
        seen.append(env)
        return Unavailable(f"nest is {env['NEST']}", "buy one")

    report = one(aphrodite_probe=aphrodite_probe)
    assert (report.state, report.reason, report.hint) == ("unavailable", "nest is oak", "buy one")
    assert seen == [{"NEST": "oak"}]


# ---- contracts and names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract", ["v0_2", "v1_0", "nonsense", ""])
def test_another_contract_is_incompatible_and_is_not_imported(contract: str) -> None:
    def loader() -> object:
        raise AssertionError("imported")

    report = judge(Found("bad", Entry(loader), "aphrodite-bad", "1.2", contract))  # type: ignore[arg-type]
    assert report.state == "incompatible"
    assert f"speaks contract {contract.removeprefix('v').replace('_', '.')}, this core speaks 0.1" == report.reason
    assert "aphrodite-bad" in report.hint


def test_no_contract_at_all_says_how_to_declare_one() -> None:
    report = judge(found("bad", contract=None))
    assert report.state == "incompatible" and report.reason == "declares no contract; this core speaks 0.1"
    assert report.hint == 'its author adds an entry point bad = "v0_1" in aphrodite.contract'


def test_of_two_plugins_with_one_name_the_first_stays() -> None:
    done = load(found("acme", dist="acme-one"), found("acme", dist="acme-two"), found("zzz"))
    assert [(r.distribution, r.state) for r in done.reports] == [
        ("acme-one", "ready"), ("acme-two", "failed"), ("aphrodite-zzz", "ready"),
    ]  # fmt: skip
    assert "another distribution brings a plugin named 'acme'" in done.reports[1].reason and done.reports[1].hint
    assert [entry.plugin for entry in done.registry.platforms] == ["acme", "zzz"]


@pytest.mark.parametrize(
    ("policy", "ready"),
    [
        ("", ["a", "b", "c"]),
        ("none", []),
        ("a,b", ["a", "b"]),
        (" a , b ,", ["a", "b"]),
        ("-a", ["b", "c"]),
        ("-a,-c", ["b"]),
        ("a,b,-b", ["a"]),
        ("nobody", []),
        ("none,a", []),
    ],
)
def test_the_policy_allows_and_denies(policy: str, ready: list[str]) -> None:
    done = load(found("a"), found("b"), found("c"), policy=policy)
    assert [r.name for r in done.reports if r.state == "ready"] == ready
    for report in done.reports:
        if report.name not in ready:
            assert report.state == "disabled" and repr(policy) in report.reason


# ---- answers that are nonsense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (None, "failed", "got None"),
        (["baddev"], "failed", "must return a list of DeviceInfo or Unavailable"),
        (DeviceInfo("baddev", "x"), "failed", "got DeviceInfo"),
        ({"device": "baddev"}, "failed", "got {'device': 'baddev'}"),
        (42, "failed", "got 42"),
        ([], "unavailable", "the probe found no device"),
        ("", "failed", "got ''"),
        ([DeviceInfo("baddev", "x"), DeviceInfo("other", "y")], "failed", "no platform registered for other"),
    ],
)
def test_a_probe_that_answers_nonsense(answer: Any, state: str, reason: str) -> None:
    report = one(aphrodite_probe=hookimpl(lambda: answer))
    assert report.state == state and reason in report.reason


def test_a_platform_for_a_device_that_was_not_probed() -> None:
    @hookimpl
    def aphrodite_platforms(reg: Any) -> None:
        reg.platform("imaginary", lambda info: None)

    report = one(aphrodite_platforms=aphrodite_platforms)
    assert "platform for 'imaginary', but the probe named baddev" in report.reason and report.state == "failed"


def test_limits_must_be_limits_and_replace_the_platforms_own() -> None:
    report = one(aphrodite_limits=hookimpl(lambda device: {"block_sizes": (16,)}))
    assert report.state == "failed" and "must return Limits, got dict" in report.reason
    mine = Limits(block_sizes=(7,))
    done = load(found("bad", Plugin("bad", aphrodite_limits=hookimpl(lambda device: mine))))
    assert done.registry.platforms[0].limits == mine
    done = load(found("bad", Plugin("bad", aphrodite_limits=hookimpl(lambda device: None))))
    assert done.registry.platforms[0].limits is None


# ---- kernels --------------------------------------------------------------------------------------------------------


def kernels(*made: Any) -> Any:
    @hookimpl
    def aphrodite_kernels(reg: Any, device: DeviceInfo) -> None:
        for kernel in made:
            reg.kernel(kernel)
        reg.kernel(Kernel("rms_norm@1", "bad.last", bind=bind))

    return aphrodite_kernels


def wrong_names(res: Any, y: Any) -> None: ...


def too_many(res: Any, x: Any, more: Any) -> None: ...


def anything(**arguments: Any) -> None: ...


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (Kernel("softmax@1", "bad.k", fn=add), "operation 'softmax@1' is unknown to this core"),
        (Kernel("add@2", "bad.k", fn=add), "operation 'add@2' is unknown to this core; this core has add@1"),
        (Kernel("add", "bad.k", fn=add), "operation 'add' is unknown to this core; this core has add@1 (no @version)"),
        (Kernel("add@1", "bad.k", fn=add, bind=bind), "exactly one of bind and fn must be given"),
        (Kernel("add@1", "bad.k"), "exactly one of bind and fn must be given"),
        (Kernel("add@1", "bad.k", fn=wrong_names), "its function takes y, which"),
        (Kernel("add@1", "bad.k", fn=too_many), "its function takes more, which"),
        (Kernel("rms_norm@1", "bad.k", fn=add), "its function takes res, which"),
        (Kernel("add@1", "bad.k", fn=anything), "its function takes arguments, which"),
        (Kernel("add@1", "bad.k", fn=add, where=C(K=64)), "constraint on K; add@1 has "),
        (Kernel("add@1", "bad.k", fn=add, where=C(features={"bias"})), "feature bias; add@1 has none"),
        (Kernel("attn_paged@1", "bad.k", bind=bind, where=C(features={"alibi"})), "feature alibi; attn_paged@1 has "),
        (Kernel("gate_up_act@1", "bad.k", bind=bind, where=C(T=3)), "constraint on T; gate_up_act@1 has "),
        (Kernel("add@1", "bad.k", fn=max), "its function"),
    ],
)
def test_a_kernel_that_disagrees_with_its_operation_is_dropped_alone(kernel: Kernel, reason: str) -> None:
    report = one(aphrodite_kernels=kernels(kernel))
    assert report.state == "ready" and report.kernels == ("bad.last",)
    ((provider, why),) = report.dropped
    assert provider == "bad.k" and reason in why


@pytest.mark.parametrize(
    "kernel",
    [
        Kernel("add@1", "bad.k", fn=add, where=C(T=1, H=2, A="f32", layout="nhd", arch="x", weights="plain")),
        Kernel("add@1", "bad.k", fn=add, where=C(dtype="f32")),
        Kernel("attn_paged@1", "bad.k", bind=bind, where=C(S=1, max_q=1, max_k=1, window=0, features={"sinks", "lse"})),
        Kernel("attn_plan@1", "bad.k", bind=bind, where=C(S=1, P=8)),
        Kernel("gate_up_act@1", "bad.k", bind=bind, where=C(M=3, I=4, kind="silu", features={"bias"})),
    ],
)  # fmt: skip
def test_constraints_may_name_sizes_attributes_and_the_global_keys(kernel: Kernel) -> None:
    report = one(aphrodite_kernels=kernels(kernel))
    assert report.kernels == ("bad.k", "bad.last") and report.dropped == ()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ([Kernel("add@1", "acme.add", fn=add)], "provider 'acme.add' must start with 'bad.'"),
        ([Kernel("add@1", "add", fn=add)], "provider 'add' must start with 'bad.'"),
        ([Kernel("add@1", "bad.k", fn=add), Kernel("rms_norm@1", "bad.k", bind=bind)], "'bad.k' is registered twice"),
    ],
)
def test_a_provider_that_can_never_be_right_fails_the_plugin(made: Sequence[Kernel], reason: str) -> None:
    report = one(aphrodite_kernels=kernels(*made))
    assert (
        report.state == "failed"
        and reason in report.reason
        and report.reason.startswith("aphrodite_kernels: PluginError")
    )


def layouts(kv: str, weight: str) -> Any:
    @hookimpl
    def aphrodite_kernels(reg: Any, device: DeviceInfo) -> None:
        reg.kv_layout(KVLayout(kv, ("head", "kv", "block", "token", "dim")))
        reg.weight_layout(WeightLayout(weight, lambda n, k: (k, n)))

    return aphrodite_kernels


@pytest.mark.parametrize(
    ("kv", "weight", "reason"),
    [
        ("nhd", "w2", "KV layout 'nhd' is already registered"),
        ("kv2", "plain", "weight layout 'plain' is already registered"),
        ("kv1", "w2", "KV layout kv1 belongs to another plugin"),
        ("kv2", "w1", "weight layout w1 belongs to another plugin"),
    ],
)
def test_a_layouts_name_belongs_to_whoever_came_first(kv: str, weight: str, reason: str) -> None:
    first = found("one", Plugin("one", aphrodite_kernels=layouts("kv1", "w1")))
    done = load(first, found("two", Plugin("two", aphrodite_kernels=layouts(kv, weight))), found("zzz"))
    assert [r.state for r in done.reports] == ["ready", "failed", "ready"] and reason in done.reports[1].reason
    assert set(done.registry.kv_layouts) == {"nhd", "hnd", "latent", "kv1"}
    assert set(done.registry.weight_layouts) == {"plain", "w1"}
    assert [entry.plugin for entry in done.registry.platforms] == ["one", "zzz"]


def test_kernels_belong_to_the_device_they_were_registered_for() -> None:
    @hookimpl
    def aphrodite_probe() -> Any:
        return [DeviceInfo("big", "x"), DeviceInfo("small", "y")]

    @hookimpl
    def aphrodite_platforms(reg: Any) -> None:
        reg.platform("big", lambda info: None, priority=7)
        reg.platform("small", lambda info: None)

    @hookimpl
    def aphrodite_kernels(reg: Any, device: DeviceInfo) -> None:
        reg.kernel(Kernel("add@1", f"bad.{device.device}", fn=add))

    hooks = (aphrodite_probe, aphrodite_platforms, aphrodite_kernels)
    plugin = SimpleNamespace(**{hook.__name__: hook for hook in hooks})
    done = load(found("bad", plugin))
    assert {d: [k.provider for k in ks] for d, ks in done.registry.kernels.items()} == {
        "big": ["bad.big"], "small": ["bad.small"],
    }  # fmt: skip
    assert [entry.priority for entry in done.registry.platforms] == [7, 100]


# ---- a distribution on disk -----------------------------------------------------------------------------------------

MODULE = """
from aphrodite.plugin import DeviceInfo, hookimpl

@hookimpl
def aphrodite_probe():
    return [DeviceInfo("disk", "a device")]

@hookimpl
def aphrodite_platforms(reg):
    reg.platform("disk", lambda info: None)
"""


@pytest.mark.parametrize("contract", ["v0_1", "v9_9", None])
def test_an_installed_distribution_is_found_by_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contract: str | None
) -> None:
    module = f"disk_plugin_{contract or 'none'}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    info = tmp_path / "aphrodite_disk-3.4.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aphrodite-disk\nVersion: 3.4\n")
    lines = ["[aphrodite.plugins]", f"disk = {module}"]
    lines += ["[aphrodite.contract]", f"disk = {contract}"] if contract else []
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = [item for item in find() if item.name == "disk"]
    assert [(i.distribution, i.version, i.contract) for i in mine] == [("aphrodite-disk", "3.4", contract)]
    assert module not in sys.modules, "finding imports nothing"
    done = load(*mine)
    assert done.reports[0].state == ("ready" if contract == "v0_1" else "incompatible")
    assert (module in sys.modules) == (contract == "v0_1"), "what speaks another contract is not imported"
    sys.modules.pop(module, None)


# ---- objects that are not what they should be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (5, "must be a Kernel, got int"),
        (Kernel(5, "bad.k", fn=add), "its op must be str, got 5"),  # type: ignore[arg-type]
        (Kernel("add@1", 7, fn=add), "its provider must be str, got 7"),  # type: ignore[arg-type]
        (Kernel("add@1", "bad.k", fn=add, where={"T": 3}), "its where must be C"),  # type: ignore[arg-type]
        (Kernel("add@1", "bad.k", fn=add, tier="high"), "its tier must be int, got 'high'"),  # type: ignore[arg-type]
        (Kernel("add@1", "bad.k", bind="foo"), "its bind must be callable, got 'foo'"),  # type: ignore[arg-type]
        (Kernel("add@1", "bad.k", fn=add, workspace=8), "its workspace must be callable, got 8"),  # type: ignore[arg-type]
    ],
)
def test_a_kernel_that_is_none_is_dropped_alone(kernel: Any, reason: str) -> None:
    report = one(aphrodite_kernels=kernels(kernel))
    assert report.state == "ready" and report.kernels == ("bad.last",)
    assert reason in report.dropped[0][1]


@pytest.mark.parametrize(("factory", "priority"), [(7, 1), (lambda info: None, "high"), (lambda info: None, True)])
def test_a_platform_needs_a_factory_and_a_number(factory: Any, priority: Any) -> None:
    @hookimpl
    def aphrodite_platforms(reg: Any) -> None:
        reg.platform("baddev", factory, priority=priority)

    report = one(aphrodite_platforms=aphrodite_platforms)
    assert report.state == "failed" and "needs a callable factory and an integer priority" in report.reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_sizes": ()},
        {"block_sizes": (0,)},
        {"block_sizes": 16},
        {"kv_layouts": "nhd"},
        {"dtypes": ("float32",)},
        {"max_logit_rows": 0},
        {"steps_in_flight": -1},
        {"steps_in_flight": 5},
        {"kv_share": 0.0},
        {"kv_share": "1"},
        {"kv_layouts": (5,)},
        {"kv_cap_bytes": 1.5},
        {"kv_cap_bytes": -1},
        {"slow_dtypes": 5},
        {"slow_dtypes": {"f16": None}},
    ],
)
def test_limits_that_make_no_sense_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Limits.{next(iter(wrong))} must be"):
        Limits(**wrong)


@pytest.mark.parametrize("name", ["core", "none", "auto", "-x", "a,b"])
def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    done = load(found("aaa"), found(name))
    report = next(report for report in done.reports if report.name == name)
    assert report.state == "failed" and "means something else" in report.reason


@pytest.mark.parametrize(
    "info",
    [
        *(DeviceInfo(5, "x"), DeviceInfo("", "x"), DeviceInfo("x", None), DeviceInfo("x", "x", arch=80)),  # type: ignore[arg-type]
        *(DeviceInfo("x", "x", total_memory_bytes=-1), DeviceInfo("x", "x", total_memory_bytes=1.5)),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_a_device_is_described_in_texts_and_bytes(info: DeviceInfo) -> None:
    report = one(aphrodite_probe=hookimpl(lambda: [info]))
    assert report.state == "failed" and report.reason.startswith("aphrodite_probe: PluginError: a DeviceInfo")

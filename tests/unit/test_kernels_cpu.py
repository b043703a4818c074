"""The CPU kernels against float64, and what all of them promise: bounds, isolation, stable bits, the lock."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import aphrodite_kernels_cpu as kernels

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
WIDTHS = [1, 7, 8, 9, 63, 100, 1000, 4096]
ROWS = [0, 1, 3, 257]
RED = 123.0  # exact in every dtype
EPS = 1e-6


class Rows:
    """[rows, width] inside a larger buffer: red zones before, between and after the rows, any alignment."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype, *, gap: int, start: int) -> None:
        self.stride, self.start = width + gap, start
        self.buffer = torch.full((64 + start + rows * self.stride + 64,), RED, dtype=dtype)
        self.view = self.buffer.as_strided((rows, width), (self.stride, 1), 64 + start)

    @property
    def address(self) -> int:
        return self.buffer.data_ptr() + (64 + self.start) * self.buffer.element_size()

    def check(self) -> None:
        untouched = self.buffer.clone()
        untouched.as_strided(self.view.shape, self.view.stride(), self.view.storage_offset()).fill_(RED)
        assert torch.all(untouched == RED), "written outside the rows"


def rms_norm(out: Rows, x: Rows, w: Tensor, offset: float, dtype: str) -> None:
    rows, width = x.view.shape
    kernels.rms_norm(
        out.address,
        x.address,
        w.data_ptr(),
        rows,
        width,
        out.stride,
        x.stride,
        EPS,
        offset,
        kernels.DTYPES[dtype],
    )


def act_mul(out: Rows, x: Rows, kind: str, dtype: str) -> None:
    rows, width = out.view.shape
    kernels.act_mul(
        out.address, x.address, rows, width, out.stride, x.stride, kernels.KINDS[kind], kernels.DTYPES[dtype]
    )


def rms_norm_plainly(x: Tensor, w: Tensor, offset: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * (w + offset)


def act_plainly(kind: str, gate: Tensor, up: Tensor) -> Tensor:
    if kind == "silu":
        return F.silu(gate) * up
    if kind == "gelu_erf":
        return F.gelu(gate) * up
    if kind == "gelu_tanh":
        return F.gelu(gate, approximate="tanh") * up
    gate, up = gate.clamp(max=7), up.clamp(-7, 7)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


def act_exactly(kind: str, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, keeping the digits that 1 + erf and 1 + tanh lose; and the argument of the exp inside."""
    if kind == "gelu_erf":
        return gate * 0.5 * torch.special.erfc(-gate / math.sqrt(2)) * up, torch.zeros_like(gate)
    argument = gate
    if kind == "gelu_tanh":
        argument = 2 * math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    if kind == "swiglu_oai":
        gate, up = gate.clamp(max=7), up.clamp(-7, 7) + 1
        argument = 1.702 * gate
    return gate * torch.sigmoid(argument) * up, torch.zeros_like(gate) if kind == "silu" else argument


def assert_near(ours: Tensor, torchs: Tensor, exact: Tensor, argument: Tensor | float = 0.0) -> None:
    """No worse than twice torch's error, and each element within one rounding of a few float32 roundings.

    `argument` is what the formula rounds in float32 before it takes the exp: a relative error there is
    |argument| times as large in the result.
    """
    if not exact.numel():
        return
    info, scale = torch.finfo(ours.dtype), exact.abs().max().item()
    ours_error, torch_error = (ours.double() - exact).abs(), (torchs.double() - exact).abs()
    assert ours_error.max().item() <= 2 * torch_error.max().item() + 0.5 * info.eps * scale
    float32 = torch.finfo(torch.float32)
    float32_error = (8 + 3 * torch.as_tensor(argument).abs()) * float32.eps
    # The smallest numbers: of the result's dtype, and of float32 before the multiplications by gate and up.
    tiny = info.smallest_normal * info.eps + 128 * float32.smallest_normal * float32.eps
    bound = (0.5 * info.eps + float32_error) * exact.abs() + tiny
    assert torch.all(ours_error <= bound), f"{(ours_error / bound).max().item()} times the bound"


def random(shape: tuple[int, ...], dtype: str, seed: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(DTYPES[dtype])


def same_bits(a: Tensor, b: Tensor) -> bool:
    integers = torch.int32 if a.dtype == torch.float32 else torch.int16
    return torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))


@pytest.fixture(autouse=True)
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads through torch, which is how it will be set; restored afterwards.

    One unless a test says otherwise: on a busy machine, two that wait for one another take ten times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_agrees_with_float64(offset: float, dtype: str, width: int) -> None:
    w = random((width + 1,), dtype, 1)[1:]  # unaligned too
    for rows in ROWS:
        data = random((rows, width), dtype, rows, scale=3)
        exact = rms_norm_plainly(data.double(), w.double(), offset)
        torchs = F.rms_norm(data, (width,), w + offset, EPS)
        for gap, start in ((0, 0), (5, 1)):
            x = Rows(rows, width, DTYPES[dtype], gap=gap, start=start)
            out = Rows(rows, width, DTYPES[dtype], gap=2 * gap, start=3 * start)
            x.view.copy_(data)
            rms_norm(out, x, w, offset, dtype)
            assert_near(out.view, torchs, exact)
            out.check()
            assert same_bits(x.view, data)
            rms_norm(x, x, w, offset, dtype)  # in place
            assert same_bits(x.view, out.view)
            x.check()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", kernels.KINDS)
def test_act_mul_agrees_with_float64(kind: str, dtype: str, width: int) -> None:
    for rows in ROWS:
        data = random((rows, 2 * width), dtype, rows, scale=3)
        gate, up = data[:, :width], data[:, width:]
        exact, argument = act_exactly(kind, gate.double(), up.double())
        torchs = act_plainly(kind, gate, up)
        for gap, start in ((0, 0), (5, 1)):
            x = Rows(rows, 2 * width, DTYPES[dtype], gap=gap, start=start)
            out = Rows(rows, width, DTYPES[dtype], gap=2 * gap, start=3 * start)
            x.view.copy_(data)
            act_mul(out, x, kind, dtype)
            assert_near(out.view, torchs, exact, argument)
            out.check()
            assert same_bits(x.view, data)


def gates() -> Tensor:
    """float32 gates over the whole range: dense near 0, tiny, huge."""
    powers = torch.logspace(-38, 38, 20001, dtype=torch.float64).float()
    return torch.cat([torch.linspace(-110, 110, 200001), torch.linspace(-6, 6, 100001), powers, -powers])


@pytest.mark.parametrize(("kind", "ulps"), [("silu", 4), ("gelu_erf", 8)])
def test_activations_are_good_to_a_few_ulps_everywhere(kind: str, ulps: int) -> None:
    gate = gates()
    wide = gate.double()
    if kind == "silu":
        small = torch.exp(-wide.abs())
        exact = wide * torch.where(wide < 0, small, torch.ones_like(small)) / (1 + small)
    else:
        exact = wide * 0.5 * torch.special.erfc(-wide / math.sqrt(2))
    out = torch.empty_like(gate)
    x = torch.cat([gate, torch.ones_like(gate)])
    kernels.act_mul(out.data_ptr(), x.data_ptr(), 1, gate.numel(), 0, 0, kernels.KINDS[kind], 0)
    exponent = torch.frexp(exact).exponent.clamp(min=-125)
    bound = ulps * torch.ldexp(torch.ones_like(exact), exponent - 24)
    if kind == "silu":  # below -87 the sigmoid is subnormal, and half of its unit is multiplied by the gate
        bound += wide.abs() * 2.0**-150
    assert ((out.double() - exact).abs() / bound).max().item() <= 1


@pytest.mark.parametrize("kind", kernels.KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_act_of_extreme_gates_is_the_limit(kind: str, dtype: str) -> None:
    gate = torch.tensor([-math.inf, -60000.0, -100.0, -0.0, 0.0, 100.0, 60000.0, math.inf, math.nan])
    gate = gate.to(DTYPES[dtype])
    x = torch.cat([gate, torch.ones_like(gate)])
    out = torch.empty_like(gate)
    n = gate.numel()
    kernels.act_mul(out.data_ptr(), x.data_ptr(), 1, n, n, 2 * n, kernels.KINDS[kind], kernels.DTYPES[dtype])
    positive = gate[5:8]
    if kind == "swiglu_oai":
        positive = (torch.full((3,), 7.0) * torch.sigmoid(torch.tensor(7 * 1.702)) * 2).to(gate.dtype)
    assert torch.all(out[:5].double().abs() < 1e-37)
    torch.testing.assert_close(out[5:8], positive, rtol=torch.finfo(gate.dtype).eps, atol=0)
    assert out[8].isnan()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_all_16_bit_values_are_read_and_rounded_like_torch(dtype: str) -> None:
    # x = 3/4 everywhere and this eps make the scale 2^-10 exactly, so out is 3 * 2^-12 * w with one rounding:
    # ties, subnormals, infinities and NaN all occur. The formula adds an offset of 0, so -0 becomes 0.
    w = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(DTYPES[dtype])
    x = torch.full_like(w, 0.75)
    out = torch.empty_like(w)
    n, eps = w.numel(), 2.0**20 - 0.5625
    code = kernels.DTYPES[dtype]
    kernels.rms_norm(out.data_ptr(), x.data_ptr(), w.data_ptr(), 1, n, n, n, eps, 0.0, code)
    expected = ((w.double() + 0.0) * (3 * 2.0**-12)).float().to(w.dtype)
    assert torch.equal(out.isnan(), w.isnan())
    assert same_bits(out[~w.isnan()], expected[~w.isnan()])


def test_large_values_overflow_to_infinity_on_the_store() -> None:
    x = torch.tensor([300.0, 65504.0, -65504.0, 300.0, 2.0, -2.0], dtype=torch.float16)
    out = torch.empty(3, dtype=torch.float16)
    kernels.act_mul(out.data_ptr(), x.data_ptr(), 1, 3, 3, 6, kernels.KINDS["silu"], kernels.DTYPES["f16"])
    assert out.tolist() == [math.inf, math.inf, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_poisoned_row_changes_no_other_row(poison: float, dtype: str) -> None:
    rows, width = 5, 100
    others = torch.tensor([0, 1, 3, 4])
    w = random((width,), dtype, 1)
    results = []
    for value in (1.0, poison):
        x = Rows(rows, 2 * width, DTYPES[dtype], gap=3, start=1)
        x.view.copy_(random((rows, 2 * width), dtype, 2))
        x.view[2] = value
        normed = Rows(rows, 2 * width, DTYPES[dtype], gap=0, start=0)
        rms_norm(normed, x, w.repeat(2), 0.0, dtype)
        acted = Rows(rows, width, DTYPES[dtype], gap=0, start=0)
        act_mul(acted, x, "silu", dtype)
        results.append((normed.view, acted.view))
    for clean, poisoned in zip(*results, strict=True):
        assert same_bits(clean[others], poisoned[others])
        assert not poisoned[2].isfinite().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_neither_on_threads_nor_on_other_rows(dtype: str, threads: Callable[[int], None]) -> None:
    # Large enough for several threads; act_mul cuts the one and the three rows into columns.
    for rows, width in ((257, 1000), (1, 100003), (3, 33333)):
        w = random((width,), dtype, 1)
        x = Rows(rows, 2 * width, DTYPES[dtype], gap=1, start=1)
        x.view.copy_(random((rows, 2 * width), dtype, 2))
        one = Rows(rows, width, DTYPES[dtype], gap=3, start=1)
        one.view.copy_(x.view[:, :width])
        runs: list[Callable[[Rows, Rows], None]] = [
            lambda out, source, kind=kind: act_mul(out, source, kind, dtype)  # type: ignore[misc]
            for kind in kernels.KINDS
        ]
        cases = [(run, x) for run in runs]
        cases.append((lambda out, source, w=w: rms_norm(out, source, w, 0.0, dtype), one))  # type: ignore[misc]
        for run, source in cases:
            outs = []
            for count in (1, 2):
                threads(count)
                out = Rows(rows, width, DTYPES[dtype], gap=0, start=0)
                run(out, source)
                out.check()
                outs.append(out.view)
            assert same_bits(*outs)
            for t in {0, rows // 2, rows - 1}:  # the same row alone, elsewhere in memory
                alone = Rows(1, source.view.shape[1], DTYPES[dtype], gap=0, start=t % 7)
                alone.view.copy_(source.view[t : t + 1])
                out = Rows(1, width, DTYPES[dtype], gap=0, start=t % 5)
                run(out, alone)
                assert same_bits(out.view, outs[0][t : t + 1])


def test_the_number_of_threads_is_torchs(threads: Callable[[int], None]) -> None:
    assert kernels.OPENMP, "this package was built without OpenMP"
    for count in (1, 2):
        threads(count)
        assert kernels.num_threads() == count


def test_no_rows_touch_no_memory() -> None:
    for code in kernels.DTYPES.values():
        kernels.rms_norm(0, 0, 0, 0, 4096, 4096, 4096, EPS, 0.0, code)
        for kind in kernels.KINDS.values():
            kernels.act_mul(0, 0, 0, 4096, 4096, 8192, kind, code)


def test_unknown_codes_are_refused_with_the_legal_ones() -> None:
    x = torch.ones(2)
    with pytest.raises(ValueError, match=r"dtype must be one of 0 \(f32\), 1 \(f16\), 2 \(bf16\), got 3"):
        kernels.rms_norm(x.data_ptr(), x.data_ptr(), x.data_ptr(), 1, 2, 2, 2, EPS, 1.0, 3)
    with pytest.raises(ValueError, match=r"kind must be one of 0 \(silu\), .*3 \(swiglu_oai\), got -1"):
        kernels.act_mul(x.data_ptr(), x.data_ptr(), 1, 1, 1, 2, -1, 0)
    with pytest.raises(ValueError, match="dtype must be one of"):
        kernels.act_mul(x.data_ptr(), x.data_ptr(), 1, 1, 1, 2, 0, 7)
    assert x.tolist() == [1.0, 1.0]


def test_only_long_calls_release_the_interpreter_lock() -> None:
    x = torch.ones(1024, 2 * 4096)
    out = torch.empty(1024, 4096)
    go, ran = threading.Event(), []

    def run(rows: int) -> None:
        kernels.act_mul(out.data_ptr(), x.data_ptr(), rows, 4096, 4096, 8192, 0, 0)

    def other() -> None:
        go.wait()
        ran.append(True)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # from here on a thread gives the lock up only where it says so
    try:
        thread = threading.Thread(target=other)
        thread.start()
        go.set()
        for _ in range(100):
            run(1)
        assert not ran
        for _ in range(1000):  # the other thread runs when the system lets it, which may be a few calls later
            run(1024)
            if ran:
                break
        assert ran
    finally:
        sys.setswitchinterval(interval)
    thread.join()


def test_names_are_exactly_the_public_ones() -> None:
    assert frozenset({"rms_norm", "act_mul", "attn_decode"}) == kernels.KERNELS
    assert dict(kernels.DTYPES) == {"f32": 0, "f16": 1, "bf16": 2}
    assert dict(kernels.KINDS) == {"silu": 0, "gelu_erf": 1, "gelu_tanh": 2, "swiglu_oai": 3}
    assert all(callable(getattr(kernels, name)) for name in kernels.KERNELS | {"isa", "num_threads"})
    assert kernels.__version__ == "0.1.0"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def has_avx2() -> bool:
    if platform.machine() != "x86_64":
        return False
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    return {"avx2", "fma", "f16c"} <= set(flags)


@pytest.mark.skipif("APHRODITE_KERNELS_CPU_INNER" in os.environ, reason="already inside one of these runs")
@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_everything_here_holds_for_each_instruction_set(isa: str) -> None:
    if isa == "avx2" and not has_avx2():
        pytest.skip(f"this {platform.machine()} CPU lacks AVX2, FMA or F16C: the avx2 kernels were not run")
    environment = {**os.environ, "APHRODITE_CPU_ISA": isa, "APHRODITE_KERNELS_CPU_INNER": isa}
    alone = "-q -x --noconftest -p no:cacheprovider -o addopts="
    inner = subprocess.run(
        [sys.executable, "-m", "pytest", *alone.split(), __file__, __file__.replace(".py", "_attention.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert inner.returncode == 0, inner.stdout[-4000:] + inner.stderr[-2000:]


def test_the_override_chooses_the_instruction_set() -> None:
    wanted = os.environ.get("APHRODITE_KERNELS_CPU_INNER")
    best = "avx2" if has_avx2() else "generic"
    assert kernels.isa() == (wanted or os.environ.get("APHRODITE_CPU_ISA") or best)
    code = "import aphrodite_kernels_cpu as k; print(k.isa())"
    assert python(code, APHRODITE_CPU_ISA="generic").stdout == "generic\n"
    assert python(code, APHRODITE_CPU_ISA="").stdout == best + "\n"


def test_a_bad_override_is_an_import_error_naming_it_and_the_legal_ones() -> None:
    result = python("import aphrodite_kernels_cpu", APHRODITE_CPU_ISA="avx9")
    assert result.returncode == 1
    legal = "generic, avx2" if has_avx2() else "generic"
    assert f"ImportError: APHRODITE_CPU_ISA must be one of {legal}, got 'avx9'" in result.stderr


def test_kernels_run_without_torch_or_numpy() -> None:
    code = """
import array, sys
sys.modules["torch"] = sys.modules["numpy"] = None
import aphrodite_kernels_cpu as k
x, w = array.array("f", [3, 4]), array.array("f", [1, 2])
address = lambda a: a.buffer_info()[0]
k.rms_norm(address(x), address(x), address(w), 1, 2, 2, 2, 0.0, 0.0, k.DTYPES["f32"])
print([round(v, 5) for v in x])
"""
    assert python(code).stdout == "[0.84853, 2.26274]\n"


@pytest.mark.parametrize("order", ["torch, aphrodite_kernels_cpu", "aphrodite_kernels_cpu, torch"])
def test_torch_and_the_kernels_share_one_openmp_runtime(order: str) -> None:
    code = f"""
import {order}
files = {{line.split()[-1] for line in open("/proc/self/maps")}}
print(sum(name in file for file in files for name in ("libgomp", "libomp", "libiomp")))
"""
    assert python(code).stdout == "1\n"

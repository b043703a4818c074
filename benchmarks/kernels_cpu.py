"""How fast are the CPU kernels, beside torch and beside memory?

    python benchmarks/kernels_cpu.py [--threads N] [--dtypes f32 bf16] [--out FILE]

For each kernel, shape and dtype: our time; torch's eager time for the same thing (F.rms_norm; F.silu(a) * b; its fused
attention of one query a sequence, over keys that already lie side by side, which a paged cache does not give it);
and the floor, which is the time of a plain copy that moves as many bytes, measured here with the same number
of threads and the same amount of memory, so that it lies in the same cache. ours/floor near 1 means that
memory is the limit. The three are timed in turn, window by window, so that noise on the machine meets all of
them; the figures are the best windows (medians are in the JSON). All calls are made from Python: 0.4 us of
ours is the call, and so is most of a copy under 1 us. torch picks its own instruction set;
ATEN_CPU_CAPABILITY=avx2 holds it to AVX2.

--out writes {"schema": "aphrodite.bench.kernels_cpu/1", "machine": {...}, "results": [...]}, in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

import aphrodite_kernels_cpu as kernels

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ROWS = (1, 16, 512)
SHAPES = {  # rows and widths: a small model's, a large one's; of attn_decode sequences and their length
    "rms_norm": [(rows, width) for width in (576, 4096) for rows in ROWS],
    "act_mul": [(rows, width) for width in (1536, 14336) for rows in ROWS],
    "attn_decode": [(1, 512), (1, 8192), (32, 512)],
}
KV_HEADS, GROUP, HEAD_DIM, BLOCK = 8, 4, 128, 16
EPS = 1e-6

Call = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One line of the table. Times are seconds a call: the best window, then the median window."""

    kernel: str
    rows: int
    width: int
    dtype: str
    bytes: int
    ours_s: float
    torch_s: float
    floor_s: float
    ours_median_s: float
    torch_median_s: float
    floor_median_s: float
    torch_over_ours: float
    ours_over_floor: float
    copy_bytes_per_s: float


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": kernels.isa(),
        "kernels": kernels.__version__,
        "torch": torch.__version__,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg()[0],
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(
        f"{'kernel':11} {'T':>4} {'width':>6} {'dtype':5} {'ours us':>9} {'torch us':>9} {'floor us':>9}"
        f" {'torch/ours':>11} {'ours/floor':>11} {'copy GB/s':>10}"
    )
    results = []
    for kernel, shapes in SHAPES.items():
        for rows, width in shapes:
            for dtype in options.dtypes:
                results.append(measure(kernel, rows, width, dtype, options.seconds))
                print_line(results[-1])
    if options.out:
        document = {
            "schema": "aphrodite.bench.kernels_cpu/1",
            "machine": machine,
            "results": [asdict(result) for result in results],
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time the CPU kernels beside torch and a plain copy.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["f32", "bf16"])
    parser.add_argument("--seconds", type=float, default=0.6, help="spent on each line (default: 0.6)")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    return parser.parse_args(argv)


def measure(kernel: str, rows: int, width: int, dtype: str, seconds: float) -> Result:
    """Time one kernel at one shape. Its bytes are inputs read once and the output written once."""
    make = {"rms_norm": rms_norm, "act_mul": act_mul, "attn_decode": attn_decode}[kernel]
    ours, theirs, num_bytes = make(rows, width, dtype)
    source = torch.zeros(num_bytes // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    windows = time_in_turn([ours, theirs, lambda: target.copy_(source)], seconds)
    best = [min(times) for times in windows]
    median = [statistics.median(times) for times in windows]
    return Result(
        kernel=kernel,
        rows=rows,
        width=width,
        dtype=dtype,
        bytes=num_bytes,
        ours_s=best[0],
        torch_s=best[1],
        floor_s=best[2],
        ours_median_s=median[0],
        torch_median_s=median[1],
        floor_median_s=median[2],
        torch_over_ours=best[1] / best[0],
        ours_over_floor=best[0] / best[2],
        copy_bytes_per_s=num_bytes / best[2],
    )


def rms_norm(rows: int, width: int, dtype: str) -> tuple[Call, Call, int]:
    """Our call, torch's, and the bytes they move."""
    x, w = torch.randn(rows, width).to(DTYPES[dtype]), torch.randn(width).to(DTYPES[dtype])
    out = torch.empty_like(x)
    place = (out.data_ptr(), x.data_ptr(), w.data_ptr(), rows, width, width, width)
    code = kernels.DTYPES[dtype]

    def ours(keep: object = (x, w, out)) -> None:  # the addresses in `place` do not keep their memory alive
        kernels.rms_norm(*place, EPS, 0.0, code)

    ours()
    expected = F.rms_norm(x, (width,), w, EPS)
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)
    num_bytes = (2 * x.numel() + width) * x.element_size()
    return ours, lambda: F.rms_norm(x, (width,), w, EPS), num_bytes


def act_mul(rows: int, width: int, dtype: str) -> tuple[Call, Call, int]:
    """Our call, torch's, and the bytes they move."""
    x = torch.randn(rows, 2 * width).to(DTYPES[dtype])
    out = torch.empty(rows, width, dtype=x.dtype)
    place = (out.data_ptr(), x.data_ptr(), rows, width, width, 2 * width)
    silu, code = kernels.KINDS["silu"], kernels.DTYPES[dtype]
    gate, up = x[:, :width], x[:, width:]

    def ours(keep: object = (x, out)) -> None:  # the addresses in `place` do not keep their memory alive
        kernels.act_mul(*place, silu, code)

    ours()
    torch.testing.assert_close(out, F.silu(gate) * up, rtol=2e-2, atol=2e-2)
    return ours, lambda: F.silu(gate) * up, 3 * out.numel() * out.element_size()


def attn_decode(rows: int, width: int, dtype: str) -> tuple[Call, Call, int]:
    """Our call, torch's, and the bytes they move: keys and values, beside which the rest is nothing."""
    heads, kind = KV_HEADS * GROUP, DTYPES[dtype]
    q, out = torch.randn(rows, heads, HEAD_DIM).to(kind), torch.empty(rows, heads, HEAD_DIM, dtype=kind)
    k, v = (torch.randn(rows, width, KV_HEADS, HEAD_DIM).to(kind) for _ in range(2))
    order = torch.randperm(rows * width // BLOCK)
    blocks = [torch.empty(len(order), BLOCK, KV_HEADS, HEAD_DIM, dtype=kind) for _ in range(2)]
    for cache, plain in zip(blocks, (k, v), strict=True):
        cache[order] = plain.view(cache.shape)
    tables = order.int().view(rows, -1)
    lengths, cu_q = torch.full((rows,), width, dtype=torch.int32), torch.arange(rows + 1, dtype=torch.int32)
    place = (out.data_ptr(), 0, q.data_ptr(), *(cache.data_ptr() for cache in blocks), tables.data_ptr())
    place = (*place, lengths.data_ptr(), cu_q.data_ptr(), 0, rows, KV_HEADS, GROUP, HEAD_DIM, HEAD_DIM, BLOCK)
    row, code, scale = (heads * HEAD_DIM, HEAD_DIM), kernels.DTYPES[dtype], HEAD_DIM**-0.5
    cell = blocks[0].stride()[:3]

    def ours(keep: object = (q, out, blocks, tables, lengths, cu_q)) -> None:  # `place` does not keep their memory
        kernels.attn_decode(*place, row, 0, row, cell, cell, tables.stride(0), 0, scale, 0.0, code, code)

    queries, keys, values = q[:, :, None], k.transpose(1, 2), v.transpose(1, 2)

    def theirs() -> torch.Tensor:
        return F.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)

    ours()
    torch.testing.assert_close(out, theirs()[:, :, 0], rtol=2e-2, atol=2e-2)
    return ours, theirs, 2 * k.numel() * k.element_size()


def time_in_turn(calls: list[Call], seconds: float) -> list[list[float]]:
    """Seconds a call in at least five windows for each of `calls`, one window of each at a time."""
    repeats = []
    for call in calls:
        for _ in range(3):
            call()
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        repeats.append(max(1, round(2e-3 / max(once, 1e-7))))
    windows: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(windows[0]) < 5:
        for call, count, times in zip(calls, repeats, windows, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                call()
            times.append((time.perf_counter() - start) / count)
    return windows


def print_line(result: Result) -> None:
    """One line of the table."""
    print(
        f"{result.kernel:11} {result.rows:4} {result.width:6} {result.dtype:5} {result.ours_s * 1e6:9.2f}"
        f" {result.torch_s * 1e6:9.2f} {result.floor_s * 1e6:9.2f} {result.torch_over_ours:11.2f}"
        f" {result.ours_over_floor:11.2f} {result.copy_bytes_per_s / 1e9:10.1f}",
        flush=True,
    )


def cpu_name() -> str:
    """The processor's name, as far as the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

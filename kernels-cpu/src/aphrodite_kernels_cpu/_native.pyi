"""Types of the compiled module. The functions' own docstrings give shapes, meanings and errors."""

from typing import Final

__version__: Final[str]
DTYPES: Final[dict[str, int]]
KINDS: Final[dict[str, int]]
KERNELS: Final[frozenset[str]]
OPENMP: Final[bool]

def isa() -> str: ...
def num_threads() -> int: ...
def rms_norm(
    out: int,
    x: int,
    w: int,
    rows: int,
    width: int,
    out_stride: int,
    x_stride: int,
    eps: float,
    offset: float,
    dtype: int,
) -> None: ...
def act_mul(out: int, x: int, rows: int, width: int, out_stride: int, x_stride: int, kind: int, dtype: int) -> None: ...

"""Types of the compiled module. The functions' own docstrings give shapes, meanings and errors."""

from typing import Final

__version__: Final[str]
DTYPES: Final[dict[str, int]]
KINDS: Final[dict[str, int]]
KERNELS: Final[frozenset[str]]
MAX_HEAD_DIM: Final[int]
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
def attn_decode(
    out: int,
    lse: int,
    q: int,
    k: int,
    v: int,
    tables: int,
    seq_lens: int,
    cu_q: int,
    sinks: int,
    num_seqs: int,
    kv_heads: int,
    group: int,
    head_dim: int,
    value_dim: int,
    block_size: int,
    out_strides: tuple[int, int],
    lse_stride: int,
    q_strides: tuple[int, int],
    k_strides: tuple[int, int, int],
    v_strides: tuple[int, int, int],
    table_stride: int,
    window: int,
    scale: float,
    softcap: float,
    dtype: int,
    cache_dtype: int,
) -> None: ...

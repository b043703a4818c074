"""CPU kernels of the Aphrodite inference engine, callable with raw addresses; no torch needed.

KERNELS        names of the kernels, each a function of this module
DTYPES, KINDS  codes that the kernels take for storage types and activations
isa()          the instruction set in use: the best that this CPU has, or the one that APHRODITE_CPU_ISA named
               when the module was imported (ImportError if that is unknown or this CPU lacks it)
MAX_HEAD_DIM   the widest head that attn_decode takes
OPENMP         whether large calls run on several threads: as many as OpenMP allows, so torch.set_num_threads
               and OMP_NUM_THREADS govern them
num_threads()  how many that would be for a call made now
"""

from types import MappingProxyType as _ReadOnly

from . import _native
from ._native import KERNELS, MAX_HEAD_DIM, OPENMP, __version__, act_mul, attn_decode, isa, num_threads, rms_norm

DTYPES = _ReadOnly(_native.DTYPES)
KINDS = _ReadOnly(_native.KINDS)

__all__ = [
    "DTYPES",
    "KERNELS",
    "KINDS",
    "MAX_HEAD_DIM",
    "OPENMP",
    "__version__",
    "act_mul",
    "attn_decode",
    "isa",
    "num_threads",
    "rms_norm",
]

"""Knowing that memory has run out, whoever says so and whatever device it is of."""

from __future__ import annotations

import errno

from aphrodite.errors import CapacityError

_HOST_ALLOCATOR = "DefaultCPUAllocator"  # torch has no error of its own for the host's memory, but these words


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that memory has run out.

    Those that say so: CapacityError, MemoryError, torch.OutOfMemoryError, what torch raises for the host's memory, and
    the system's ENOMEM.
    """
    import torch

    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, (CapacityError, MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(found, OSError) and found.errno == errno.ENOMEM:
            return True
        if isinstance(found, RuntimeError) and _HOST_ALLOCATOR in str(found):
            return True
        found = found.__cause__
    return False

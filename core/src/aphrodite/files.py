"""Reading small files from strangers: whole, of a bounded size, and never waiting for one that is no file."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class FileError(ValueError):
    """A file that is none, or too large; the message goes behind its path."""


def read_file(path: Path, most_bytes: int) -> bytes:
    """A regular file's content. OSError if it cannot be read, FileError if it is a pipe, a device or a folder, or has
    more bytes than that, of which none are read."""
    found = path.stat()  # before it is opened, which waits for whoever writes to a pipe
    require_regular(found)
    if found.st_size > most_bytes:
        raise FileError(f"has {found.st_size} bytes, more than {most_bytes}")
    with path.open("rb") as file:
        return file.read(most_bytes)


def require_regular(found: os.stat_result) -> None:
    """FileError unless it is a file that holds bytes."""
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise FileError(f"is no file but {kind}")

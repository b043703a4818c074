"""Transformers without a word: what it would print about a model, our errors and notes say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL

# Transformers keeps its verbosity and, while it makes a model, the default type of tensors for the whole process: one
# network is looked at or loaded at a time.
_ONE = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and reports of Transformers inside the block; then they are as they were."""
    from transformers.utils import logging

    with _ONE:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()

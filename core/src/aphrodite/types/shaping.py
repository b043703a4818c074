"""What a request does to its logits before a draw, as the device keeps it: numbers, and lists within bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_STOPS = 128  # ids that min_tokens holds back
MAX_BIASES = 1024  # entries of logit_bias
MAX_BAD_TOKENS = 1024  # tokens of all bad words together, each word with and without a space before it


@dataclass(frozen=True)
class Shaping:
    """A request's own changes to its logits and its distribution. The defaults change nothing.

    num_prompt    tokens of the prompt: what comes behind them is output
    top_k, top_p, min_p   0, 1, 0 are off
    repetition, frequency, presence   1, 0, 0 are off
    min_len       sequences shorter than this may draw none of `stops`
    biases        (id, bias), ids distinct
    allowed       the only ids that may be drawn; None: all
    bad_words     token sequences of which the last token may not follow the others
    Ids are in the vocabulary; the lists have at most MAX_STOPS, MAX_BIASES and MAX_BAD_TOKENS entries.
    """

    num_prompt: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    min_len: int = 0
    stops: tuple[int, ...] = ()
    biases: tuple[tuple[int, float], ...] = ()
    allowed: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()

    def of_prompt(self, num_prompt: int) -> Shaping:
        """The same behind a prompt of that many tokens."""
        return replace(self, num_prompt=num_prompt)

    @property
    def truncates(self) -> bool:
        """Whether unlikely tokens are left out of the draw."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def edits(self) -> bool:
        """Whether single tokens are forbidden or biased."""
        return bool(self.stops or self.biases or self.bad_words) or self.allowed is not None

    @property
    def penalises(self) -> bool:
        """Whether tokens are penalised for standing in the text already."""
        return self.repetition != 1 or self.frequency != 0 or self.presence != 0


PLAIN = Shaping()

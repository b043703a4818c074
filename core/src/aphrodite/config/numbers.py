"""Numbers as people write them: 32k, 1.5m, 2G."""

from __future__ import annotations

import re

_FACTORS = {"": 1} | {
    letter: base**power
    for power, letters in enumerate(("kK", "mM", "gG", "tT"), start=1)
    for letter, base in zip(letters, (1000, 1024), strict=True)
}
_NUMBER = re.compile(
    r"([+-]?[0-9]{1,30})(\.[0-9]{1,30})?([kKmMgGtT]?)"
)  # bounded: int() of a long text takes its square


def integer(text: str) -> int | str:
    """The integer that a text writes: k, m, g, t stand for powers of 1000, K, M, G, T for powers of 1024, so 32k is
    32000 and 32K is 32768; a fraction may stand before one of them. What is no integer comes back as it is, for the
    check that knows its name."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return text
    whole, fraction, suffix = match[1], match[2] or "", match[3]
    digits = len(fraction.removeprefix("."))
    value, left = divmod(int(whole + fraction.removeprefix(".")) * _FACTORS[suffix], 10**digits)
    return text if left else value

"""The loss curve as a picture, drawn without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 400, 60, 46


def draw(points: Sequence[tuple[float, float]], path: Path, title: str) -> None:
    """(tokens, loss) as an SVG; the loss is on a logarithmic axis."""
    most = max(tokens for tokens, _ in points)
    low, high = (f(math.log10(loss) for _, loss in points) for f in (min, max))
    high = high if high > low else low + 1

    def x(tokens: float) -> float:
        return _LEFT + tokens / most * (_WIDTH - _LEFT - 20)

    def y(loss: float) -> float:
        return 30 + (high - math.log10(loss)) / (high - low) * (_HEIGHT - _BOTTOM - 30)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"',
        '    font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{title}</text>',
    ]
    for loss in (0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 4, 6, 8):
        if low <= math.log10(loss) <= high:
            parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y(loss):.1f}" y2="{y(loss):.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:g}</text>')
    for tenth in range(0, 11, 2):
        at = most * tenth / 10
        parts.append(f'<text x="{x(at):.1f}" y="{_HEIGHT - 26}" text-anchor="middle">{at / 1e6:.0f}M</text>')
    line = " ".join(f"{x(tokens):.1f},{y(loss):.1f}" for tokens, loss in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>')
    parts.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">tokens seen; training loss, nats a token</text>'
    )
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")

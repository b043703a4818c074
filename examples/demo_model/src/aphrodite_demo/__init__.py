"""Two small models, as folders; Aphrodite finds them under the names `demo` and `demo-draft`."""

from pathlib import Path

__all__ = ["DEMO", "DEMO_DRAFT"]

DEMO = Path(__file__).parent / "demo"
DEMO_DRAFT = Path(__file__).parent / "demo-draft"

"""Where the recordings of research data lie, if they are here: tests read them in place and skip without them."""

from pathlib import Path

RECORDINGS = Path(__file__).parents[2] / "shared" / "data"

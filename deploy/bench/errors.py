"""The one thing that can go wrong with a benchmark, for whoever started it."""


class BenchError(Exception):
    """A benchmark could not be measured, or what it measured was wrong; the text says which and why."""

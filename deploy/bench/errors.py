"""The one error of a benchmark."""


class BenchError(Exception):
    """A benchmark could not be measured, or its result was wrong; the text says which and why."""

"""What can end a demo early.

DemoFailed
└── ProgramEnded   a program of Vigil ended by itself; carries the end of its log
"""

from pathlib import Path

from deploy.stack.processes import log_end


class DemoFailed(Exception):
    """The demo cannot go on; the message is one clear sentence for the terminal."""


class ProgramEnded(DemoFailed):
    """One of the demo's programs ended although nobody asked it to."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        super().__init__(f"{name} ended with code {code}; its log ({log}) ends with:\n{log_end(log)}")

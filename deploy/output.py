"""How commands answer on stdout: with a sentence or a table for people, with `--json` as one JSON object."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, time
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

WIDTH: Final = 160
"""Columns if stdout is not a terminal."""


def tell(answer: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """Print the answer, as one JSON object or as a sentence."""
    typer.echo(_json(answer) if as_json else sentence)


def show(items: Sequence[Mapping[str, Any]], *, as_json: bool, **more: Any) -> None:
    """Print a list as one object {"items": […]}, or as a table."""
    if as_json:
        typer.echo(_json({"items": items, **more}))
        return
    if not items:
        typer.echo("none")
        return
    table = Table(*(Column(name, overflow="fold") for name in items[0]))
    for item in items:
        table.add_row(*(Text(_cell(value)) for value in item.values()))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_cell, value))
        case datetime():
            return value.isoformat(timespec="seconds")
        case time():
            return value.isoformat(timespec="minutes")
        case _:
            return str(value)


def _json(answer: Mapping[str, Any]) -> str:
    return json.dumps(answer, default=lambda value: value.isoformat(), ensure_ascii=False)

"""`vigil demo`: a small clinic with everything running, on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.demo.errors import DemoFailed
from deploy.demo.run import run_demo


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Folder of the demo's data and logs.", file_okay=False)] = Path(
        ".vigil/demo"
    ),
    seconds: Annotated[
        float | None,
        typer.Option(min=1.0, help="End this long after everything is up; exit code 1 unless all three alerts came."),
    ] = None,
) -> None:
    """Start servers, gateway, worker and API, tell a month of history, then live: three kinds of alerts within a minute.

    Ctrl-C stops all of it. Each run admits new patients; the data of earlier runs stay in the folder.
    """
    try:
        missing = run_demo(folder, seconds)
    except DemoFailed as error:
        sys.stderr.write(f"vigil: {error}\n")
        raise typer.Exit(1) from None
    if seconds is not None and missing:
        sys.stderr.write(f"vigil: no alert of {' and '.join(missing)} came within {seconds:g} s of being up\n")
        raise typer.Exit(1)

"""Which extra of the distribution contains which package, so that a command can say what to install."""

import sys
from typing import Final

DISTRIBUTION: Final = "vigil-gateway"
"""What pip calls this program; the package that pip calls `vigil` is somebody else's."""

_SERVER = (
    *("argon2", "fastapi", "jwt", "matplotlib", "mqtt5", "numpy", "psycopg", "psycopg_pool", "python_multipart"),
    *("river", "starlette", "uvicorn", "uvloop"),
)
# By import name.
EXTRAS = {**dict.fromkeys(_SERVER, "server"), "bleak": "ble", "bleak_retry_connector": "ble", "bumble": "sim"}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return the sentence that says which extra to install; None if that would not help."""
    missing = (error.name or "").partition(".")[0]
    # A package that is installed but lacks one of its own modules is not repaired by installing it.
    if missing in sys.modules or missing not in EXTRAS:
        return None
    extra = EXTRAS[missing]
    return f'this command needs the extra "{extra}": pip install "{DISTRIBUTION}[{extra}]"'

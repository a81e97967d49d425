"""PostgreSQL's settings, wherever Vigil starts it: the embedded server and the compose file read this one table."""

from collections.abc import Mapping

SUPERUSER = "postgres"
ROLE = "vigil"
DATABASE = "vigil"

SETTINGS: Mapping[str, str] = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    # Durability is never traded for speed.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A query over months locks every chunk it may touch.
    "max_locks_per_transaction": "1024",
    "max_connections": "200",
    "max_worker_processes": "24",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # Queries here take milliseconds; compiling them would take longer.
    "jit": "off",
    "log_line_prefix": "%m [%p] %d ",
}

# The distribution's Apache edition has no background jobs to run, and a scheduler in each database would hold it open.
EMBEDDED_ONLY: Mapping[str, str] = {
    "timescaledb.max_background_workers": "0",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}


def quoted(value: str) -> str:
    """Return a value quoted for postgresql.conf."""
    return "'" + value.replace("'", "''") + "'"


def render(settings: Mapping[str, str]) -> str:
    """Return the settings as lines of postgresql.conf."""
    return "".join(f"{name} = {quoted(value)}\n" for name, value in settings.items())

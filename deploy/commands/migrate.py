"""`vigil migrate`: brings the database to the current schema."""

import typer

from deploy.migrate import migrate as migrate_database
from deploy.moved_clock import refuse_moved_clock
from deploy.settings import DatabaseSettings, load_settings
from gateway.runtime import clock


def migrate() -> None:
    """Bring the database in VIGIL_DATABASE_URL to the current schema; nothing if it is there."""
    url = load_settings(DatabaseSettings).database_url
    refuse_moved_clock(url)
    applied = migrate_database(url, clock.now())
    for migration in applied:
        typer.echo(f"applied {migration.version:04}_{migration.name}")
    if not applied:
        typer.echo("the schema is current")

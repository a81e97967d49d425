"""The embedded TimescaleDB: durable, closed to strangers, back after a crash, gone with its parent."""

import os
import signal
import subprocess
import sys

import psycopg
import pytest

from deploy.stack import postgres_config, processes
from deploy.stack.embedded import temporary_folder, temporary_postgres
from tests.conftest import TestStack


def setting(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("select current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
def test_durability_stays_on(database_url: str, name: str) -> None:
    assert postgres_config.SETTINGS[name] == "on"
    with psycopg.connect(database_url) as connection:
        assert setting(connection, name) == "on"


def test_every_setting_is_in_force(stack: TestStack) -> None:
    with psycopg.connect(stack.postgres.superuser_url("vigil")) as connection:
        for name, value in {**postgres_config.SETTINGS, **postgres_config.EMBEDDED_ONLY}.items():
            assert setting(connection, name) == value
        assert setting(connection, "timescaledb.license") == "apache"


def test_the_program_s_role_is_no_superuser(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "select rolsuper, rolcreaterole, rolbypassrls from pg_roles where rolname = current_user"
        ).fetchone()
        assert row == (False, False, False)
        connection.execute("set role vigil_api")


def test_time_zones_come_with_the_server(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "select (timestamptz '2026-03-29 00:59Z' at time zone 'Europe/Berlin')::text,"
            " (timestamptz '2026-03-29 01:00Z' at time zone 'Europe/Berlin')::text"
        ).fetchone()
        assert row == ("2026-03-29 01:59:00", "2026-03-29 03:00:00")


def test_a_wrong_password_is_refused(stack: TestStack) -> None:
    url = stack.postgres.url.replace(stack.postgres.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_what_was_committed_survives_a_kill() -> None:
    with temporary_folder() as folder, temporary_postgres(folder) as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("create table kept (value integer)")
            connection.execute("insert into kept values (1)")
        port = server.port
        server.kill()
        assert not server.is_running
        server.start()
        assert server.port == port
        with psycopg.connect(server.url) as connection:
            assert connection.execute("select value from kept").fetchone() == (1,)
        server.restart()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("select value from kept").fetchone() == (1,)


def test_a_first_start_that_was_cut_short_begins_anew() -> None:
    with temporary_folder() as folder, temporary_postgres(folder) as server:
        server.stop()
        (server.folder / "bootstrapped").unlink()
        server.start()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("select current_user").fetchone() == ("vigil",)


def test_a_killed_parent_takes_its_servers_along() -> None:
    program = (
        "import time\n"
        "from deploy.stack.embedded import temporary_stack\n"
        "with temporary_stack() as stack:\n"
        "    print(stack.postgres.folder.parent, stack.postgres.pid, stack.mosquitto.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        folder, *pids = parent.stdout.readline().split()
        servers = [processes.identify(int(pid)) for pid in pids]
        os.kill(parent.pid, signal.SIGKILL)
    assert len(servers) == 2
    for server in servers:
        assert server is not None
        assert processes.wait_for_end(server, within_seconds=10)
    subprocess.run(["rm", "-rf", folder], check=True)

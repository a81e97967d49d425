"""Migrations: each once, in order, whoever else migrates; the vocabulary as Python has it."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from deploy.migrate import ChangedMigration, Migration, MigrationError, UnknownMigration, load_migrations, migrate
from deploy.stack.packages import ensure_server_files
from devices.vocabulary import CODES, FLAG_NAMES, UCUM
from tests.conftest import TestStack

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def schema(url: str) -> str:
    program = ensure_server_files().postgres_bin / "pg_dump"
    done = subprocess.run([program, "--schema-only", url], capture_output=True, text=True, check=True)
    # pg_dump guards its output with a random word.
    return "\n".join(line for line in done.stdout.splitlines() if "restrict" not in line.split(" ")[0])


def test_step_by_step_equals_fresh(stack: TestStack, database_url: str) -> None:
    known = load_migrations()
    with stack.database(template="vigil") as stepped:
        for length in range(1, len(known) + 1):
            assert migrate(stepped, NOW, known[:length]) == [known[length - 1]]
        assert schema(stepped) == schema(database_url)


def test_addresses_that_cannot_be_read_go_and_the_others_get_one_form(empty_database_url: str) -> None:
    migrate(empty_database_url, NOW, load_migrations()[:2])
    given = [
        None,
        "aa:bb:cc:dd:ee:0f",
        "AA:BB:CC:DD:EE:0F",
        "the white one",
        "e621e1f8-c36c-495a-93fc-0c247a3e6e5f",
        "",
    ]
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("insert into device (id, model, created_at) values ('edge', 'edge', 'epoch')")
        connection.cursor().executemany(
            "insert into device (id, model, created_at, via, address) values (%s, 'cgm', 'epoch', 1, %s)",
            [(f"d{number}", address) for number, address in enumerate(given)],
        )
    migrate(empty_database_url, NOW)
    with psycopg.connect(empty_database_url) as connection:
        kept = connection.execute("select address from device where via is not null order by id").fetchall()
    assert kept == [
        (None,),
        ("AA:BB:CC:DD:EE:0F",),
        (None,),
        (None,),
        ("E621E1F8-C36C-495A-93FC-0C247A3E6E5F",),
        (None,),
    ]


def test_who_was_there_before_rules_could_be_set_keeps_group_and_nights(empty_database_url: str) -> None:
    migrate(empty_database_url, NOW, load_migrations()[:3])
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(
            "insert into patient (name, patient_group, created_at) values ('Ana', 'new', 'epoch'), ('Ben', 'stable', 'epoch')"
        )
        connection.execute("insert into device (id, model, created_at) values ('band', 'wristband', 'epoch')")
        connection.execute(
            "insert into hrv_night (patient_id, night, starts_at, ends_at, windows) values (1, '2026-11-22', 'epoch', 'epoch', 12)"
        )
        connection.execute(
            "insert into hrv_window (patient_id, window_start, device_key, beats, coverage, corrected, valid)"
            " values (1, 'epoch', 1, 300, 1, 0, true)"
        )
    migrate(empty_database_url, NOW)
    with psycopg.connect(empty_database_url) as connection:
        groups = connection.execute(
            "select patient_id, valid_from::text, patient_group from patient_group_history order by 1"
        )
        assert groups.fetchall() == [(1, "-infinity", "new"), (2, "-infinity", "stable")]
        kinds = connection.execute("select modality from hrv_night union all select modality from hrv_window")
        assert kinds.fetchall() == [("ppg",), ("ppg",)]
        connection.execute("insert into patient_group_history values (2, '2026-11-22T00:00Z', 'fluctuating')")
        assert connection.execute("select patient_group from patient where id = 2").fetchone() == ("fluctuating",)


def test_alerts_from_before_there_were_grades_have_the_one_they_reached(empty_database_url: str) -> None:
    """Rule, severity, lowest, state, running, whether acknowledged; then grade, grade answered, unanswered."""
    night, day, level_1 = "nocturnal_hypoglycaemia", "urgent_low", "hypoglycaemia"
    cases = [
        ((night, "high", "3.8", "mmol/L", "open", True, False), (3, None, False)),
        ((night, "urgent", "2.5", "mmol/L", "acknowledged", True, True), (4, 4, False)),
        ((night, "urgent", "2.4", "mmol/L", "acknowledged", True, True), (5, 5, False)),
        ((day, "urgent", "44", "mg/dL", "resolved", False, False), (5, None, True)),
        ((day, "urgent", "45", "mg/dL", "resolved", False, True), (4, 4, False)),
        ((day, "urgent", "null", "mg/dL", "open", True, False), (5, None, False)),
        ((level_1, "medium", "2.0", "mmol/L", "resolved", True, False), (2, 2, False)),
        (("missed_dose", "low", None, None, "resolved", False, False), (1, None, True)),
        (("missed_dose", "high", None, None, "withdrawn", False, False), (3, None, False)),
    ]
    migrate(empty_database_url, NOW, load_migrations()[:7])
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("insert into patient (name, created_at) values ('Ana', 'epoch')")
        connection.execute(
            "insert into app_user (email, role, password_hash, created_at) values ('d@clinic.test', 'doctor', 'x', 'epoch')"
        )
        for n, ((rule, severity, value, unit, state, running, taken), _) in enumerate(cases):
            finding = "{}" if value is None else f'{{"lowest_value": {value}, "lowest_unit": "{unit}"}}'
            connection.execute(
                "insert into alert (patient_id, rule, severity, state, running, opened_at, raised_at, updated_at,"
                " retrospective, summary, evidence, acknowledged_by, acknowledged_at)"
                " values (1, %s, %s, %s, %s, to_timestamp(%s), 'epoch', 'epoch', false, '',"
                " jsonb_build_object('finding', %s::jsonb), %s, %s)",
                (rule, severity, state, running, n, finding, 1 if taken else None, NOW if taken else None),
            )
    migrate(empty_database_url, NOW)
    with psycopg.connect(empty_database_url) as connection:
        found = connection.execute("select grade, answered_grade, unanswered from alert order by id").fetchall()
    assert found == [wanted for _, wanted in cases]


def test_migrating_twice_changes_nothing(empty_database_url: str) -> None:
    assert migrate(empty_database_url, NOW) == load_migrations()
    before = schema(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        rows = connection.execute("select xmin::text, * from vocabulary_code order by code").fetchall()
    assert migrate(empty_database_url, NOW) == []
    assert schema(empty_database_url) == before
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select xmin::text, * from vocabulary_code order by code").fetchall() == rows


def test_two_migrators_at_once_apply_each_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: migrate(empty_database_url, NOW), range(4)))
    assert sorted(map(len, results)) == [0, 0, 0, len(load_migrations())]


def test_a_failing_migration_leaves_nothing_behind(empty_database_url: str) -> None:
    broken = Migration(1, "one", "create table one (id integer); insert into one values ('not a number')")
    with pytest.raises(MigrationError, match="0001_one failed"):
        migrate(empty_database_url, NOW, [broken])
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select to_regclass('one')").fetchone() == (None,)
        assert connection.execute("select count(*) from schema_migration").fetchone() == (0,)


def test_a_changed_file_is_refused(database_url: str) -> None:
    first, *rest = load_migrations()
    changed = Migration(first.version, first.name, first.text + "-- changed")
    with pytest.raises(ChangedMigration, match="0001_"):
        migrate(database_url, NOW, [changed, *rest])


def test_a_database_ahead_of_the_program_is_refused(database_url: str) -> None:
    with pytest.raises(UnknownMigration, match="0001_"):
        migrate(database_url, NOW, [])


@pytest.mark.parametrize("names", [["0002_b.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "1_b.sql"]])
def test_files_must_be_numbered_without_gaps(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1", encoding="utf-8")
    with pytest.raises(MigrationError):
        load_migrations(tmp_path)


def test_the_vocabulary_is_python_s(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        codes = connection.execute("select code, name, canonical_unit from vocabulary_code").fetchall()
        units = connection.execute("select unit, ucum from vocabulary_unit").fetchall()
        conversions = connection.execute("select code, unit, factor, shift from vocabulary_conversion").fetchall()
        flags = connection.execute("select bit, name from vocabulary_flag").fetchall()
    assert set(codes) == {(int(code), code.wire, int(rule.canonical)) for code, rule in CODES.items()}
    assert set(units) == {(int(unit), ucum) for unit, ucum in UCUM.items()}
    assert set(flags) == {(int(flag), name) for flag, name in FLAG_NAMES.items()}
    assert set(conversions) == {
        (int(code), int(unit), use.factor, use.shift)
        for code, rule in CODES.items()
        for unit, use in rule.units.items()
    }


def test_a_changed_word_is_corrected(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("update vocabulary_code set name = 'wrong' where code = 1")
    migrate(database_url, NOW)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select name from vocabulary_code where code = 1").fetchone() == ("glucose",)

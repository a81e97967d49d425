"""What each role may see and write, relation by relation: all that PostgreSQL's catalogue says the API can reach.

The API works as `vigil_api`, in the name of a user; row security decides about every row. The tables below say what is
right. A relation, a column or a function that is granted and not in them fails, and so does a policy that lets through
more or less than they say.
"""

from collections import Counter
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.api.clinic import START, Clinic
from tests.api.everything import store_everything

ROLES = {
    "anna": "admin", "dora": "doctor", "emil": "doctor", "nils": "nurse", "paul": "patient", "ines": "integration",
    None: "nobody",
}  # fmt: skip
TEAMS = {"dora": {"Ada", "Ben"}, "nils": {"Ada", "Ben"}, "emil": {"Cleo"}, "paul": {"Ada"}, "ines": {"Ada"}}

# all: every row, team: those of the patients in whose care team the user is. `others` are rows of no patient: of the
# clinic, of devices that nobody wears or knows, of users.
READ = """
                      rows of   admin  doctor  nurse  patient  integration  nobody
alert                 patients  all    team    team   none     none         none
alert_history         patients  all    team    team   none     none         none
app_user              others    all    all     all    all      all          all
assignment            patients  all    team    team   none     none         none
care_team             patients  all    team    team   none     none         none
conflict              patients  all    team    team   none     none         none
consent               patients  all    team    team   none     none         none
device                patients  all    team    team   none     none         none
device                others    all    none    none   none     none         none
device_status_seen    patients  all    team    team   none     none         none
device_status_seen    others    all    none    none   none     none         none
dose                  patients  all    team    team   none     none         none
dose_schedule         patients  all    team    team   none     none         none
expected_code         patients  all    team    team   none     none         none
hrv_night             patients  all    team    team   none     none         none
hrv_window            patients  all    team    team   none     none         none
login_attempt         others    all    all     all    all      all          all
observation_seen      patients  all    team    team   none     none         none
outbox                patients  all    team    team   none     none         none
patient               patients  all    team    team   none     none         none
patient_group_history patients  all    team    team   none     none         none
patient_timezone      patients  all    team    team   none     none         none
pause                 patients  all    team    team   none     none         none
pillbox_event         patients  all    team    team   none     none         none
quarantine            patients  all    team    team   none     none         none
quarantine            others    all    none    none   none     none         none
quarantine_count      others    all    none    none   none     none         none
refresh_token         others    all    all     all    all      all          all
rr_series_seen        patients  all    team    team   none     none         none
rule_setting          patients  all    team    team   none     none         none
rule_setting          others    all    all     all    none     none         none
schema_migration      others    all    all     all    all      all          all
vocabulary_code       others    all    all     all    all      all          all
vocabulary_conversion others    all    all     all    all      all          all
vocabulary_flag       others    all    all     all    all      all          all
vocabulary_unit       others    all    all     all    all      all          all
"""

# Whoever logs in is nobody yet: users, refresh tokens and log-in attempts are for the API's own code to guard.
WRITTEN = """
                             rows of   admin  doctor  nurse  patient  integration  nobody
insert login_attempt         others    all    all     all    all      all          all
insert patient_group_history patients  all    team    team   none     none         none
insert pause                 patients  all    team    team   none     none         none
insert refresh_token         others    all    all     all    all      all          all
insert rule_setting          patients  all    team    team   none     none         none
insert rule_setting          others    none   none    none   none     none         none
update alert                 patients  all    team    team   none     none         none
update app_user              others    all    all     all    all      all          all
update login_attempt         others    all    all     all    all      all          all
update pause                 patients  all    team    team   none     none         none
update refresh_token         others    all    all     all    all      all          all
delete login_attempt         others    all    all     all    all      all          all
delete pause                 patients  all    team    team   none     none         none
delete refresh_token         others    all    all     all    all      all          all
"""

COLUMNS = {
    "select app_user": {"id", "email", "role", "password_hash", "disabled_at"},
    "update app_user": {"password_hash"},
    "update alert": {"state", "acknowledged_by", "acknowledged_at", "answered_grade", "snoozed_until", "resolved_at"}
    | {"updated_at"},
    "update pause": {"valid", "ended_at", "ended_by"},
}
"""Where not every column is granted."""

FUNCTIONS = {
    "alert_outbox_lock": "invoker",
    "bump_directory_version": "trigger",
    "counts": "invoker",
    "current_user_id": "invoker",
    "current_user_role": "definer",
    "devices_of": "invoker",
    "dose_rules_changed": "trigger",
    "dose_schedule_changed": "trigger",
    "flag_names": "invoker",
    "follow_newest_group": "trigger",
    "from_ms": "invoker",
    "may_administer": "invoker",
    "newest_reading": "invoker",
    "note_first_groups": "trigger",
    "pillbox_contact": "invoker",
    "recompute_doses": "trigger",
    "seen_patients": "definer",
    "spans_of": "invoker",
    "tell_of_alert": "definer",
    "to_ms": "invoker",
    "watched_at": "invoker",
    "zone_at": "invoker",
}
"""Whose rights a function works with; one with its owner's is asked below what it gives to whom."""

# Updates and deletes name no column that they read: what they touch is decided by their own policy alone.
STATEMENTS = {
    "insert login_attempt": "insert into login_attempt values ('b', '192.0.2.8', %(now)s, 1)",
    "insert patient_group_history": "insert into patient_group_history values (%(patient)s, %(now)s, 'new', %(user)s)",
    "insert pause": "insert into pause (patient_id, valid, reason, recorded_at, changed_by)"
    " values (%(patient)s, '[2026-12-01T00:00Z,2026-12-02T00:00Z)', 'on holiday', %(now)s, %(user)s)",
    "insert refresh_token": "insert into refresh_token"
    " values ('u', '00000000-0000-0000-0000-000000000001', %(somebody)s, %(now)s, %(now)s)",
    "insert rule_setting": "insert into rule_setting (patient_id, rule, changes, valid_from, changed_by)"
    " values (%(patient)s, 'threshold', '{}', %(now)s, %(user)s)",
    "update alert": "update alert set updated_at = 'infinity'",
    "update app_user": "update app_user set password_hash = 'x'",
    "update login_attempt": "update login_attempt set attempts = 7",
    "update pause": "update pause set ended_at = %(now)s, ended_by = %(user)s",
    "update refresh_token": "update refresh_token set used_at = %(now)s",
    "delete login_attempt": "delete from login_attempt",
    "delete pause": "delete from pause",
    "delete refresh_token": "delete from refresh_token",
}

WEARER = "(select a.patient_id from assignment a where a.device_key = t.{})"
WHOSE = {
    "patient": "t.id",
    "alert_history": "(select a.patient_id from alert a where a.id = t.alert_id)",
    "device": WEARER.format("key"),
    "device_status": WEARER.format("device_key"),
    **dict.fromkeys(
        ["app_user", "login_attempt", "quarantine_count", "refresh_token", "schema_migration"], "null::integer"
    ),
    **{f"vocabulary_{name}": "null::integer" for name in ("code", "conversion", "flag", "unit")},
}
"""How a row says whose it is, where not by its `patient_id`."""

Access = dict[tuple[str, str], dict[str, str]]


def table(text: str) -> Access:
    """Read one of the tables above: what each role may, by relation (or command and relation) and by whose rows."""
    head, *lines = text.strip("\n").splitlines()
    roles = head.split()[2:]
    access = {}
    for line in lines:
        *what, of = line.split()[: -len(roles)]
        access[" ".join(what), of] = dict(zip(roles, line.split()[-len(roles) :], strict=True))
    return access


@pytest.fixture
def clinic(clinic: Clinic) -> Clinic:
    """The clinic with one row of everything."""
    store_everything(clinic)
    return clinic


def become(clinic: Clinic, user: str | None) -> None:
    """Be the API in the name of a user for the rest of the transaction."""
    clinic.connection.execute("set local role vigil_api")
    key = "" if user is None else str(clinic.users[user])
    clinic.connection.execute("select set_config('vigil.user_id', %s, true)", (key,))


def rows(clinic: Clinic, relation: str, content: str = "''") -> Counter[tuple[str, Any]]:
    """Return how many rows of whom a query without any condition of its own gets."""
    whose = WHOSE.get(relation.removesuffix("_seen"), "t.patient_id")
    names = {key: name for name, key in clinic.patients.items()}
    query = f"select {whose}, {content} from {relation} t"  # noqa: S608
    return Counter((names.get(row[0], "others"), row[1]) for row in clinic.connection.execute(query.encode()))


def allowed(access: Access, what: str, user: str | None, everybody: set[str]) -> set[str]:
    """Return whose rows the table lets a user have: names of patients, and `others`."""
    found: set[str] = set()
    for (name, of), scopes in access.items():
        if name == what:
            of_kind = everybody & {"others"} if of == "others" else everybody - {"others"}
            scope = {"all": of_kind, "team": of_kind & TEAMS.get(user or "", set()), "none": set[str]()}
            found |= scope[scopes[ROLES[user]]]
    return found


def check_reads(clinic: Clinic, relation: str) -> None:
    """Compare what each user sees of a relation with the table."""
    access = table(READ)
    there = rows(clinic, relation.removesuffix("_seen"))
    everybody = {whose for whose, _ in there}
    assert {of for name, of in access if name == relation} == {
        "others" if whose == "others" else "patients" for whose in everybody
    }, f"{relation} has rows of which the table says nothing, or none of those it speaks of"
    for user in ROLES:
        with clinic.connection.transaction(force_rollback=True):
            become(clinic, user)
            seen = rows(clinic, relation)
        wanted = allowed(access, relation, user, everybody)
        assert seen == Counter({key: count for key, count in there.items() if key[0] in wanted}), (relation, user)


def write(clinic: Clinic, user: str | None, statement: str, **values: Any) -> None:
    become(clinic, user)
    known = {"now": START, "user": None if user is None else clinic.users[user], "somebody": clinic.users["paul"]}
    clinic.connection.execute(statement.encode(), {**known, **values})


def written(clinic: Clinic, user: str | None, what: str, **values: Any) -> set[str]:
    """Return whose rows a user's statement adds, changes or takes away."""
    relation = what.split()[1]
    with clinic.connection.transaction(force_rollback=True):
        before = rows(clinic, relation, "t::text")
        try:
            with clinic.connection.transaction():
                write(clinic, user, STATEMENTS[what], **values)
                clinic.connection.execute("reset role")
        except psycopg.errors.InsufficientPrivilege:
            return set()
        after = rows(clinic, relation, "t::text")
        return {whose for whose, _ in (after - before) | (before - after)}


def check_writes(clinic: Clinic, what: str) -> None:
    """Compare what each user's statements do to a relation with the table; inserts are tried for each patient."""
    access = table(WRITTEN)
    kinds = {of for name, of in access if name == what}
    everybody = (set(clinic.patients) if "patients" in kinds else set()) | ({"others"} & kinds)
    for user in ROLES:
        done: set[str] = set()
        for whose in everybody:
            patient = clinic.patients.get(whose)
            alert = clinic.value("select id from alert where patient_id = %s", patient)
            done |= written(clinic, user, what, patient=patient, alert=alert, alerts=[alert])
        assert done == allowed(access, what, user, everybody), (what, user)


def check_access(clinic: Clinic, what: str) -> None:
    """Compare what each user may do with the tables; `what` is a command and a relation."""
    if what.startswith("select "):
        check_reads(clinic, what.removeprefix("select "))
    else:
        check_writes(clinic, what)


def granted(clinic: Clinic) -> dict[str, set[str]]:
    """Return every privilege of the API on a relation that is no part of PostgreSQL or of an extension, with its columns."""
    query = """
        select what || ' ' || c.oid::regclass,
               array(select attname from pg_attribute a where a.attrelid = c.oid and attnum > 0 and not attisdropped
                       and has_column_privilege('vigil_api', c.oid, attnum, what)),
               has_table_privilege('vigil_api', c.oid, what)
        from pg_class c, unnest('{select,insert,update,references}'::text[]) as what
        where relkind in ('r', 'p', 'v', 'm', 'f') and has_any_column_privilege('vigil_api', c.oid, what) and {own}
        union all
        select what || ' ' || c.oid::regclass, '{}', true
        from pg_class c, unnest('{delete,truncate,trigger}'::text[]) as what
        where relkind in ('r', 'p', 'v', 'm', 'f') and has_table_privilege('vigil_api', c.oid, what) and {own}
        union all
        select 'use ' || c.oid::regclass, '{}', true from pg_class c
        where case relkind when 'S' then has_sequence_privilege('vigil_api', c.oid, 'usage, select, update') end and {own}"""
    own = """relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema')
        and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')"""
    found = clinic.connection.execute(query.replace("{own}", own).encode())
    return {what: set() if whole else set(columns) for what, columns, whole in found}


def test_the_tables_name_every_relation_and_column_that_the_api_can_reach(clinic: Clinic) -> None:
    grants = granted(clinic)
    assert {f"select {name}" for name, _ in table(READ)} == {what for what in grants if what.startswith("select ")}
    assert {what for what, _ in table(WRITTEN)} == {what for what in grants if not what.startswith("select ")}
    assert {what: columns for what, columns in grants.items() if columns} == COLUMNS


def test_each_role_sees_what_the_table_says(clinic: Clinic) -> None:
    for relation in sorted({name for name, _ in table(READ)}):
        check_reads(clinic, relation)


def test_each_role_writes_what_the_table_says(clinic: Clinic) -> None:
    for what in STATEMENTS:
        check_writes(clinic, what)


def test_a_disabled_user_sees_and_writes_what_nobody_does(clinic: Clinic) -> None:
    seen: dict[str | None, list[Any]] = {}
    clinic.connection.execute("update app_user set disabled_at = %s", (START,))
    for user in ROLES:
        seen[user] = []
        for relation in sorted({name for name, _ in table(READ)}):
            with clinic.connection.transaction(force_rollback=True):
                become(clinic, user)
                seen[user].append(rows(clinic, relation))
        alert = clinic.value("select id from alert where patient_id = %s", clinic.patients["Ada"])
        values = {"patient": clinic.patients["Ada"], "alert": alert, "alerts": [alert]}
        seen[user] += [written(clinic, user, what, **values) for what in STATEMENTS]
    assert all(of_user == seen[None] for of_user in seen.values())


def test_every_policy_is_needed(clinic: Clinic) -> None:
    """Open wide, each of them shows in the tables: so a policy that is loosened by mistake does, too."""
    policies = clinic.connection.execute(
        "select tablename, policyname, cmd, qual, with_check from pg_policies"
    ).fetchall()
    assert policies
    for relation, name, command, qual, check in policies:
        opened = sql.SQL("alter policy {} on {}").format(sql.Identifier(name), sql.Identifier(relation))
        opened += sql.SQL(" using (true)") if qual else sql.SQL("")
        opened += sql.SQL(" with check (true)") if check else sql.SQL("")
        with clinic.connection.transaction(force_rollback=True):
            clinic.connection.execute(opened)
            with pytest.raises(AssertionError):
                check_access(clinic, f"{command.lower()} {relation}")


def test_functions_give_nobody_more_than_their_rows(clinic: Clinic) -> None:
    query = """
        select proname, case when prorettype = 'trigger'::regtype then 'trigger' when prosecdef then 'definer' else 'invoker' end
        from pg_proc p where has_function_privilege('vigil_api', p.oid, 'execute')
          and pronamespace::regnamespace::text not in ('pg_catalog', 'information_schema')
          and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')"""
    assert dict(clinic.connection.execute(query.encode()).fetchall()) == FUNCTIONS
    names = {key: name for name, key in clinic.patients.items()}
    for user, role in ROLES.items():
        with clinic.connection.transaction(force_rollback=True):
            become(clinic, user)
            seen = {names[row[0]] for row in clinic.connection.execute("select seen_patients()")}
            assert seen == (TEAMS.get(user or "", set()) if role in {"doctor", "nurse"} else set()), user
            assert clinic.value("select may_administer()") is (role == "admin"), user
            assert clinic.value("select current_user_role()") == (None if user is None else role), user
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                clinic.value("select pillbox_contact(%s, '-infinity')", clinic.devices["cgm-ada"])


def test_the_role_of_the_api_has_no_powers_but_those(clinic: Clinic) -> None:
    role = "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin from pg_roles where rolname = 'vigil_api'"
    assert clinic.connection.execute(role.encode()).fetchone() == (False,) * 5
    assert clinic.value("select count(*) from pg_auth_members where member = 'vigil_api'::regrole") == 0
    assert not clinic.value("select has_schema_privilege('vigil_api', 'public', 'create')")
    views = "select relname from pg_class where relkind = 'v' and has_table_privilege('vigil_api', oid, 'select')"
    barriers = f"{views} and relnamespace = 'public'::regnamespace and not coalesce(reloptions, '{{}}') @> '{{security_barrier=true}}'"
    assert clinic.connection.execute(barriers.encode()).fetchall() == [], "a view that leaks to a cheap function"


REFUSED = {
    "a note in another's name": "insert into alert_history (alert_id, at, action, actor)"
    " values (%(alert)s, %(now)s, 'note', %(somebody)s)",
    "a note in Vigil's name": "insert into alert_history (alert_id, at, action) values (%(alert)s, %(now)s, 'note')",
    "a rule in another's name": "insert into rule_setting (patient_id, rule, changes, valid_from, changed_by)"
    " values (%(patient)s, 'threshold', '{}', %(now)s, %(somebody)s)",
    "a rule as if from the shell": "insert into rule_setting (patient_id, rule, changes, valid_from)"
    " values (%(patient)s, 'threshold', '{}', %(now)s)",
    "a group in another's name": "insert into patient_group_history values (%(patient)s, %(now)s, 'new', %(somebody)s)",
    "a pause in another's name": "insert into pause (patient_id, valid, reason, recorded_at, changed_by)"
    " values (%(patient)s, '[2026-12-01T00:00Z,2026-12-02T00:00Z)', 'on holiday', %(now)s, %(somebody)s)",
    "a pause that somebody has ended": "insert into pause (patient_id, valid, reason, recorded_at, changed_by, ended_by)"
    " values (%(patient)s, '[2026-12-01T00:00Z,2026-12-02T00:00Z)', 'on holiday', %(now)s, %(user)s, %(user)s)",
    "the end of a pause in another's name": "update pause set ended_at = %(now)s, ended_by = %(somebody)s",
}


@pytest.mark.parametrize("what", REFUSED)
def test_nobody_writes(clinic: Clinic, what: str) -> None:
    patient = clinic.patients["Ada"]
    alert = clinic.value("select id from alert where patient_id = %s", patient)
    for user in ("anna", "dora"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), clinic.connection.transaction():
            write(clinic, user, REFUSED[what], patient=patient, alert=alert)


def test_a_pause_that_has_been_ended_stays_as_it_is(clinic: Clinic) -> None:
    clinic.connection.execute("update pause set ended_at = %s", (START,))
    for user in ROLES:
        for what in ("update pause", "delete pause"):
            assert written(clinic, user, what) == set(), (user, what)

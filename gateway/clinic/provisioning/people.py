"""Patients with their zones and consents, users and their care teams."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from devices.vocabulary import Code
from gateway.clinic.passwords import PasswordError, hash_password
from gateway.clinic.provisioning.core import SQL, Core, check_group, check_instant, check_timezone
from gateway.clinic.provisioning.errors import AlreadyExistsError, InvalidValueError, NotFoundError
from gateway.clinic.provisioning.records import NewPatient, PatientRow, UserRow

ROLES = ("admin", "doctor", "nurse", "patient", "integration")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,253}")


class People(Core):
    """The part of Provisioning for people."""

    async def add_patient(
        self,
        name: str,
        timezone: str,
        *,
        hypoglycaemia_risk: bool = False,
        group: str = "stable",
        expected: Mapping[Code, timedelta] | None = None,
        consent: bool = True,
    ) -> int:
        """Add a patient who has always lived by `timezone`, by default with consent for past and future."""
        patient = NewPatient(name, timezone, hypoglycaemia_risk, group, expected or {}, consent)
        return (await self.add_patients([patient]))[0]

    async def add_patients(self, patients: Sequence[NewPatient]) -> list[int]:
        """Add many patients at once, all or none; return their ids in the same order."""
        for patient in patients:
            _check_patient(patient)
        if not patients:
            return []
        async with self._connection.transaction():
            ids: list[int] = await self._column(SQL.patient_ids, {"count": len(patients)})
            expected = [(i, c, every) for i, p in zip(ids, patients, strict=True) for c, every in p.expected.items()]
            values = {
                "ids": ids,
                "names": [patient.name for patient in patients],
                "risks": [patient.hypoglycaemia_risk for patient in patients],
                "groups": [patient.group for patient in patients],
                "timezones": [patient.timezone for patient in patients],
                "now": self._now,
            }
            await self._connection.execute(SQL.add_patients, values)
            await self._connection.execute(SQL.add_first_timezones, values)
            consenting = [i for i, patient in zip(ids, patients, strict=True) if patient.consent]
            await self._connection.execute(SQL.add_first_consents, {"ids": consenting, "now": self._now})
            await self._connection.execute(
                SQL.add_expected_codes,
                {
                    "ids": [i for i, _, _ in expected],
                    "codes": [int(code) for _, code, _ in expected],
                    "intervals": [every for _, _, every in expected],
                },
            )
        return ids

    async def set_timezone(self, patient_id: int, timezone: str, since: datetime | None) -> None:
        """Have the patient live by this zone from `since` on (None: since ever), until a later entry."""
        check_timezone(timezone)
        check_instant("the beginning", since)
        async with self._connection.transaction():
            await self._lock_patient(patient_id)
            values = {"patient_id": patient_id, "timezone": timezone, "since": since}
            await self._connection.execute(SQL.set_timezone, values)

    async def expect(self, patient_id: int, expected: Mapping[Code, timedelta]) -> None:
        """Set which codes the patient should send and how often; other codes are no longer expected."""
        _check_expected(expected)
        async with self._connection.transaction():
            await self._lock_patient(patient_id)
            values = {
                "patient_id": patient_id,
                "codes": [int(code) for code in expected],
                "intervals": list(expected.values()),
            }
            await self._connection.execute(SQL.expect_no_others, values)
            await self._connection.execute(SQL.expect, values)

    async def withdraw_consent(self, patient_id: int, at: datetime) -> None:
        """Refuse the patient's data measured at `at` or later; an error if there is no consent to withdraw."""
        check_instant("the end of the consent", at)
        async with self._connection.transaction():
            await self._lock_patient(patient_id)
            values = {"patient_id": patient_id, "at": at, "now": self._now}
            shortened = await self._column(SQL.shorten_consent, values)
            dropped = await self._column(SQL.drop_later_consents, values)
            if not shortened and not dropped:
                raise InvalidValueError(f"patient {patient_id} has no consent at or after {at.isoformat()}")

    async def give_consent(self, patient_id: int, at: datetime) -> None:
        """Accept the patient's data measured from `at` on; changes nothing if a consent covers it already."""
        check_instant("the beginning of the consent", at)
        async with self._connection.transaction():
            await self._lock_patient(patient_id)
            values = {"patient_id": patient_id, "at": at, "now": self._now}
            if not await self._value(SQL.consent_covers, values):
                await self._connection.execute(SQL.give_consent, values)

    async def list_patients(self) -> list[PatientRow]:
        """Return every patient, by id."""
        return await self._rows(PatientRow, SQL.list_patients, {"now": self._now})

    async def add_user(self, email: str, role: str, password: str, patient_ids: Sequence[int] = ()) -> int:
        """Add a user who may see these patients; the email address is compared without regard to case."""
        email = email.strip().lower()
        if not _EMAIL.fullmatch(email) or len(email) > 254:
            raise InvalidValueError(f"{email!r} is not an e-mail address")
        if role not in ROLES:
            raise InvalidValueError(f"{role!r} is not a role: {', '.join(ROLES)}")
        try:
            password_hash = await asyncio.to_thread(hash_password, password)
        except PasswordError as error:
            raise InvalidValueError(str(error)) from error
        async with self._connection.transaction():
            await self._require_patients(patient_ids)
            values = {"email": email, "role": role, "password_hash": password_hash, "now": self._now}
            user_id = await self._value(SQL.add_user, values)
            if user_id is None:
                raise AlreadyExistsError(f"there is a user {email} already")
            await self._add_to_care_team(int(user_id), patient_ids)
        return int(user_id)

    async def add_to_care_team(self, email: str, patient_ids: Sequence[int]) -> None:
        """Let a user see more patients."""
        async with self._connection.transaction():
            user_id = await self._value(SQL.user_id, {"email": email.strip().lower()})
            if user_id is None:
                raise NotFoundError(f"there is no user {email}")
            await self._require_patients(patient_ids)
            await self._add_to_care_team(int(user_id), patient_ids)

    async def disable_user(self, email: str) -> None:
        """End a user's access: they can no longer log in, and their refresh tokens are void at once."""
        if await self._value(SQL.disable_user, {"email": email.strip().lower(), "now": self._now}) is None:
            raise NotFoundError(f"there is no user {email}")

    async def list_users(self) -> list[UserRow]:
        """Return every user, by email address."""
        return await self._rows(UserRow, SQL.list_users, {})

    async def _add_to_care_team(self, user_id: int, patient_ids: Sequence[int]) -> None:
        values = {"user_id": user_id, "patient_ids": list(patient_ids), "now": self._now}
        await self._connection.execute(SQL.add_to_care_team, values)

    async def _lock_patient(self, patient_id: int) -> None:
        if await self._value(SQL.lock_patient, {"patient_id": patient_id}) is None:
            raise NotFoundError(f"there is no patient {patient_id}")


def _check_patient(patient: NewPatient) -> None:
    check_timezone(patient.timezone)
    if not 1 <= len(patient.name) <= 200 or not patient.name.strip():
        raise InvalidValueError("a patient's name has 1 to 200 characters")
    check_group(patient.group)
    _check_expected(patient.expected)


def _check_expected(expected: Mapping[Code, timedelta]) -> None:
    if any(every <= timedelta(0) for every in expected.values()):
        raise InvalidValueError("an expected interval is longer than nothing")

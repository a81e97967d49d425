"""Devices: their rows, their accounts at the broker, and who wears them."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from devices.vocabulary import DEVICE_ID, DeviceModel
from gateway.clinic.broker_accounts import BrokerAccountError, BrokerAccounts
from gateway.clinic.provisioning.bindings import Bindings, checked_address
from gateway.clinic.provisioning.core import SQL, check_instant
from gateway.clinic.provisioning.errors import (
    AlreadyExistsError,
    InvalidValueError,
    NotFoundError,
    WornByAnotherError,
)
from gateway.clinic.provisioning.records import AccountMismatch, DeviceRow, NewDevice

MODALITIES: Final = ("ecg", "ppg")


class Devices(Bindings):
    """The part of Provisioning for devices.

    The account comes first, then the row: a crash in between leaves an account whose device nobody knows. Its messages
    are quarantined as `unknown_device`, `account_mismatch` names it, and adding the device again takes it over. A row
    without an account cannot arise that way; should an account be lost with the broker's disk, `rotate_secret` makes a
    new one.
    """

    async def add_device(
        self,
        device_id: str,
        model: DeviceModel | str,
        patient_id: int | None = None,
        since: datetime | None = None,
        address: str | None = None,
        via: str | None = None,
        modality: str | None = None,
        expected_interval: timedelta | None = None,
    ) -> str:
        """Add a device and its account; return the secret, which is stored nowhere else. See `add_devices`."""
        try:
            known = DeviceModel(model)
        except ValueError:
            raise InvalidValueError(f"{model!r} is not a model: {', '.join(DeviceModel)}") from None
        device = NewDevice(device_id, known, patient_id, since, address, via, modality, expected_interval)
        return (await self.add_devices([device]))[device_id]

    async def add_devices(
        self, devices: Sequence[NewDevice], on_progress: Callable[[int], None] | None = None
    ) -> dict[str, str]:
        """Add devices, all or none; return their secrets by id ("" each without a broker).

        A device with a patient is worn by them from its `since` on, or from now. `via` is the edge box that reads it;
        it may be in the same list. `on_progress` hears how many more accounts are made.
        """
        if not devices:
            return {}
        devices = [_with_checked_address(device) for device in devices]
        ids = [device.id for device in devices]
        async with self._turn():
            await self._check_new(devices)
            if self._broker is None:
                await self._insert(devices)
                return dict.fromkeys(ids, "")
            try:
                secrets = await self._broker.create_device_accounts(ids, on_progress)
                await self._insert(devices)
            except BaseException as error:
                await _take_back(self._broker, ids, error)
                raise
        return secrets

    async def assign(
        self, device_id: str, patient_id: int, since: datetime | None = None, until: datetime | None = None
    ) -> None:
        """Have the patient wear the device from `since` (None: now) until `until` (None: further notice).

        An earlier open-ended assignment ends at `since`. Any other overlap raises WornByAnotherError.
        """
        since = check_instant("the beginning", since) or self._now
        check_instant("the end", until)
        if until is not None and until <= since:
            raise InvalidValueError("the end of an assignment lies after its beginning")
        async with self._connection.transaction():
            key, _ = await self._lock_device(device_id)
            await self._require_patients([patient_id])
            values = {"device_key": key, "patient_id": patient_id, "since": since, "until": until, "at": since}
            if until is None and await self._value(SQL.wears_from, values):
                return
            await self._connection.execute(SQL.end_assignment, values)
            overlap = await (await self._connection.execute(SQL.overlapping_assignment, values)).fetchone()
            if overlap is not None:
                raise WornByAnotherError(device_id, *overlap)
            await self._connection.execute(
                SQL.add_assignments,
                {
                    "ids": [device_id],
                    "patient_ids": [patient_id],
                    "sinces": [since],
                    "untils": [until],
                    "now": self._now,
                },
            )

    async def unassign(self, device_id: str, at: datetime | None = None) -> None:
        """End the device's open-ended assignment at `at` (None: now)."""
        at = check_instant("the end", at) or self._now
        async with self._connection.transaction():
            key, _ = await self._lock_device(device_id)
            if not await self._column(SQL.end_assignment, {"device_key": key, "at": at}):
                raise InvalidValueError(f"device {device_id} is not worn by anybody without an end at {at.isoformat()}")

    async def disable_device(self, device_id: str) -> None:
        """Refuse the device at the broker and cut it off now; its assignment stays as it is."""
        async with self._connection.transaction():
            key, disabled_at = await self._lock_device(device_id)
            values = {"device_key": key, "disabled_at": disabled_at or self._now}
            await self._connection.execute(SQL.set_disabled, values)
            if self._broker is not None:
                await self._broker.disable(device_id)

    async def enable_device(self, device_id: str) -> None:
        """Let a disabled device log in again, with the secret it had."""
        async with self._connection.transaction():
            key, _ = await self._lock_device(device_id)
            await self._connection.execute(SQL.set_disabled, {"device_key": key, "disabled_at": None})
            if self._broker is not None:
                await self._broker.enable(device_id)

    async def rotate_secret(self, device_id: str) -> str:
        """Give the device a new secret and return it ("" without a broker); the old one ends, the device is cut off."""
        async with self._connection.transaction():
            _, disabled_at = await self._lock_device(device_id)
            if disabled_at is not None:
                raise InvalidValueError(f"device {device_id} is disabled: enable it first")
            return "" if self._broker is None else await self._broker.rotate_secret(device_id)

    async def list_devices(self) -> list[DeviceRow]:
        """Return every device, by id."""
        return await self._rows(DeviceRow, SQL.list_devices, {"now": self._now})

    async def account_mismatch(self) -> AccountMismatch:
        """Compare the devices with the broker's accounts."""
        if self._broker is None:
            return AccountMismatch([], [], [], [])
        enabled = {account.device_id: account.enabled for account in await self._broker.accounts()}
        wanted = {device.id: device.disabled_at is None for device in await self.list_devices()}
        both = sorted(enabled.keys() & wanted.keys())
        return AccountMismatch(
            without_account=sorted(wanted.keys() - enabled.keys()),
            without_device=sorted(enabled.keys() - wanted.keys()),
            wrongly_enabled=[name for name in both if enabled[name] and not wanted[name]],
            wrongly_disabled=[name for name in both if wanted[name] and not enabled[name]],
        )

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One at a time: a failure removes accounts, and must not remove those another call has just made."""
        await self._connection.execute(SQL.take_turn)
        try:
            yield
        finally:
            if not self._connection.closed:
                await self._connection.execute(SQL.end_turn)

    async def _check_new(self, devices: Sequence[NewDevice]) -> None:
        counts = Counter(device.id for device in devices)
        for device in devices:
            if not DEVICE_ID.match(device.id):
                raise InvalidValueError(f"{device.id!r} is not a device id: 1 to 64 letters, digits, '-' and '_'")
            if counts[device.id] > 1:
                raise InvalidValueError(f"device {device.id} stands in the list twice")
            if device.via == device.id:
                raise InvalidValueError(f"device {device.id} cannot be read by itself")
            _check_measuring(device)
            check_instant("the beginning", device.since)
            if device.since is not None and device.patient_id is None:
                raise InvalidValueError(f"device {device.id} has a beginning but no patient")
        taken = await self._column(SQL.known_devices, {"ids": list(counts)})
        if taken:
            raise AlreadyExistsError(
                f"there is a device {', '.join(taken)} already: `vigil device rotate` gives it a new secret, "
                "`vigil device assign` another wearer"
            )
        await self._require_patients([device.patient_id for device in devices if device.patient_id is not None])
        edges = [device.id for device in devices if device.model is DeviceModel.EDGE]
        bound = [(device.id, device.via) for device in devices if device.via is not None]
        await self._check_readers([read for read, _ in bound], [via for _, via in bound], edges)

    async def _insert(self, devices: Sequence[NewDevice]) -> None:
        bound = [(device.id, device.via, device.address) for device in devices if device.via is not None]
        worn = [device for device in devices if device.patient_id is not None]
        async with self._connection.transaction():
            await self._connection.execute(
                SQL.add_devices,
                {
                    "ids": [device.id for device in devices],
                    "models": [device.model.value for device in devices],
                    "addresses": [device.address for device in devices],
                    "modalities": [device.modality for device in devices],
                    "intervals": [device.expected_interval for device in devices],
                    "now": self._now,
                },
            )
            if bound:
                await self._bind(bound)
            if worn:
                await self._connection.execute(
                    SQL.add_assignments,
                    {
                        "ids": [device.id for device in worn],
                        "patient_ids": [device.patient_id for device in worn],
                        "sinces": [device.since or self._now for device in worn],
                        "untils": [None] * len(worn),
                        "now": self._now,
                    },
                )

    async def _lock_device(self, device_id: str) -> tuple[int, datetime | None]:
        row = await (await self._connection.execute(SQL.lock_device, {"device_id": device_id})).fetchone()
        if row is None:
            raise NotFoundError(f"there is no device {device_id}")
        return int(row[0]), row[2]


def _with_checked_address(device: NewDevice) -> NewDevice:
    return device if device.address is None else replace(device, address=checked_address(device.address))


def _check_measuring(device: NewDevice) -> None:
    if device.modality is not None and device.modality not in MODALITIES:
        raise InvalidValueError(f"{device.modality!r} is not a modality: {', '.join(MODALITIES)}")
    if device.expected_interval is not None and device.expected_interval <= timedelta(0):
        raise InvalidValueError("an expected interval is longer than nothing")


async def _take_back(broker: BrokerAccounts, ids: Sequence[str], cause: BaseException) -> None:
    """Remove accounts whose devices could not be stored; if that fails too, say so together with the cause."""
    try:
        await broker.delete(ids)
    except BrokerAccountError as error:
        cause.add_note(
            f"accounts without a device may be left at the broker ({error}); adding the devices again heals it"
        )

"""Shared by the provisioning commands: their options, and a provisioning to work with."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, tzinfo
from typing import Annotated, TypeVar

import psycopg
import typer

from deploy.moved_clock import refuse_moved_clock
from deploy.settings import DatabaseSettings, Settings, load_settings
from gateway.clinic.broker_accounts import BrokerAccountError, BrokerAccounts
from gateway.clinic.provisioning import InvalidValueError, Provisioning, ProvisioningError
from gateway.runtime import clock

_Result = TypeVar("_Result")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Begin = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="RFC 3339; without an offset, the patient's local time. Now if not given."
    ),
]


def group_of_commands(help_text: str) -> typer.Typer:
    """Return an application for commands with the same first word."""
    return typer.Typer(help=help_text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def run_provisioning(work: Callable[[Provisioning], Awaitable[_Result]], *, broker: bool = False) -> _Result:
    """Do the work and return its result; a refusal is one line on stderr and exit code 1, wrong usage 2."""

    async def run() -> _Result:
        async with _provisioning(broker=broker) as provisioning:
            return await work(provisioning)

    try:
        return asyncio.run(run())
    except (ProvisioningError, BrokerAccountError) as error:
        sys.stderr.write("".join(f"vigil: {line}\n" for line in (str(error), *getattr(error, "__notes__", ()))))
        raise typer.Exit(2 if isinstance(error, InvalidValueError) else 1) from None


@asynccontextmanager
async def _provisioning(*, broker: bool) -> AsyncIterator[Provisioning]:
    async with AsyncExitStack() as stack:
        accounts = None
        if broker:
            settings = load_settings(Settings)
            ca_file = None if settings.mqtt_ca_file is None else str(settings.mqtt_ca_file)
            accounts = await stack.enter_async_context(BrokerAccounts.connect(settings.mqtt_url, ca_file))
            await accounts.ensure_device_role()
        url = load_settings(DatabaseSettings).database_url
        refuse_moved_clock(url)
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        yield Provisioning(await stack.enter_async_context(connection), accounts, clock.now())


async def instant(provisioning: Provisioning, text: str | None, patient_id: int | None) -> datetime:
    """Return the time in the text; one without an offset is the patient's local time; None is now."""
    if text is None:
        return clock.now()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidValueError(f"{text!r} is not a time such as 2026-11-02T08:00+08:00") from None
    if at.tzinfo is not None:
        return at
    zone: tzinfo = UTC
    if patient_id is not None:
        zone = await provisioning.timezone_of(patient_id)
    return at.replace(tzinfo=zone).astimezone(UTC)

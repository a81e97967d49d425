"""Device accounts at the broker, managed through Mosquitto's dynamic security plugin.

A device logs in with its id as user name and may use its own topics only. The plugin of Mosquitto 2.0 has no rule that
names the user (`%u`), so those rules are in the broker's `acl_file`, which is consulted about whatever the plugin does
not decide. A device's account has the role `device`, which allows nothing: it only marks the account as a device's.

Mosquitto 2.0 writes its whole account file after every single command, some 5 µs for each account in it, and serves
nobody meanwhile. So 1,000 new accounts take about 2 s, 2,000 about 7 s and 10,000 several minutes, and commands go out
in messages small enough that devices on the same broker hardly notice.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiomqtt
import msgspec

from devices.vocabulary import DEVICE_ID
from gateway.runtime.broker_address import mqtt_client, parse_url
from gateway.runtime.clock import monotonic

CONTROL_TOPIC: Final = "$CONTROL/dynamic-security/v1"
RESPONSE_TOPIC: Final = f"{CONTROL_TOPIC}/response"
ROLE: Final = "device"
SECRET_BYTES: Final = 24
"""192 random bits: 32 characters of URL-safe base64. The broker's cheap hash of it cannot be searched."""

TIMEOUT_S: Final = 30.0
FIRST_COMMANDS: Final = 8
MAX_COMMANDS: Final = 256
BUSY_S: Final = 0.05
"""How long one message of commands may keep the broker from its other work."""
PAGE: Final = 500
SUBACK_REFUSED: Final = 0x80

DEFAULT_ACCESS: Final = {
    "publishClientSend": False,
    "publishClientReceive": False,
    "subscribe": False,
    "unsubscribe": True,
}


class BrokerAccountError(Exception):
    """The broker could not be reached, or refused; the text says which and why, never with a password."""


@dataclass(frozen=True, slots=True)
class Account:
    """A device's account as the broker knows it."""

    device_id: str
    enabled: bool


class _Response(msgspec.Struct, rename="camel", frozen=True):
    """The answer to one command: `error` is None when it was done."""

    correlation_data: str = ""
    error: str | None = None
    data: Mapping[str, Any] = msgspec.field(default_factory=dict)


class _Responses(msgspec.Struct, frozen=True):
    """The plugin's response to one message of commands: an answer to each, in their order."""

    responses: list[_Response]


class BrokerAccounts:
    """The device accounts of one broker. Every method raises BrokerAccountError if the broker does not do as asked.

    Safe for several tasks at once: they take turns.
    """

    def __init__(self, client: aiomqtt.Client, timeout_s: float = TIMEOUT_S) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._name = secrets.token_hex(8)  # every administrator of the broker hears all answers
        self._asked = 0

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, ca_file: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> AsyncIterator["BrokerAccounts"]:
        """Log in with an account that may administer the broker; `url` is mqtt:// or mqtts:// with user and password.

        Raises BrokerAccountError if the broker cannot be reached, or the account may not administer it.
        """
        try:
            address = parse_url(url, ca_file)
        except ValueError as error:
            raise BrokerAccountError(str(error)) from error
        place = f"the broker at {address.host}:{address.port}"
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(mqtt_client(address, timeout=timeout_s))
                codes = await client.subscribe(RESPONSE_TOPIC, qos=1)
            except aiomqtt.MqttError as error:
                raise BrokerAccountError(f"{place}: {error}") from error
            if any(getattr(code, "value", code) >= SUBACK_REFUSED for code in codes):
                raise BrokerAccountError(f"{place} does not let {address.username or 'this account'} administer it")
            yield cls(client, timeout_s)

    async def ensure_device_role(self) -> None:
        """Create the role `device`, which allows nothing by itself, and close the defaults, unless that is done."""
        role, access = await self._ask([{"command": "getRole", "rolename": ROLE}, {"command": "getDefaultACLAccess"}])
        commands: list[dict[str, Any]] = []
        if role.error is not None:
            commands.append({"command": "createRole", "rolename": ROLE, "acls": []})
        elif role.data.get("role", {}).get("acls"):
            commands.append({"command": "modifyRole", "rolename": ROLE, "acls": []})
        if {rule["acltype"]: rule["allow"] for rule in access.data.get("acls", ())} != DEFAULT_ACCESS:
            closed = [{"acltype": kind, "allow": allow} for kind, allow in DEFAULT_ACCESS.items()]
            commands.append({"command": "setDefaultACLAccess", "acls": closed})
        for answer in await self._ask(commands):
            _raise(answer.error)

    async def create_device_account(self, device_id: str) -> str:
        """Create the account of one device; return its secret. See `create_device_accounts`."""
        return (await self.create_device_accounts([device_id]))[device_id]

    async def create_device_accounts(
        self, device_ids: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> dict[str, str]:
        """Create an account for each device; return their secrets of 32 URL-safe characters by device id.

        An existing device account (from a provisioning that did not finish) is taken over: new secret, enabled. A name
        whose account is not a device's is refused, before anything is created. `on_progress` hears how many more are
        done.
        """
        created = {_check(device_id): secrets.token_urlsafe(SECRET_BYTES) for device_id in device_ids}
        present = await self._existing(device_ids)
        roles = [{"rolename": ROLE}]
        fresh = [name for name in created if name not in present]
        await self._do(
            [
                {"command": "createClient", "username": name, "password": created[name], "roles": roles}
                for name in fresh
            ],
            on_progress,
        )
        await self._do(
            [{"command": "setClientPassword", "username": name, "password": created[name]} for name in present],
            on_progress,
        )
        await self._do([{"command": "enableClient", "username": name} for name in present])
        return created

    async def rotate_secret(self, device_id: str) -> str:
        """Give the device a new secret and return it; a connected device is cut off. A missing account is created."""
        return await self.create_device_account(device_id)

    async def disable(self, device_id: str) -> None:
        """Refuse the device's log-ins and cut it off now if it is connected."""
        await self._change(device_id, "disableClient")

    async def enable(self, device_id: str) -> None:
        """Let the device log in again, with the secret it had."""
        await self._change(device_id, "enableClient")

    async def delete(self, device_ids: Sequence[str]) -> None:
        """Remove the accounts and cut the devices off; devices without account are skipped."""
        present = await self._existing(device_ids)
        await self._do([{"command": "deleteClient", "username": name} for name in present])

    async def accounts(self) -> list[Account]:
        """Return every device account, by id."""
        found: list[Account] = []
        total, offset = 1, 0
        while offset < total:
            command = {"command": "listClients", "verbose": True, "count": PAGE, "offset": offset}
            answer = (await self._ask([command]))[0]
            _raise(answer.error)
            total = int(answer.data["totalCount"])
            offset += PAGE
            found += [
                Account(client["username"], not client.get("disabled", False))
                for client in answer.data["clients"]
                if _is_device(client)
            ]
        return sorted(found, key=lambda account: account.device_id)

    async def _change(self, device_id: str, command: str) -> None:
        if not await self._existing([device_id]):
            raise BrokerAccountError(f"the broker has no account {device_id}")
        await self._do([{"command": command, "username": device_id}])

    async def _existing(self, device_ids: Sequence[str]) -> set[str]:
        """Return which of the devices have an account; refuse a name whose account is not a device's."""
        existing = set()
        commands = [{"command": "getClient", "username": _check(device_id)} for device_id in device_ids]
        async for command, answer in self._in_pieces(commands):
            name = str(command["username"])
            if answer.error == "Client not found":
                continue
            _raise(answer.error, f"account {name}")
            if not _is_device(answer.data["client"]):
                raise BrokerAccountError(f"the broker account {name} is not a device's: it is left as it is")
            existing.add(name)
        return existing

    async def _do(self, commands: Sequence[dict[str, Any]], on_progress: Callable[[int], None] | None = None) -> None:
        async for command, answer in self._in_pieces(commands, on_progress):
            _raise(answer.error, f"account {command['username']}")

    async def _in_pieces(
        self, commands: Sequence[dict[str, Any]], on_progress: Callable[[int], None] | None = None
    ) -> AsyncIterator[tuple[dict[str, Any], _Response]]:
        """Send commands in messages that each keep the broker busy for about BUSY_S; yield each with its answer."""
        size, start = FIRST_COMMANDS, 0
        while start < len(commands):
            piece = commands[start : start + size]
            asked_at = monotonic()
            answers = await self._ask(piece)
            took = monotonic() - asked_at
            start += len(piece)
            size = max(1, min(MAX_COMMANDS, 2 * size, round(size * BUSY_S / max(took, 0.001))))
            for command, answer in zip(piece, answers, strict=True):
                yield command, answer
            if on_progress is not None:
                on_progress(len(piece))

    async def _ask(self, commands: Sequence[dict[str, Any]]) -> list[_Response]:
        """Send one message of commands and return an answer for each, in their order."""
        if not commands:
            return []
        async with self._turn:
            self._asked += 1
            mark = f"{self._name}-{self._asked}"
            payload = msgspec.json.encode({"commands": [{**command, "correlationData": mark} for command in commands]})
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._client.publish(CONTROL_TOPIC, payload, qos=1, timeout=self._timeout_s)
                    answers = await self._answers(mark)
            except aiomqtt.MqttError as error:
                raise BrokerAccountError(f"the broker: {error}") from error
            except TimeoutError:
                raise BrokerAccountError(
                    "the broker does not answer account commands: is its dynamic security plugin on?"
                ) from None
        if len(answers) != len(commands):
            raise BrokerAccountError(f"the broker answered {len(answers)} of {len(commands)} account commands")
        return answers

    async def _answers(self, mark: str) -> list[_Response]:
        """Wait for the message that answers `mark`; answers to others are skipped."""
        async for message in self._client.messages:
            try:
                answers = msgspec.json.decode(message.payload, type=_Responses).responses
            except msgspec.MsgspecError as error:
                raise BrokerAccountError(
                    "the broker's answer to an account command is no JSON of its plugin"
                ) from error
            if answers and answers[0].correlation_data == mark:
                return answers
        raise BrokerAccountError("the broker closed the connection")


def _check(device_id: str) -> str:
    """Return the id, or refuse it: in topic rules, where it is used, `+` and `#` would open other devices' topics."""
    if not DEVICE_ID.match(device_id):
        raise BrokerAccountError(f"{device_id!r} is not a device id: 1 to 64 letters, digits, '-' and '_'")
    return device_id


def _is_device(client: Mapping[str, Any]) -> bool:
    return any(role["rolename"] == ROLE for role in client.get("roles", ()))


def _raise(error: str | None, about: str = "the broker") -> None:
    if error is not None:
        raise BrokerAccountError(f"{about}: {error}")

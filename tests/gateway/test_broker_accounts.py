"""Device accounts on a real broker: own topics only, cut off at once, nobody else's account touched."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiomqtt
import pytest

from gateway.clinic.broker_accounts import Account, BrokerAccountError, BrokerAccounts
from gateway.runtime.broker_address import parse_url
from gateway.runtime.clock import monotonic


@pytest.fixture
async def accounts(mqtt_url: str) -> AsyncIterator[BrokerAccounts]:
    async with BrokerAccounts.connect(mqtt_url) as accounts:
        await accounts.ensure_device_role()
        yield accounts


def client(mqtt_url: str, username: str | None = None, password: str | None = None) -> aiomqtt.Client:
    address = parse_url(mqtt_url)
    return aiomqtt.Client(
        address.host,
        address.port,
        username=username or address.username,
        password=password or address.password,
        protocol=aiomqtt.ProtocolVersion.V5,
        timeout=5,
    )


async def may_log_in(mqtt_url: str, username: str, password: str) -> bool:
    try:
        async with client(mqtt_url, username, password):
            return True
    except aiomqtt.MqttError:
        return False


async def received(listener: aiomqtt.Client, wait_s: float = 0.3) -> list[str]:
    topics = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            async for message in listener.messages:
                topics.append(str(message.topic))  # noqa: PERF401 (kept when the time is up)
    return topics


async def test_a_secret_is_32_url_safe_characters_and_logs_in(accounts: BrokerAccounts, mqtt_url: str) -> None:
    secret = await accounts.create_device_account("wb-1")
    assert len(secret) == 32
    assert secret.replace("-", "").replace("_", "").isalnum()
    assert await may_log_in(mqtt_url, "wb-1", secret)
    assert not await may_log_in(mqtt_url, "wb-1", secret[:-1])
    assert await accounts.accounts() == [Account("wb-1", enabled=True)]


@pytest.mark.parametrize(
    ("topic", "arrives"),
    [
        ("vigil/v1/wb-1/telemetry", True),
        ("vigil/v1/wb-1/event", True),
        ("vigil/v1/wb-1/status", True),
        ("vigil/v1/wb-1/receipt", False),
        ("vigil/v1/wb-1/command", False),
        ("vigil/v1/wb-2/telemetry", False),
        ("vigil/v1/%u/telemetry", False),
        ("vigil/v1/wb-1/telemetry/more", False),
        ("other", False),
    ],
)
async def test_a_device_publishes_under_its_own_topics_only(
    accounts: BrokerAccounts, mqtt_url: str, topic: str, *, arrives: bool
) -> None:
    secret = await accounts.create_device_account("wb-1")
    async with client(mqtt_url) as listener, client(mqtt_url, "wb-1", secret) as device:
        await listener.subscribe("#", qos=1)
        with contextlib.suppress(aiomqtt.MqttError):
            await device.publish(topic, b"{}", qos=1)
        assert (topic in await received(listener)) is arrives


async def test_a_device_hears_its_own_receipts_and_commands_only(accounts: BrokerAccounts, mqtt_url: str) -> None:
    secret = await accounts.create_device_account("wb-1")
    async with client(mqtt_url) as gateway, client(mqtt_url, "wb-1", secret) as device:
        for pattern in ("vigil/v1/wb-1/receipt", "vigil/v1/wb-1/command", "vigil/v1/wb-2/receipt", "#", "vigil/v1/#"):
            with contextlib.suppress(aiomqtt.MqttError):
                await device.subscribe(pattern, qos=1)
        for topic in ("wb-2/receipt", "wb-2/telemetry", "wb-1/telemetry", "wb-1/receipt", "wb-1/command"):
            await gateway.publish(f"vigil/v1/{topic}", b"{}", qos=1)
        assert set(await received(device)) == {"vigil/v1/wb-1/receipt", "vigil/v1/wb-1/command"}


async def test_a_device_cannot_administer_the_broker(accounts: BrokerAccounts, mqtt_url: str) -> None:
    secret = await accounts.create_device_account("wb-1")
    address = parse_url(mqtt_url)
    url = f"mqtt://wb-1:{secret}@{address.host}:{address.port}"
    with pytest.raises(BrokerAccountError):
        async with BrokerAccounts.connect(url, timeout_s=0.5) as intruder:
            await intruder.create_device_account("wb-2")
    assert await accounts.accounts() == [Account("wb-1", enabled=True)]


async def test_disabling_cuts_a_connected_device_at_once_and_enabling_lets_it_back(
    accounts: BrokerAccounts, mqtt_url: str
) -> None:
    secret = await accounts.create_device_account("wb-1")
    with pytest.raises(aiomqtt.MqttError):  # noqa: PT012 (the loss shows where the device listens)
        async with client(mqtt_url, "wb-1", secret) as device:
            started = monotonic()
            await accounts.disable("wb-1")
            await anext(aiter(device.messages))
    assert monotonic() - started < 0.5
    assert not await may_log_in(mqtt_url, "wb-1", secret)
    assert await accounts.accounts() == [Account("wb-1", enabled=False)]
    await accounts.enable("wb-1")
    assert await may_log_in(mqtt_url, "wb-1", secret)


async def test_a_rotated_secret_ends_the_old_one(accounts: BrokerAccounts, mqtt_url: str) -> None:
    old = await accounts.create_device_account("wb-1")
    new = await accounts.rotate_secret("wb-1")
    assert new != old
    assert not await may_log_in(mqtt_url, "wb-1", old)
    assert await may_log_in(mqtt_url, "wb-1", new)


async def test_rotating_makes_an_account_that_was_lost(accounts: BrokerAccounts, mqtt_url: str) -> None:
    assert await may_log_in(mqtt_url, "wb-9", await accounts.rotate_secret("wb-9"))


async def test_an_account_left_over_is_taken_over_and_enabled(accounts: BrokerAccounts, mqtt_url: str) -> None:
    await accounts.create_device_account("wb-1")
    await accounts.disable("wb-1")
    secrets = await accounts.create_device_accounts(["wb-0", "wb-1", "wb-2"])
    assert list(secrets) == ["wb-0", "wb-1", "wb-2"]
    assert [await may_log_in(mqtt_url, *pair) for pair in secrets.items()] == [True, True, True]


async def test_deleting_ends_the_account_and_passes_over_those_that_are_not(
    accounts: BrokerAccounts, mqtt_url: str
) -> None:
    secret = await accounts.create_device_account("wb-1")
    await accounts.delete(["wb-1", "wb-2"])
    assert not await may_log_in(mqtt_url, "wb-1", secret)
    assert await accounts.accounts() == []


async def test_an_account_that_is_not_a_devices_is_never_touched(accounts: BrokerAccounts, mqtt_url: str) -> None:
    admin = parse_url(mqtt_url).username
    assert admin is not None
    for change in (
        accounts.create_device_account(admin),
        accounts.rotate_secret(admin),
        accounts.disable(admin),
        accounts.enable(admin),
        accounts.delete([admin]),
    ):
        with pytest.raises(BrokerAccountError, match="not a device's"):
            await change
    async with BrokerAccounts.connect(mqtt_url):
        pass


@pytest.mark.parametrize("device_id", ["", "+", "#", "a/b", "x" * 65, "wb 1", "%u"])
async def test_an_id_that_would_open_other_topics_is_refused(accounts: BrokerAccounts, device_id: str) -> None:
    with pytest.raises(BrokerAccountError, match="not a device id"):
        await accounts.create_device_account(device_id)


async def test_many_accounts_are_made_together_with_progress(accounts: BrokerAccounts, mqtt_url: str) -> None:
    steps: list[int] = []
    names = [f"wb-{i:04d}" for i in range(700)]
    secrets = await accounts.create_device_accounts(names, steps.append)
    assert sum(steps) == len(names)
    assert len(set(secrets.values())) == len(names)
    assert [account.device_id for account in await accounts.accounts()] == names
    assert await may_log_in(mqtt_url, names[-1], secrets[names[-1]])


async def test_several_tasks_may_ask_at_once(accounts: BrokerAccounts) -> None:
    await asyncio.gather(*(accounts.create_device_account(f"wb-{i}") for i in range(10)))
    assert len(await accounts.accounts()) == 10


async def test_the_role_is_made_once_and_mended_when_it_was_changed(accounts: BrokerAccounts, mqtt_url: str) -> None:
    open_rule = {"acltype": "publishClientSend", "topic": "#", "allow": True}
    await accounts._do([{"command": "modifyRole", "rolename": "device", "acls": [open_rule], "username": "-"}])
    await accounts.ensure_device_role()
    await accounts.ensure_device_role()
    secret = await accounts.create_device_account("wb-1")
    async with client(mqtt_url) as listener, client(mqtt_url, "wb-1", secret) as device:
        await listener.subscribe("#", qos=1)
        await device.publish("vigil/v1/wb-2/telemetry", b"{}", qos=1)
        assert await received(listener) == []


async def test_a_broker_that_is_not_there_or_refuses_us_is_one_clear_sentence(mqtt_url: str) -> None:
    address = parse_url(mqtt_url)
    for url in (
        f"mqtt://x:topsecret@{address.host}:1",
        f"mqtt://x:topsecret@{address.host}:{address.port}",
        "topsecret",
    ):
        with pytest.raises(BrokerAccountError) as caught:
            async with BrokerAccounts.connect(url):
                pass
        assert "topsecret" not in str(caught.value)

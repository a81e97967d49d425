"""The broker as Vigil sets it: who may do what, how much is in flight, what survives a restart."""

import asyncio
import json
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from deploy.stack.embedded import MosquittoServer
from deploy.stack.processes import wait_until
from gateway.runtime import clock

CONTROL = "$CONTROL/dynamic-security/v1"
V5 = aiomqtt.ProtocolVersion.V5


def administrator(broker: MosquittoServer) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", broker.port, username="vigil", password=broker.password, protocol=V5)


def device(broker: MosquittoServer, name: str) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", broker.port, username=name, password=f"secret of {name}", protocol=V5, timeout=2)


async def command(admin: aiomqtt.Client, **fields: Any) -> None:
    await admin.publish(CONTROL, json.dumps({"commands": [fields]}), qos=1)


async def add_device(admin: aiomqtt.Client, name: str) -> None:
    await command(
        admin, command="createClient", username=name, password=f"secret of {name}", roles=[{"rolename": "device"}]
    )


async def received(client: aiomqtt.Client, seconds: float = 0.3) -> list[str]:
    """The topics of what has arrived after a while."""
    await asyncio.sleep(seconds)
    return [str((await anext(client.messages)).topic) for _ in range(len(client.messages))]


async def read_on(client: aiomqtt.Client) -> None:
    async for _ in client.messages:
        pass


async def test_anonymous_and_wrong_passwords_are_refused(broker: MosquittoServer) -> None:
    for user, password in ((None, None), ("vigil", "wrong"), ("nobody", "nothing")):
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", broker.port, username=user, password=password):
                pass


async def test_a_device_publishes_under_its_own_topics_only(broker: MosquittoServer) -> None:
    allowed = ["vigil/v1/d1/telemetry", "vigil/v1/d1/event", "vigil/v1/d1/status"]
    refused = [
        "vigil/v1/d2/telemetry",
        "vigil/v1/d1/receipt",
        "vigil/v1/d1/command",
        "vigil/v1/d1/roster",
        "other",
        CONTROL,
    ]
    async with administrator(broker) as admin:
        await add_device(admin, "d1")
        await admin.subscribe("#", qos=1)
        for topic in allowed + refused:
            try:
                async with device(broker, "d1") as client:
                    await client.publish(topic, b"{}", qos=1)
            except aiomqtt.MqttError:
                assert topic in refused
        assert await received(admin) == allowed


@pytest.mark.parametrize("kind", ["receipt", "roster"])
@pytest.mark.parametrize("subscription", ["vigil/v1/d1/{}", "vigil/v1/+/{}", "#"])
async def test_a_device_reads_its_own_topics_only_whatever_it_subscribes_to(
    broker: MosquittoServer, subscription: str, kind: str
) -> None:
    async with administrator(broker) as admin:
        await add_device(admin, "d1")
        for name in ("d1", "d2"):
            await admin.publish(f"vigil/v1/{name}/{kind}", b"kept", qos=1, retain=True)
        async with device(broker, "d1") as client:
            await client.subscribe(subscription.format(kind), qos=1)
            for name in ("d1", "d2"):
                await admin.publish(f"vigil/v1/{name}/{kind}", b"now", qos=1)
                await admin.publish(f"vigil/v1/{name}/telemetry", b"now", qos=1)
            assert await received(client) == [f"vigil/v1/d1/{kind}"] * 2


async def test_a_disabled_device_is_cut_at_once(broker: MosquittoServer) -> None:
    async with administrator(broker) as admin:
        await add_device(admin, "d1")
        client = device(broker, "d1")
        await client.__aenter__()
        started = clock.monotonic()
        await command(admin, command="disableClient", username="d1")
        with pytest.raises(aiomqtt.MqttError):
            await read_on(client)
        assert clock.monotonic() - started < 1
        with pytest.raises(aiomqtt.MqttError):
            await device(broker, "d1").__aenter__()


async def test_a_message_above_one_mebibyte_passes(broker: MosquittoServer) -> None:
    async with administrator(broker) as admin:
        await admin.subscribe("vigil/v1/+/telemetry", qos=1)
        await admin.publish("vigil/v1/d1/telemetry", bytes(1_500_000), qos=1)
        message = await anext(admin.messages)
        assert isinstance(message.payload, bytes)
        assert len(message.payload) == 1_500_000


class ManualReader:
    """A reader that acknowledges nothing."""

    def __init__(self, broker: MosquittoServer, receive_maximum: int) -> None:
        self.messages: list[MQTTMessage] = []
        self.subscribed = False
        self.client = Client(CallbackAPIVersion.VERSION2, "reader", protocol=MQTTv5, manual_ack=True)
        self.client.username_pw_set("vigil", broker.password)
        self.client.on_message = lambda _client, _data, message: self.messages.append(message)
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = receive_maximum
        properties.SessionExpiryInterval = 0xFFFFFFFF
        self.client.connect("127.0.0.1", broker.port, properties=properties, clean_start=False)
        self.client.subscribe("vigil/v1/+/telemetry", qos=1)
        self.client.loop_start()
        assert wait_until(lambda: self.subscribed, within_seconds=5)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("receive_maximum", [20, 8192])
async def test_the_receive_maximum_of_the_reader_is_the_limit(broker: MosquittoServer, receive_maximum: int) -> None:
    reader = ManualReader(broker, receive_maximum)
    try:
        async with administrator(broker) as admin:
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(publish_many(admin, 500))
            await asyncio.to_thread(wait_until, lambda: len(reader.messages) >= receive_maximum, within_seconds=20)
            await asyncio.sleep(0.2)
            assert len(reader.messages) == receive_maximum
    finally:
        reader.close()


async def publish_many(client: aiomqtt.Client, count: int) -> None:
    for _ in range(count):
        await client.publish("vigil/v1/d1/telemetry", b"{}", qos=1)


async def test_sessions_accounts_and_waiting_messages_survive_a_restart(broker: MosquittoServer) -> None:
    reader = ManualReader(broker, 10)
    reader.close()
    async with administrator(broker) as admin:
        await add_device(admin, "d1")
    async with device(broker, "d1") as client:
        await publish_many(client, 50)
    broker.restart()
    async with device(broker, "d1"):
        pass
    reader = ManualReader(broker, 100)
    try:
        assert wait_until(lambda: len(reader.messages) == 50, within_seconds=5)
    finally:
        reader.close()


async def test_what_was_written_survives_a_kill(broker: MosquittoServer) -> None:
    async with administrator(broker) as admin:
        await add_device(admin, "d1")
        await admin.publish("vigil/v1/d1/receipt", b'{"seq": 7}', qos=1, retain=True)
    saved = broker.folder / "mosquitto.db"
    assert await asyncio.to_thread(
        wait_until, lambda: saved.exists() and b'"seq": 7' in saved.read_bytes(), within_seconds=20
    )
    broker.kill()
    assert not broker.is_running
    broker.start()
    async with device(broker, "d1") as client:
        await client.subscribe("vigil/v1/d1/receipt", qos=1)
        message = await asyncio.wait_for(anext(client.messages), 5)
        assert message.payload == b'{"seq": 7}'

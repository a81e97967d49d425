"""`vigil simulate`: a fleet from the shell, on the real servers, with a small gateway as its peer."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.cli import main
from tests.firmware_sim.peer import Peer
from tests.gateway.processes import until

VIGIL = Path(sys.executable).parent / "vigil"


async def simulate(
    database_url: str, mqtt_url: str, *arguments: str, end_once: Callable[[], bool] | None = None
) -> tuple[int, str, str]:
    """Run the command; with `end_once`, end it as Ctrl-C does, once that is so."""
    environment = {**os.environ, "VIGIL_DATABASE_URL": database_url, "VIGIL_MQTT_URL": mqtt_url}
    process = await asyncio.create_subprocess_exec(
        VIGIL, "simulate", *arguments, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        if end_once is not None:
            await until(end_once)
            process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.hours
async def test_a_clinic_is_provisioned_and_its_history_told(database_url: str, mqtt_url: str) -> None:
    peer = Peer()
    async with peer.running(mqtt_url):
        runs = [
            await simulate(
                database_url, mqtt_url, "--patients", "4", "--days", "2", "--scenario", "clinic",
                "--seconds", "0", "--seed", "3", "--json",
            )
            for _ in range(2)
        ]  # fmt: skip
    told: list[dict[str, Any]] = []
    for code, out, err in runs:
        assert code == 0, err
        told.append(json.loads(out))
    first, again = told
    assert first["devices"] == again["devices"] == 8
    assert (first["unreceipted"], first["overwritten"], first["refusals"]) == (0, 0, 0)
    assert [len(patient["devices"]) for patient in first["patients"]] == [2] * 4
    ids = [device for run in told for patient in run["patients"] for device in patient["devices"]]
    assert len(set(ids)) == 16
    assert set(ids) == {device for device in peer.messages if peer.messages[device]}
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        worn = await (await connection.execute("select count(*) from assignment where upper_inf(valid)")).fetchone()
        doses = await (await connection.execute("select count(distinct patient_id) from dose_schedule")).fetchone()
    assert worn == (16,)
    assert doses == (8,)


async def test_ctrl_c_ends_it_with_a_summary(database_url: str, mqtt_url: str) -> None:
    peer = Peer()

    def online() -> bool:
        return [said[-1]["online"] for said in peer.statuses.values() if said] == [True, True]

    async with peer.running(mqtt_url):
        code, out, err = await simulate(
            database_url, mqtt_url, "--patients", "2", "--days", "0", "--scenario", "steady", "--json",
            "--report-lateness", end_once=online,
        )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert told["connects"] == told["devices"] == 2
    assert told["peak_memory_mib"] > 0
    assert all(peer.statuses[device][-1] == {"online": False} for p in told["patients"] for device in p["devices"])


async def test_history_can_be_paced(database_url: str, mqtt_url: str) -> None:
    peer = Peer()
    async with peer.running(mqtt_url):
        code, out, err = await simulate(
            database_url, mqtt_url, "--patients", "1", "--days", "1", "--speed", "28800", "--scenario", "steady",
            "--seconds", "0", "--json",
        )  # fmt: skip
    assert code == 0, err
    band = json.loads(out)["patients"][0]["devices"][0]
    sent = [message["sent_at"] for message in peer.messages[band]]
    assert sent[-1] - sent[0] > 1_500


@pytest.mark.parametrize("speed", ["0", "-5", "fast", "nan", "inf", "1"])
def test_speeds_that_never_catch_up_are_wrong_usage(
    speed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIGIL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("VIGIL_MQTT_URL", "mqtt://nobody:nothing@127.0.0.1:1")
    with pytest.raises(SystemExit) as ended:
        main(["simulate", f"--speed={speed}"])
    assert ended.value.code == 2
    assert "--speed" in capsys.readouterr().err

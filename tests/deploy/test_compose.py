"""compose.yaml says what the embedded stack says, and pins, checks and keeps what it should."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.stack import compose, mosquitto_config, postgres_config

DEPLOY = Path(__file__).parents[2] / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
PRODUCT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = PRODUCT["services"]
ONE_OFF = {"migrate", "broker-config"}


def test_every_service_is_there() -> None:
    assert set(SERVICES) == {"database", "broker", "gateway", "worker", "api"} | ONE_OFF
    assert {compose.DATABASE_SERVICE, compose.BROKER_SERVICE} <= set(SERVICES)


def test_images_are_pinned() -> None:
    for service in SERVICES.values():
        assert re.search(r":\d+\.\d+", service["image"])


def test_postgres_is_set_as_the_embedded_one() -> None:
    program, *options = SERVICES["database"]["command"]
    assert program == "postgres"
    assert dict(option.removeprefix("-c").split("=", 1) for option in options) == dict(postgres_config.SETTINGS)


def test_the_broker_is_set_as_the_embedded_one(tmp_path: Path) -> None:
    compose.write_broker_folder(tmp_path, "secret")
    embedded = mosquitto_config.config_files(
        port=compose.BROKER_PORT,
        bind=compose.EVERYWHERE_INSIDE,
        folder=compose.BROKER_FOLDER,
        plugin=compose.BROKER_PLUGIN,
    )
    for name, text in embedded.items():
        assert (tmp_path / name).read_text(encoding="utf-8") == text
    assert SERVICES["broker"]["command"][-1] == str(compose.BROKER_FOLDER / mosquitto_config.CONFIG_FILE)
    accounts = (tmp_path / mosquitto_config.DYNAMIC_SECURITY_FILE).read_text(encoding="utf-8")
    compose.write_broker_folder(tmp_path, "another")
    assert (tmp_path / mosquitto_config.DYNAMIC_SECURITY_FILE).read_text(encoding="utf-8") == accounts


def test_services_that_stay_are_checked_and_restarted() -> None:
    for name, service in SERVICES.items():
        if name not in ONE_OFF:
            assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
            assert service["restart"] == "unless-stopped"


def test_dependencies_exist_and_can_be_waited_for() -> None:
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if name in ONE_OFF else "service_healthy"
            assert how["condition"] == expected
            assert name in SERVICES


def test_data_lie_in_named_volumes() -> None:
    assert set(PRODUCT["volumes"]) == {"database", "broker"}
    assert "database:/var/lib/postgresql/data" in SERVICES["database"]["volumes"]
    assert SERVICES["broker"]["volumes"] == [f"${{VIGIL_BROKER_FOLDER:-broker}}:{compose.BROKER_FOLDER}"]


def test_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (DEPLOY / volume.split(":")[0]).is_file()


def test_our_programs_have_no_privileges() -> None:
    for name in ("gateway", "worker", "api", "migrate"):
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["read_only"] is True
        assert "user" not in SERVICES[name]  # the image's own, which is not root
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert "\nUSER vigil\n" in dockerfile
    assert "--require-hashes" in dockerfile


def test_nothing_listens_beyond_this_machine_unless_told() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${VIGIL_MQTT_BIND:-127.0.0.1}:"))


def test_every_secret_is_asked_for_and_none_written_down() -> None:
    named = set(re.findall(r"\$\{(VIGIL_\w+)", TEXT))
    example = (DEPLOY / "compose.env.example").read_text(encoding="utf-8")
    settings = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    assert set(settings) == named
    for name in named:
        if "PASSWORD" in name or "KEY" in name:
            assert settings[name] == ""
            assert all(use.startswith(":?") for use in re.findall(rf"\$\{{{name}(.*?)\}}", TEXT))


def test_docker_compose_reads_it(tmp_path: Path) -> None:
    if not compose._succeeds(["docker", "compose", "version"]):
        pytest.skip("no docker compose here")
    environment = dict.fromkeys(set(re.findall(r"\$\{(VIGIL_\w+):\?", TEXT)), "x" * 32)
    file = tmp_path / "compose.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in environment.items()), encoding="utf-8")
    subprocess.run(
        ["docker", "compose", "--env-file", file, "--file", DEPLOY / "compose.yaml", "config", "--quiet"], check=True
    )

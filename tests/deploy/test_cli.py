"""The command line: fast help, one-line errors, exit codes, settings, logs."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from deploy.cli import COMMANDS, main
from deploy.logs import configure_logs
from deploy.settings import BleSettings, DatabaseSettings, HttpSettings, Settings, SettingsError, load_settings

GOOD = {
    "VIGIL_DATABASE_URL": "postgresql://vigil:hidden@127.0.0.1:5432/vigil",
    "VIGIL_MQTT_URL": "mqtts://vigil:hidden@broker.test",
    "VIGIL_SECRET_KEY": "k" * 32,
}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom deploy.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print([name for name in ('numpy', 'fastapi', 'river', 'psycopg', 'pydantic_settings') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["stack", "nonsense"], ["migrate", "--nonsense"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("VIGIL_DATABASE_URL", "", "VIGIL_DATABASE_URL is not set"),
        ("VIGIL_DATABASE_URL", "mysql://hidden", "VIGIL_DATABASE_URL must be a URL that begins with postgresql://"),
        ("VIGIL_LOG_LEVEL", "loud", "VIGIL_LOG_LEVEL input should be 'debug'"),
        ("VIGIL_METRICS_PORT", "70000", "VIGIL_METRICS_PORT input should be less than or equal to 65535"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(
    settings: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, sentence: str
) -> None:
    settings.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main(["migrate"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"vigil: {sentence}")
    assert error.count("\n") == 1
    assert "hidden" not in error


@pytest.mark.parametrize("url", ["mqtt://", "http://broker.test", "mqtt://broker.test:port", "broker.test:1883"])
def test_a_broker_s_address_is_checked(settings: pytest.MonkeyPatch, url: str) -> None:
    settings.setenv("VIGIL_MQTT_URL", url)
    with pytest.raises(SettingsError, match="VIGIL_MQTT_URL"):
        load_settings(Settings)


def test_a_short_key_is_refused(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("VIGIL_SECRET_KEY", "k" * 31)
    with pytest.raises(SettingsError, match="VIGIL_SECRET_KEY must have at least 32 bytes"):
        load_settings(HttpSettings)


def test_defaults_are_the_contract_s(settings: pytest.MonkeyPatch) -> None:
    del settings
    loaded = load_settings(Settings)
    assert loaded.contact_grace_seconds == 120
    assert loaded.retrospective_after_minutes == 30
    assert loaded.receipt_interval_seconds == 3
    http = load_settings(HttpSettings)
    assert (http.api_host, http.api_port) == ("127.0.0.1", 8000)
    assert "hidden" not in repr(loaded) + repr(http)


@pytest.mark.parametrize("account", ["", "edge-1@", ":secret@", "edge%2F1:secret@"])
def test_an_edge_box_logs_in_as_itself(settings: pytest.MonkeyPatch, account: str) -> None:
    settings.setenv("VIGIL_MQTT_URL", f"mqtt://{account}broker.test")
    with pytest.raises(SettingsError, match="VIGIL_MQTT_URL must hold the edge box's id and secret"):
        load_settings(BleSettings)
    settings.setenv("VIGIL_MQTT_URL", "mqtt://edge%2D1:secret@broker.test")
    assert load_settings(BleSettings).edge_id == "edge-1"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("VIGIL_BLE_ADAPTER", "usb0", "must look like hci0"),
        ("VIGIL_BLE_ADAPTER", "hci0\n", "must look like hci0"),
        ("VIGIL_BLE_RADIO", "tcp-server:127.0.0.1:7000", "must look like tcp-client:HOST:PORT"),
        ("VIGIL_BLE_LINKS", "0", "should be greater than or equal to 1"),
    ],
)
def test_a_radio_s_settings_are_checked(settings: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    settings.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} .*{sentence}"):
        load_settings(BleSettings)


def test_the_spool_lies_where_state_belongs(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        settings.delenv(name, raising=False)
    settings.setenv("HOME", str(tmp_path))
    assert load_settings(BleSettings).ble_spool == tmp_path / ".local/state/vigil/spool.sqlite"
    settings.setenv("XDG_STATE_HOME", "relative")
    assert load_settings(BleSettings).ble_spool == tmp_path / ".local/state/vigil/spool.sqlite"
    settings.setenv("XDG_STATE_HOME", "/xdg")
    assert load_settings(BleSettings).ble_spool == Path("/xdg/vigil/spool.sqlite")
    settings.setenv("STATE_DIRECTORY", "/var/lib/vigil:/var/lib/other")
    assert load_settings(BleSettings).ble_spool == Path("/var/lib/vigil/spool.sqlite")
    settings.setenv("VIGIL_BLE_SPOOL", "/data/spool")
    assert load_settings(BleSettings).ble_spool == Path("/data/spool")


def test_the_env_file_is_read_and_the_environment_wins(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "VIGIL_DATABASE_URL=postgresql://from/file\nVIGIL_LOG_LEVEL=debug\nOTHER=1\n", encoding="utf-8"
    )
    loaded = load_settings(DatabaseSettings)
    assert (loaded.database_url, loaded.log_level) == (GOOD["VIGIL_DATABASE_URL"], "debug")
    settings.delenv("VIGIL_DATABASE_URL")
    assert load_settings(DatabaseSettings).database_url == "postgresql://from/file"


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_logs_are_one_json_object_a_line(logs: io.StringIO) -> None:
    structlog.get_logger("gateway").info("stored", readings=3)
    structlog.get_logger("gateway").debug("not shown")
    logging.getLogger("library").warning("said %s", "something")
    structlog.get_logger("gateway").error("failed", exc_info=ValueError("broken"))
    ours, theirs, failure = map(json.loads, logs.getvalue().splitlines())
    assert (ours["event"], ours["readings"], ours["level"], ours["logger"]) == ("stored", 3, "info", "gateway")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("said something", "warning", "library")
    assert failure["exception"][0]["exc_value"] == "broken"
    assert all("timestamp" in line for line in (ours, theirs, failure))

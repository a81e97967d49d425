"""The demo's output: stages on stderr, addresses and one line for each alert on stdout."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.status import Status

from deploy.demo.clinic import LogIn, Wearer
from deploy.demo.feed import Alert, ApiAddress
from gateway.runtime import clock

EXPECTED = ("nocturnal_hypoglycaemia", "missed_dose", "hrv_drift")
LIVE = frozenset({"nocturnal_hypoglycaemia", "missed_dose"})
"""Alerts of these rules count only if they are not retrospective."""


class Board:
    """Shows the demo's progress and remembers which of the expected alerts arrived."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._wearers: dict[str, Wearer] = {}
        self._seen: set[str] = set()
        self._arrived: set[str] = set()

    @contextmanager
    def stage(self, name: str) -> Iterator[Status]:
        """Show a stage while it runs, and how long it took once it is done."""
        began = clock.monotonic()
        with self._console.status(name) as status:
            yield status
        self._console.print(f"{name} [dim]{clock.monotonic() - began:.1f} s[/dim]", highlight=False)

    @property
    def missing(self) -> list[str]:
        """The expected rules of which no alert arrived yet."""
        return [rule for rule in EXPECTED if rule not in self._arrived]

    def admit(self, wearers: Mapping[str, Wearer]) -> None:
        """Show the alerts of these patients, given by id, as well."""
        self._wearers.update(wearers)

    def show_alert(self, alert: Alert) -> None:
        """Print an alert of this run's patients when it is first seen."""
        wearer, rule = self._wearers.get(alert["patient_id"]), alert["rule"]
        if alert["id"] in self._seen or wearer is None:
            return
        self._seen.add(alert["id"])
        # Expected alerts come by MQTT: the edge box starts later, and not on every machine.
        if not (wearer.over_bluetooth or (alert["retrospective"] and rule in LIVE)):
            self._arrived.add(rule)
        name = f"{wearer.name} (over Bluetooth)" if wearer.over_bluetooth else wearer.name
        local = datetime.fromisoformat(alert["opened_at"]).astimezone(wearer.zone)
        since = f"{local:%H:%M}" if not alert["retrospective"] else f"{local:%d %b %H:%M}, from the history"
        _print(f"ALERT {rule} {alert['severity']}: {name}, {alert['summary']} (since {since})")

    @staticmethod
    def show_addresses(api: ApiAddress, people: Sequence[LogIn], folder: Path, seconds: float) -> None:
        """Print what a visitor needs."""
        _print(f"Up after {seconds:.1f} s. Ctrl-C stops everything; the data stay in {folder}.")
        _print(f"API        {api.url}/api/v1   (described at {api.url}/api/v1/openapi.json)")
        for person in people:
            _print(f"{person.role:<10} {person.email}   password {person.password}")
        _print(f'settings   eval "$(vigil stack env --dir {folder})"   then: vigil alerts')
        _print(f"logs       {folder}/gateway.log, worker.log, api.log")

    @staticmethod
    def show_bluetooth(devices: int, records: int, seconds: float) -> None:
        """Print that the edge box has delivered what was in its devices' memories."""
        _print(f"bluetooth  {devices} devices read, {records} records caught up in {seconds:.1f} s   (ble.log)")

    @staticmethod
    def show_no_bluetooth(reason: str) -> None:
        """Print why there is no edge box."""
        _print(f"bluetooth  left out: for it {reason}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()

"""The errors of the local servers.

StackError
├── PackagesUnavailable   the machine cannot fetch Debian's packages (no apt, no mirror, no network, no key)
├── ServerFailed          a server did not start, or stopped by itself; carries the end of its log
└── StateInvalid          the stack's state file cannot be read
"""


class StackError(Exception):
    """A local server is not available; the message is one clear sentence for the terminal."""


class PackagesUnavailable(StackError):
    """Debian's packages cannot be fetched here."""

    ADVICE = "Install Docker, or point VIGIL_DATABASE_URL and VIGIL_MQTT_URL at a TimescaleDB and a Mosquitto you already have."

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} {self.ADVICE}")


class ServerFailed(StackError):
    """A server did not start or ended by itself."""

    def __init__(self, server: str, reason: str, log_end: str = "") -> None:
        super().__init__(f"{server} {reason}" + (f"; its log ends with:\n{log_end}" if log_end else ""))


class StateInvalid(StackError):
    """The state file is not what `vigil stack up` writes."""

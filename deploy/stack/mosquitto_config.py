"""Configuration of the broker: its options and the first state of its dynamic-security plugin.

The account in VIGIL_MQTT_URL may use any topic and administers accounts. A device logs in with its id as user name and
has the role `device`: its own telemetry, event and status to publish, its own receipt and command to read.
"""

import base64
import hashlib
import json
import secrets
from importlib.resources import files
from pathlib import PurePosixPath
from string import Template
from typing import Any

ACCOUNT = "vigil"
ADMIN_ROLE = "admin"
DEVICE_ROLE = "device"
DYNAMIC_SECURITY_FILE = "dynamic-security.json"
# As mosquitto_ctrl writes it; the passwords are 256 random bits, so more rounds would guard nothing.
_ITERATIONS = 101
_SALT_BYTES = 12
_KEY_BYTES = 64


def render_config(*, port: int, bind: str, folder: PurePosixPath, plugin: PurePosixPath) -> str:
    """Return mosquitto.conf for a broker whose data lie in `folder`."""
    template = Template(files("deploy").joinpath("mosquitto/mosquitto.conf.template").read_text(encoding="utf-8"))
    return template.substitute(port=port, bind=bind, folder=folder, plugin=plugin)


def first_dynamic_security(password: str) -> str:
    """Return the plugin's file for a new broker: the account with this password, the roles, no devices yet."""
    salt = secrets.token_bytes(_SALT_BYTES)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS, _KEY_BYTES)
    state = {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": False,
            "unsubscribe": True,
        },
        "clients": [
            {
                "username": ACCOUNT,
                "textname": "Vigil: gateway, worker and provisioning",
                "roles": [{"rolename": ADMIN_ROLE}],
                "password": base64.b64encode(key).decode(),
                "salt": base64.b64encode(salt).decode(),
                "iterations": _ITERATIONS,
            }
        ],
        "groups": [],
        "roles": [
            {"rolename": ADMIN_ROLE, "textname": "May use any topic", "acls": _admin_acls()},
            {"rolename": DEVICE_ROLE, "textname": "May use its own topics", "acls": device_acls()},
        ],
    }
    return json.dumps(state, indent="\t")


def _admin_acls() -> list[dict[str, Any]]:
    topics = ("#", "$CONTROL/dynamic-security/#", "$SYS/#")
    kinds = ("publishClientSend", "publishClientReceive", "subscribePattern", "unsubscribePattern")
    return [_allow(kind, topic) for topic in topics for kind in kinds]


def device_acls() -> list[dict[str, Any]]:
    """Return the ACLs of the role `device`; the plugin puts the client's user name in place of %u."""
    own = "vigil/v1/%u/"
    written = [_allow("publishClientSend", own + name) for name in ("telemetry", "event", "status")]
    read = [
        _allow(kind, own + name)
        for name in ("receipt", "command")
        for kind in ("publishClientReceive", "subscribePattern")
    ]
    return written + read


def _allow(kind: str, topic: str) -> dict[str, Any]:
    return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}

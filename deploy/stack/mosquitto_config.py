"""Configuration of the broker: its options and the first state of its dynamic-security plugin.

The account in VIGIL_MQTT_URL may use any topic and administers accounts. A device logs in with its id as user name and
may use its own topics only. The plugin of Mosquitto 2.0 knows no rule with the user's name in it, so those rules stand in
the broker's acl_file, which is asked about whatever the plugin leaves undecided; the role `device` itself allows nothing.
"""

import base64
import hashlib
import json
import secrets
from importlib.resources import files
from pathlib import PurePath
from string import Template
from typing import Any

ACCOUNT = "vigil"
ADMIN_ROLE = "admin"
DEVICE_ROLE = "device"
CONFIG_FILE = "mosquitto.conf"
DYNAMIC_SECURITY_FILE = "dynamic-security.json"
DEVICE_TOPICS_FILE = "device-topics.acl"
# As mosquitto_ctrl writes it; the passwords are 256 random bits, so more rounds would guard nothing.
_ITERATIONS = 101
_SALT_BYTES = 12
_KEY_BYTES = 64


def config_files(*, port: int, bind: str, folder: PurePath, plugin: PurePath) -> dict[str, str]:
    """Return the files, by name, that a broker finds in its `folder` at every start."""
    place = files("deploy").joinpath("mosquitto")
    template = Template(place.joinpath("mosquitto.conf.template").read_text(encoding="utf-8"))
    return {
        CONFIG_FILE: template.substitute(port=port, bind=bind, folder=folder, plugin=plugin),
        DEVICE_TOPICS_FILE: place.joinpath(DEVICE_TOPICS_FILE).read_text(encoding="utf-8"),
    }


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
            {
                "rolename": DEVICE_ROLE,
                "textname": "Tells devices from people and programs; its topics stand in the acl_file",
                "acls": [],
            },
        ],
    }
    return json.dumps(state, indent="\t")


def _admin_acls() -> list[dict[str, Any]]:
    topics = ("#", "$CONTROL/dynamic-security/#", "$SYS/#")
    kinds = ("publishClientSend", "publishClientReceive", "subscribePattern", "unsubscribePattern")
    return [_allow(kind, topic) for topic in topics for kind in kinds]


def _allow(kind: str, topic: str) -> dict[str, Any]:
    return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}

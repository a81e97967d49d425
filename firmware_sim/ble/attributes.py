"""GATT server behaviour that the specification requires and bumble 0.0.236 lacks."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from bumble.att import (
    ATT_READ_NOT_PERMITTED_ERROR,
    ATT_UNLIKELY_ERROR_ERROR,
    ATT_WRITE_NOT_PERMITTED_ERROR,
    ATT_Error,
    Attribute,
)
from bumble.gatt import GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR

log = logging.getLogger(__name__)


def enforce(attribute: Attribute[Any]) -> None:
    """Make an attribute check its permissions and answer every request.

    Upstream checks only whether access needs encryption, so that a read-only value can be overwritten; and an exception
    in a value's callback leaves the request without a response, for which the client waits 30 s.
    """

    def guarded(access: Callable[..., Awaitable[Any]], permission: int, error: int) -> Callable[..., Awaitable[Any]]:
        async def access_or_refuse(bearer: object, *value: bytes) -> Any:
            if not attribute.permissions & permission:
                raise ATT_Error(error, attribute.handle)
            try:
                return await access(bearer, *value)
            except ATT_Error:
                raise
            except Exception:
                log.exception("defect of the simulator in attribute 0x%04x", attribute.handle)
                raise ATT_Error(ATT_UNLIKELY_ERROR_ERROR, attribute.handle) from None

        return access_or_refuse

    replacements = {
        "read_value": guarded(attribute.read_value, Attribute.READABLE, ATT_READ_NOT_PERMITTED_ERROR),
        "write_value": guarded(attribute.write_value, Attribute.WRITEABLE, ATT_WRITE_NOT_PERMITTED_ERROR),
    }
    for name, replacement in replacements.items():
        setattr(attribute, name, replacement)


def encrypt_subscriptions(attributes: Iterable[Attribute[Any]]) -> None:
    """Refuse subscriptions over an unencrypted link; upstream leaves the CCCD of an encrypted characteristic open."""
    for attribute in attributes:
        if attribute.type == GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR:
            attribute.permissions |= Attribute.WRITE_REQUIRES_ENCRYPTION

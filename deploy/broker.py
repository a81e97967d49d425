"""The broker's address from the settings, with its certificates loaded."""

from deploy.settings import BrokerSettings, SettingsError
from gateway.runtime.broker_address import Address, parse_url


def broker_address(settings: BrokerSettings) -> Address:
    """Return the broker's address with its certificates loaded. Raises SettingsError."""
    try:
        return parse_url(settings.mqtt_url, str(settings.mqtt_ca_file) if settings.mqtt_ca_file else None)
    except (ValueError, OSError) as error:
        raise SettingsError(f"VIGIL_MQTT_URL: {error}") from error

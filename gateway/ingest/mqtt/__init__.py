"""The MQTT side of the gateway: frames, one connection, and the bridge that keeps one alive."""

"""The edge collector: reads devices over Bluetooth, keeps what it read on disk, hands it to the broker."""

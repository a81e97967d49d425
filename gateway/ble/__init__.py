"""The edge box: reads devices over Bluetooth, spools what it read on disk, and delivers it to the broker."""

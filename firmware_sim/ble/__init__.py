"""Simulated Bluetooth devices: real HCI, L2CAP, ATT and SMP traffic over a radio that exists only in this process."""

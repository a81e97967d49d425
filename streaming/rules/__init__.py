"""Which rules watch a patient at what time, and with which settings."""

"""Which rules watch a patient, with which settings, from when on."""

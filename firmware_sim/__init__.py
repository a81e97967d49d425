"""Simulated devices as a stranger would build them: from the published wire alone, speaking only over the wire."""

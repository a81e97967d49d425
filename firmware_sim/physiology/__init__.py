"""Seeded processes with published shapes: what a body and its habits would give a sensor to measure."""

"""Seeded processes with published shapes: what a body and its habits give a sensor to measure."""

"""Shared by every process: the clock, signals, connections and metrics."""

"""Heart-rate variability: clean RR intervals, 5-min windows, night values, and drift over nights."""

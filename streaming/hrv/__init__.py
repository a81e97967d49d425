"""Heart-rate variability: clean RR intervals, 5-min windows, nights, drift."""

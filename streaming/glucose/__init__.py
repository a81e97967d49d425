"""Glucose: comparing values, the consensus' episodes and summary, the shape of a compression low."""

"""Glucose: comparing values, consensus episodes, the CGM summary, and the shape of a compression low."""

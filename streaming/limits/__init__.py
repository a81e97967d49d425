"""Rules that fold over readings one after the other: lows, highs, thresholds, prediction."""

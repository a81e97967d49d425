"""Rules that fold over readings in order of time: lows, highs, thresholds, predicted lows."""

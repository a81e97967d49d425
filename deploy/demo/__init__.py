"""The demo: a small clinic on this machine, everything real, everything gone when it ends."""

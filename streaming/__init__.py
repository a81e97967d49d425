"""What we conclude: windows, features, detectors, the dose matcher. Pure: `now` is an argument, state a value."""

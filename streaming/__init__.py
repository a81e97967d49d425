"""Clinical conclusions: windows, features, detectors, dose matching. Pure: `now` is an argument, state is a value."""

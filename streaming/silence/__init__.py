"""Missing data: patients without readings, devices that are offline, and rules that rest."""

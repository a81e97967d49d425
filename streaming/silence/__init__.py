"""What is missing: readings, devices, and rules that rest."""

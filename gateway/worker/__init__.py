"""The worker process: duties on a tick, commands and rosters at the broker."""

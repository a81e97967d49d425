"""What every process needs: the clock, connections, metrics."""

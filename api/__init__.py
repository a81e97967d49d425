"""What people see: the HTTP API under /api/v1."""

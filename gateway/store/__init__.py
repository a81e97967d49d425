"""All SQL of the gateway: named queries in .sql files, rows as frozen dataclasses."""

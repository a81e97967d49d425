"""The database: named queries in .sql files, rows as frozen dataclasses, binary COPY, and alert writing."""

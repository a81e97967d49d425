"""Doses: when they are due, which opening was which dose, adherence."""

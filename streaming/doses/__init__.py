"""Doses: when they are due, which opening of the box belongs to which dose, and how well they are taken."""

"""Alerts, made from the rules' episodes: their life cycle and their texts. Pure."""

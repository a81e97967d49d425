"""The rules about doses: openings and deadlines against schedules."""

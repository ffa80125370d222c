"""The main job, behind ``python -m poe demo``."""

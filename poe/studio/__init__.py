"""The web page behind ``python -m poe studio``: choose experts, and watch their product sampled."""

"""Examples: each folder is one, run by `python -m examples.NAME`."""

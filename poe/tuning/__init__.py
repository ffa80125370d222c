"""Before a run: its preparation, start, choice of kernel and warm-up."""

"""A run: `sample`, what drives it, other modes, progress, compiled blocks."""

"""Experts fitted to rows of a table."""

"""Flows of pzflow, read without it."""

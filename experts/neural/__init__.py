"""Experts that are neural networks."""

"""Experts: densities, their algebra, and what each can answer."""

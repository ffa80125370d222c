"""Particles between densities: islands, mutation, resampling, sequential Monte Carlo."""

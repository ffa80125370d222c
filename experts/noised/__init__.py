"""Experts that know the noise level of what they see."""

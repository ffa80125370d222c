"""Exponential families, Gaussians and linear-Gaussian models."""

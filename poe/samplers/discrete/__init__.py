"""Kernels of discrete spaces."""

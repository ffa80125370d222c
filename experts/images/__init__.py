"""Experts on images: linear observations, patches and filters."""

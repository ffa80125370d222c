"""Pretrained experts that are shipped, each with its card."""

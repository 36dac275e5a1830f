"""Async Delivery runs long analyses in the background and delivers them."""

__version__ = "0.1.0"

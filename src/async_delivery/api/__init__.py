"""The HTTP edge: requests in, JSON out. The only floor that knows HTTP, and the only one that is async."""

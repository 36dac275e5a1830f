"""The composition root: settings become a store, a runtime, an HTTP app, workers and chores. Only ``cli`` imports it.

``stores`` opens what a store file names; ``serving`` is the server process; ``listener`` is its HTTP server.
"""

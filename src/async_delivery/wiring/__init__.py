"""The composition root: settings become a store, a runtime, an HTTP app, workers and chores. Only ``cli`` imports it.

``stores`` opens what a store file names; ``serving`` is the server process, ``working`` the worker without
the API; ``listener`` is their HTTP server.
"""

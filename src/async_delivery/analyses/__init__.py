"""The built-in analyses, written as a user would write one. They import ``plugins``, never the server."""

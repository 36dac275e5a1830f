"""Which schema this version of the program speaks. The tables are in ``tables``, the way there in ``migrations``."""

from __future__ import annotations

# Oldest first; a database with any other revision was made by a newer version of the program.
REVISIONS = ("0001", "0002", "0003")
HEAD = REVISIONS[-1]

# "ADel" in the header of an SQLite file: says that the file is ours before anything in it is read.
APPLICATION_ID = 0x4144656C
# Advisory locks on PostgreSQL: (APPLICATION_ID, one of these). Taken for a transaction, never for a session.
LOCK_CLEANUP, LOCK_SCHEMA, LOCK_CLAIMS = 1, 2, 3
# The header's user_version: raised when a file needs a reader that knows more than the schema revision tells.
USER_VERSION = 1

SCRIPT_LOCATION = "async_delivery:storage/migrations"

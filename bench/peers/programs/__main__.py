"""``python -m bench.peers.programs MODULE ...`` runs one, imported by its name, as its workers import it."""

from __future__ import annotations

import sys
from importlib import import_module

if __name__ == "__main__":
    import_module(f"bench.peers.programs.{sys.argv[1]}").main(*sys.argv[2:])

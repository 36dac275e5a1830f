"""What a process that was killed left of its try to make a file. Imports the standard library only."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path


def sweep_unfinished(path: Path) -> None:
    """Remove the unfinished forms of ``path``, named ``.NAME.PID.new``, whose process is gone, and the unfinished
    accounts of its conversions. Raises nothing."""
    account = r"(?:\.convert-[0-9TZ]+\.account\.json)?"
    name = re.compile(rf"\.{re.escape(path.name)}{account}\.([0-9]+)\.(?:part|new(?:-wal|-shm|-journal)?)")
    with suppress(OSError):
        for entry in path.parent.iterdir():
            found = name.fullmatch(entry.name)
            # Also under our own number: a container's server has the same one every time.
            if found and (int(found[1]) == os.getpid() or not Path(f"/proc/{found[1]}").exists()):
                entry.unlink(missing_ok=True)

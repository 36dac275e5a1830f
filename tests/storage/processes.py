"""Programs that tests start as processes of their own, and how to run them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

ROOT = Path(__file__).resolve().parents[2]


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs ``program`` with ``arguments`` in sys.argv[1:]."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What a process printed, once it has ended well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for ``condition``; it must come true within ``seconds``."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "the condition did not come true in time"
        sleep(0.005)


WRITE_FOREVER = """
import os, sys
from pathlib import Path
from async_delivery.storage.opening import Mode, open_store
from tests.contract.support import House

folder, prefix, mode = Path(sys.argv[1]), sys.argv[2], Mode(sys.argv[3])
limit = int(sys.argv[4])
house = House(open_store(folder / "store.v1.json", mode))
house.new_id = lambda prefix=prefix, ids=house.new_id: f"{prefix}-{ids()}"
acknowledged = os.open(folder / f"acknowledged-{prefix}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
done = 0
while done < limit:
    jobs = house.submit_many(5)
    os.write(acknowledged, "".join(f"{job.job_id} queued\\n" for job in jobs).encode())
    job = house.completed(payload={"number": done}, partials=1)
    os.write(acknowledged, f"{job.job_id} completed {job.result_id}\\n".encode())
    done += 1
house.store.close()
print(done)
"""


def acknowledged(folder: Path, prefix: str) -> dict[str, tuple[str, ...]]:
    """What a process of WRITE_FOREVER wrote down after each write returned: job -> its state and result."""
    path = folder / f"acknowledged-{prefix}"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split()[0]: tuple(line.split()[1:]) for line in lines}

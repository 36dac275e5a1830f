"""What the service costs when nobody asks anything, and how long it takes to be there."""

from __future__ import annotations

import time

from bench import targets
from bench.figures import Figure, Sense
from bench.lab import ASYNC, NOOP, SLOTS, Lab, check, in_turn, post, say
from bench.load import Connection, LoadError, Request
from bench.server import Running, bare, service

_ENDED = frozenset({"completed", "failed", "canceled"})


def run(lab: Lab) -> list[Figure]:
    """Start to ready, memory and CPU of all processes; the bare application beside it."""
    starts: list[float] = []
    bare_starts: list[float] = []
    memory: list[float] = []
    bare_memory: list[float] = []
    cpu: list[float] = []

    def measure_service() -> None:
        with service(lab.folder("idle"), "--slots", str(SLOTS)) as server:
            starts.append(server.ready_seconds)
            _use_every_slot(server)
            before, began = server.cpu_seconds(), time.perf_counter()
            # The one fixed wait: time passing while nothing happens is what is measured.
            time.sleep(lab.idle_seconds)
            cpu.append((server.cpu_seconds() - before) / (time.perf_counter() - began) * 100)
            memory.append(server.pss_bytes() / 1e6)

    def measure_bare() -> None:
        with bare(lab.folder("bare"), "--answer", "200:100") as server:
            bare_starts.append(server.ready_seconds)
            check(server, Request("/0"), 200)
            bare_memory.append(server.pss_bytes() / 1e6)

    for number in range(lab.rounds):
        say(f"idle: round {number + 1} of {lab.rounds}")
        in_turn(number, (measure_service, measure_bare))

    beside = "a bare ASGI application on uvicorn"
    return [
        Figure(
            "cold start to ready, no store yet",
            "s",
            Sense.COST,
            tuple(starts),
            f"serve --slots {SLOTS} in an empty folder, from the start of the process to the first 200 on /health "
            "(asked every 5 ms); makes the store file and the database with its migrations",
            tuple(bare_starts),
            beside,
            targets.of("cold start to ready, no store yet"),
        ),
        Figure(
            "idle memory, all processes (PSS)",
            "MB",
            Sense.COST,
            tuple(memory),
            f"After {lab.idle_seconds:g} s of idling; every slot has run a selftest before, so its child is warm",
            tuple(bare_memory),
            beside,
            targets.of("idle memory, all processes (PSS)"),
        ),
        Figure(
            "idle CPU, all processes",
            "% of a core",
            Sense.COST,
            tuple(cpu),
            f"The same {lab.idle_seconds:g} s, by the kernel's clock ticks (0.1 % is one tick of 10 ms in 10 s)",
            target=targets.of("idle CPU, all processes"),
        ),
    ]


def _use_every_slot(server: Running) -> None:
    """Run as many jobs at once as there are slots."""
    body = {**NOOP, "params": {"stages": 1, "stage_seconds": 0.3}, "options": ASYNC}
    with Connection(server.port) as connection:
        accepted = [connection.ask(post(body)).json()["job"]["job_id"] for _ in range(SLOTS)]
        for job_id in accepted:
            until = time.perf_counter() + 60
            while connection.ask(Request(f"/analyze/jobs/{job_id}")).json()["job"]["status"] not in _ENDED:
                if time.perf_counter() > until:
                    raise LoadError(f"job {job_id} did not end")
                time.sleep(0.02)

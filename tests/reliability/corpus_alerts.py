"""Faults that must raise an alert, each done to a live server; what the shipped rules make of its expositions."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ops.promtool import RULES, promtool, series, write
from tests.ops.test_rules_on_live_series import by_hand, clean_up, scrape, total
from tests.reliability.hostile import message
from tests.reliability.slow import connect
from tests.system.live import LiveServer, eventually, run_command

STEP_SECONDS = 15
# Longer than any window of the rules but that of the paused cleanup.
WELL_STEPS, FAULT_STEPS = 80, 80
MICROSECONDS = 1_000_000
# What the disk of the machine that runs the tests has to say is not the service's fault.
OF_THE_MACHINE = "AsyncStore.*Full.*|AsyncStoreFillsUp"
OPTIONS = ("--slots", "1", "--lease-seconds", "3", "--heartbeat-seconds", "1", "--cleanup-schedule", "off")


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike`` does it and gives the exposition that shows it, "" if there is none; ``raises`` are the alerts."""

    name: str
    strike: Callable[[LiveServer], str]
    raises: tuple[str, ...]
    options: tuple[str, ...] = ()


def _permalink(server: LiveServer) -> str:
    return f"/analyze/results/{server.ended(server.submit(stages=0))['result_id']}"


def fail_reads(server: LiveServer) -> str:
    """The table of results is not there."""
    path = _permalink(server)
    with by_hand(server) as store:
        store.execute("ALTER TABLE results RENAME TO away")
    assert {server.ask("GET", path).status for _ in range(50)} == {503}
    return scrape(server, lambda text: True)


def slow_reads(server: LiveServer) -> str:
    """Long answers go over a line that stands still for some seconds."""
    job = server.ended(server.submit(stages=0, payload_bytes=12_000_000))
    request = message("GET", f"/analyze/results/{job['result_id']}".encode(), org="")
    for _ in range(4):
        with connect(server.port, receive_bytes=4_096) as connection:
            connection.sendall(request)
            time.sleep(3.5)
            while connection.recv(1_000_000):
                pass
    return scrape(server, lambda text: True)


def fail_cleanup(server: LiveServer) -> str:
    """A cleanup is told to do what it cannot."""
    assert clean_up(server, "-1") == 1
    return scrape(server, lambda text: total(text, "async_retention_cleanup_exit_code") == 1)


def lose_notifications(server: LiveServer) -> str:
    """Jobs that ended eleven minutes ago have no record for their tenant."""
    _permalink(server)
    with by_hand(server) as store:
        store.execute("DELETE FROM notifications")
        store.execute("UPDATE jobs SET finished_at = finished_at - ?", (660 * MICROSECONDS,))
    return scrape(
        server, lambda text: total(text, "async_notifications_terminal_jobs_without_in_app_10m") >= 1
    )


def lose_attempts(server: LiveServer) -> str:
    """Everything dies while a job runs, and is started again."""
    job_id = server.submit(stages=200, stage_seconds=0.2)
    eventually(lambda: server.job(job_id)["status"] == "partial", "it does not run")
    server.kill_everything()
    server.start()
    return scrape(server, lambda text: total(text, "async_attempts_lost_total") >= 1)


def take_nothing(server: LiveServer) -> str:
    """Jobs wait for half an hour, and there is nobody to run them."""
    server.submit(stages=0)
    with by_hand(server) as store:
        store.execute(
            "UPDATE jobs SET due_at = due_at - ?, queued_at = queued_at - ?", (1800 * MICROSECONDS,) * 2
        )
    return scrape(server, lambda text: total(text, "async_queue_oldest_seconds") > 1000)


def lose_store(server: LiveServer) -> str:
    """The tables of the store are not there."""
    with by_hand(server) as store:
        store.execute("ALTER TABLE jobs RENAME TO away")
    return scrape(server, lambda text: total(text, "async_store_readable") == 0)


def pause_cleanup(server: LiveServer) -> str:
    """Somebody paused cleanup, and forgot it."""
    words = ("cleanup", "pause", "--why", "a drill", "--store-file", str(server.store_file))
    assert run_command(*words, cwd=server.folder).returncode == 0
    return scrape(server, lambda text: total(text, "async_retention_cleanup_paused") == 1)


def die(server: LiveServer) -> str:
    """It is not there any more."""
    server.kill_everything()
    return ""


FAULTS = (
    Fault(
        "reads fail",
        fail_reads,
        ("AsyncResultPermalink5xxRateWarning", "AsyncResultPermalink5xxRateCritical"),
    ),
    Fault(
        "reads are slow", slow_reads, ("AsyncResultPermalinkP95Warning", "AsyncResultPermalinkP95Critical")
    ),
    Fault("cleanup fails", fail_cleanup, ("AsyncRetentionCleanupFailed",)),
    Fault("notifications are lost", lose_notifications, ("AsyncTerminalJobsWithoutInApp",)),
    Fault("attempts are lost", lose_attempts, ("AsyncAttemptsLost",)),
    Fault(
        "nobody runs jobs",
        take_nothing,
        ("AsyncQueueOldestWarning", "AsyncQueueOldestCritical", "AsyncNoWorkers"),
        ("--no-workers",),
    ),
    Fault("the store cannot be read", lose_store, ("AsyncStoreUnreadable",)),
    Fault("cleanup stays paused", pause_cleanup, ("AsyncRetentionCleanupPaused",)),
    Fault("the server is gone", die, ("AsyncDeliveryDown",)),
)


@contextmanager
def server_for(fault: Fault, folder: Path) -> Iterator[LiveServer]:
    server = LiveServer(folder, *OPTIONS, *fault.options).start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.send_signal(signal.SIGCONT)
            server.stop()


def raised(fault: Fault, folder: Path) -> list[str]:
    """Those of the fault's alerts that fire, in the rules' own time."""
    with server_for(fault, folder) as server:
        well = scrape(server, lambda text: True)
        struck = fault.strike(server)
    # An alert that waits for a day needs a day of samples; a longer step makes them few.
    step = STEP_SECONDS if fault.strike is not pause_cleanup else 300
    steps = FAULT_STEPS if fault.strike is not pause_cleanup else 300
    pieces = series([well] * WELL_STEPS + [struck] * steps, repeat=1)
    pieces.append(
        {
            "series": 'up{job="async-delivery", instance="live"}',
            "values": f"1x{WELL_STEPS - 1} {int(bool(struck))}x{steps - 1}",
        }
    )
    at = f"{(WELL_STEPS + steps - 1) * step}s"
    # A counter's jump is in its window for a while only.
    soon = f"{(WELL_STEPS + 16) * step}s"
    return [
        name for name in fault.raises if any(_fires(pieces, step, name, when, folder) for when in (soon, at))
    ]


def _fires(pieces: list[dict[str, str]], step: int, name: str, at: str, folder: Path) -> bool:
    query = {
        "expr": f'count by (alertname) (ALERTS{{alertstate="firing", alertname="{name}"}}) > bool 0',
        "eval_time": at,
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}],
    }
    return judged(pieces, step, [query], folder) == ""


def judged(pieces: list[dict[str, str]], step: int, queries: list[dict[str, Any]], folder: Path) -> str:
    """What promtool has against the queries; empty if nothing."""
    test = {"interval": f"{step}s", "input_series": pieces, "promql_expr_test": queries}
    path = write(
        folder / "alerts.test.yml",
        {"rule_files": [str(RULES)], "evaluation_interval": f"{step}s", "tests": [test]},
    )
    said = promtool("test", "rules", str(path))
    return "" if said.ok else said.text


def soak(server: LiveServer, seconds: float) -> list[str]:
    """Expositions every STEP_SECONDS, while a tenant does what tenants do."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        path = _permalink(server)
        server.ask("GET", path)
        server.ask("GET", "/analyze/results/nobodys")
        found.append(scrape(server, lambda text: True))
        time.sleep(STEP_SECONDS)
    return found


def false_alerts(expositions: list[str], folder: Path) -> int:
    """At how many moments of a soak an alert fired."""
    pieces = series(expositions, repeat=1)
    pieces.append(
        {"series": 'up{job="async-delivery", instance="live"}', "values": f"1x{len(expositions) - 1}"}
    )
    firing = f'count(ALERTS{{alertstate="firing", alertname!~"{OF_THE_MACHINE}"}}) or vector(0)'
    moments = range(0, len(expositions), 4)
    return sum(
        judged(
            pieces,
            STEP_SECONDS,
            [
                {
                    "expr": firing,
                    "eval_time": f"{n * STEP_SECONDS}s",
                    "exp_samples": [{"labels": "{}", "value": 0}],
                }
            ],
            folder,
        )
        != ""
        for n in moments
    )

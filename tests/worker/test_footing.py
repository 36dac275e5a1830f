"""A warm child begins each attempt as it began its first, or serves no other."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from async_delivery.worker.footing import Footing, is_narrowed
from async_delivery.worker.processes import Footprint

LOWERS = "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
# Limits that every child sets, and one that it can take back.
LOWERS_ITS_OWN = (
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); resource.setrlimit(resource.RLIMIT_DATA, (2**33, 2**33)); "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))"
)
IDLES = "pass"


def in_a_fork(check: Callable[[], bool]) -> bool:
    """Run ``check`` in a process that may be spoiled."""
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            good = check()
        finally:
            os._exit(0 if good else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_an_attempt_has_made_of_its_process_is_put_back() -> None:
    def check() -> bool:
        footing = Footing()
        before = (dict(os.environ), resource.getrlimit(resource.RLIMIT_FSIZE), os.sched_getaffinity(0))
        os.environ.clear()
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1][1]))
        os.sched_setaffinity(0, {min(before[2])})
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.setitimer(signal.ITIMER_REAL, 0.05)

        footing.put_back()

        time.sleep(0.1)  # a timer that still ran would end this process
        after = (dict(os.environ), resource.getrlimit(resource.RLIMIT_FSIZE), os.sched_getaffinity(0))
        calm = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        return before == after and calm and not signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert in_a_fork(check)


def test_single_variables_are_put_back_and_none_is_left_behind() -> None:
    def check() -> bool:
        os.environ.update(KEPT="as it was", LOST="there", CHANGED="before")
        footing = Footing()
        before = dict(os.environ)
        os.environ.update(CHANGED="after", ADDED="by an attempt")
        del os.environ["LOST"]
        os.environ = {"of": "an attempt"}  # type: ignore[assignment]  # noqa: B003  what an analysis may do

        footing.put_back()

        program = "import json, os; print(json.dumps(dict(os.environ)))"
        seen = json.loads(subprocess.check_output([sys.executable, "-c", program]))
        return dict(os.environ) == before and {**seen, **before} == seen and "ADDED" not in seen

    assert in_a_fork(check)


def test_a_variable_that_the_service_sets_is_put_back_as_well() -> None:
    def check() -> bool:
        footing = Footing()
        footing.set_variable("TMPDIR", "/first")
        footing.set_variable("TMPDIR", "/second")
        os.environ["TMPDIR"] = "/of/an/attempt"

        footing.put_back()

        program = "import os; print(os.environ['TMPDIR'])"
        seen = subprocess.check_output([sys.executable, "-c", program], text=True)
        return (os.environ["TMPDIR"], seen) == ("/second", "/second\n")

    assert in_a_fork(check)


def test_putting_nothing_back_costs_microseconds() -> None:
    def check() -> bool:
        footing = Footing()
        shortest = float("inf")
        for _ in range(200):
            began = time.perf_counter()
            footing.put_back()
            shortest = min(shortest, time.perf_counter() - began)
        return shortest < 0.001

    assert in_a_fork(check)


@pytest.mark.parametrize(("program", "narrowed"), [(LOWERS, True), (LOWERS_ITS_OWN, False), (IDLES, False)])
def test_a_child_that_gave_limits_up_for_good_is_told_from_others(program: str, narrowed: bool) -> None:
    program = f"import resource; {program}; print('set', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "set\n"
            footprint = Footprint(child.pid)

            assert is_narrowed(footprint.limits()) == narrowed

            footprint.close()
        finally:
            child.kill()


def test_a_child_that_is_gone_is_not_used_again() -> None:
    assert is_narrowed(Footprint(2**22 + 1).limits())

"""Bugs in what becomes of jobs: attempts, their fence and processes; events, notifications and results."""

from __future__ import annotations

from tests.reliability.planted_plant import BOTH, SQLITE, Plant, ids, service

RACES = ids("test_races", "test_five_hundred_races_end_each_job_once", *BOTH)
CLEANUPS = ids(
    "test_cleanup_beside", "test_fifty_cleanups_beside_a_server_undo_nothing_and_bring_nothing_back", *BOTH
)
READERS = ids(
    "test_event_readers",
    "test_readers_that_reconnect_at_random_read_every_event_once_and_in_order",
    *BOTH,
)
STUBBORN = ids(
    "test_hostile_jobs",
    "test_a_canceled_job_leaves_no_process_and_one_that_kills_its_own_is_given_up",
    *BOTH,
)
DEATHS = ids(
    "test_lost_workers",
    "test_a_killed_analysis_is_noticed_within_a_second_and_a_stopped_worker_does_no_harm",
    *BOTH,
)
MISBEHAVIOUR = ids(
    "test_misbehaviour",
    "test_whatever_analyses_do_their_jobs_end_as_they_should_and_nobody_else_notices",
    *BOTH,
)
BROKEN_STORES = ids("test_mutations", "test_a_broken_store_is_refused_or_serves_what_is_right")
JUMPS = ids("test_clock", "test_no_jump_of_the_clock_deletes_early_or_loses_a_lease", *BOTH)
STARVED = ids(
    "test_hostile_jobs", "test_jobs_longer_than_their_lease_run_once_while_processors_starve", *BOTH
)

PLANTS: tuple[Plant, ...] = (
    # ------------------------------------------------------------ attempts and their fence
    Plant(
        "no-fence",
        "a worker's write is taken whatever attempt and lease token it carries",
        (
            service(
                "domain/lifecycle.py",
                "if job.status not in ACTIVE or job.fence != fence:",
                "if job.status not in ACTIVE:",
            ),
        ),
        ("R5.late",),
        BOTH,
        RACES,
    ),
    Plant(
        "cancel-after-the-end",
        "a cancel is noted for a job that has ended",
        (
            service(
                "domain/lifecycle.py",
                "if job.status.terminal or job.cancel_requested_at is not None:\n        return None",
                "if job.cancel_requested_at is not None:\n        return None",
            ),
        ),
        ("R9",),
        BOTH,
        RACES,
    ),
    Plant(
        "crashes-not-counted",
        "a job whose process dies is tried again without that being counted",
        (
            service(
                "domain/lifecycle.py",
                "errors = job.error_count + 1\n",
                "errors = job.error_count + (not crashed)\n",
            ),
        ),
        ("R26.starts",),
        BOTH,
        STUBBORN,
    ),
    Plant(
        "late-restart",
        "a job whose process has died waits for five seconds before it runs again",
        (service("domain/retry.py", "return 0.0 if crashes <= 1", "return 5.0 if crashes <= 1"),),
        ("R6.restarted",),
        BOTH,
        DEATHS,
    ),
    Plant(
        "rescue-of-the-living",
        "a chore takes jobs back from workers that are well",
        (
            service(
                "storage/writing.py",
                "if job.lease is not None and job.lease.worker_id not in alive]",
                "if job.lease is not None]",
            ),
            service(
                "storage/statements.py",
                ".where(text(IS_LEASED), jobs.c.lease_expires_at < database_now())",
                ".where(text(IS_LEASED))",
            ),
        ),
        ("R8",),
        BOTH,
        STARVED,
    ),
    Plant(
        "leases-by-the-wall-clock",
        "a worker tells by a clock that can be set whether its leases are over",
        tuple(
            service(f"worker/{name}.py", *change)
            for name, change in (
                ("heartbeat", ("from time import monotonic\n", "from time import time as monotonic\n")),
                (
                    "slot",
                    (
                        "from time import monotonic, perf_counter\n",
                        "from time import perf_counter\nfrom time import time as monotonic\n",
                    ),
                ),
                ("ahead", ("from time import monotonic\n", "from time import time as monotonic\n")),
                ("settle", ("from time import monotonic\n", "from time import time as monotonic\n")),
            )
        ),
        ("R25.leases",),
        BOTH,
        JUMPS,
    ),
    Plant(
        "offspring-survives",
        "the process of a canceled job is killed alone, not with those that it has started",
        (
            service("worker/processes.py", "os.killpg(pid, number)", "os.kill(pid, number)"),
            service("worker/zygote.py", "os.killpg(pid, signal.SIGKILL)", "os.kill(pid, signal.SIGKILL)"),
            service(
                "worker/zygote.py",
                "strays = [pid for pid in processes.children(os.getpid()) if pid not in self._children]",
                "strays: list[int] = []",
            ),
        ),
        ("R27.survivors",),
        BOTH,
        STUBBORN,
    ),
    Plant(
        "silence-is-success",
        "a process that ends with exit code 0 and no result completes its job",
        (
            service(
                "worker/ending.py",
                "    if code == 0:\n",
                '    if code == 0:\n        return of_result(b"null")\n    if code == 0:\n',
            ),
        ),
        ("R26.corpus",),
        BOTH,
        MISBEHAVIOUR,
    ),
    # ------------------------------------------------------------ events, notifications, results
    Plant(
        "events-skip-a-number",
        "the number of a partial result's event leaves one out",
        (
            service(
                "domain/lifecycle.py",
                "seq = self.job.event_seq + 1\n",
                "seq = self.job.event_seq + 1 + (event_type is EventType.PARTIAL)\n",
            ),
        ),
        ("R10",),
        BOTH,
        READERS,
    ),
    Plant(
        "events-again",
        "who asks for the events after one is sent that one again",
        (
            service(
                "storage/statements.py",
                'events.c.event_seq > param("after_seq")',
                'events.c.event_seq >= param("after_seq")',
            ),
        ),
        ("R10",),
        BOTH,
        READERS,
    ),
    Plant(
        "not-told-of-cancels",
        "a canceled job has no notification",
        (
            service(
                "domain/lifecycle.py",
                "told = (notifications.in_app(self.job, self.now, self.new_id),) if ended else ()",
                "ended = ended and self.job.status is not JobStatus.CANCELED\n"
                "        told = (notifications.in_app(self.job, self.now, self.new_id),) if ended else ()",
            ),
        ),
        ("R9",),
        BOTH,
        RACES,
    ),
    Plant(
        "told-of-every-failure",
        "an attempt that failed and is tried again is told of as if it were the job's end",
        (
            service(
                "domain/lifecycle.py",
                '        _requeue(draft, "retry", seconds)\n        return draft.done(attempt=ended)\n',
                '        _requeue(draft, "retry", seconds)\n'
                "        told = notifications.in_app(replace(job, status=JobStatus.FAILED), now, new_id)\n"
                "        return replace(draft.done(attempt=ended), notifications=(told,))\n",
            ),
        ),
        ("R9",),
        BOTH,
        RACES,
    ),
    Plant(
        "digest-of-a-part",
        "the digest of a result is that of its first eight bytes, and nothing compares it with the rest",
        (
            service(
                "domain/result.py",
                "return SealedBody(data, hashlib.sha256(data).hexdigest())",
                "return SealedBody(data, hashlib.sha256(data[:8]).hexdigest())",
            ),
            service(
                "domain/result.py",
                "if hashlib.sha256(body).hexdigest() != result.sha256:",
                "if hashlib.sha256(body[:8]).hexdigest() != result.sha256:",
            ),
        ),
        ("R11",),
        BOTH,
        CLEANUPS,
    ),
    Plant(
        "result-not-checked",
        "a result is sent without comparing its bytes with their digest",
        (
            service(
                "domain/result.py",
                "if hashlib.sha256(body).hexdigest() != result.sha256:",
                "if result.sha256 is None:",
            ),
        ),
        ("R24",),
        SQLITE,
        BROKEN_STORES,
    ),
)

"""Bugs in how things are kept: transactions, syncs, files, the disk and cleanup."""

from __future__ import annotations

from tests.reliability.planted_plant import BOTH, POSTGRES, SQLITE, Plant, ids, service

KILL_POINTS = ids("test_killpoints", "test_a_kill_at_any_write_or_sync_of_submit_and_complete_loses_nothing")
POWER = ids("test_power", "test_a_power_cut_loses_nothing_that_was_acknowledged")
CLEANUPS = ids(
    "test_cleanup_beside", "test_fifty_cleanups_beside_a_server_undo_nothing_and_bring_nothing_back", *BOTH
)
DRY_RUN = ids(
    "test_cleanup_beside",
    "test_a_dry_run_leaves_every_byte_of_a_store_that_was_killed_with_a_hot_log",
)
BROKEN_STORES = ids("test_mutations", "test_a_broken_store_is_refused_or_serves_what_is_right")
RESTARTS = ids(
    "test_lost_hosts", "test_three_restarts_of_postgres_without_warning_lose_nothing_and_are_over_soon"
)
FULL_DISK = ids("test_disk_full", "test_a_full_disk_stops_new_jobs_only_and_a_cleanup_helps")

PLANTS: tuple[Plant, ...] = (
    # ------------------------------------------------------------ transactions
    Plant(
        "terminal-transaction-split",
        "a job's end is committed before its notification is written",
        (
            service(
                "storage/writing.py",
                "        for statement, params in others if written else ():\n",
                "        for statement, params in others if written else ():\n"
                "            if statement is sql.INSERT_NOTIFICATION:\n"
                '                for text in ("COMMIT", "BEGIN IMMEDIATE", "SAVEPOINT f"):\n'
                "                    self._connection.execute(text)\n",
            ),
        ),
        ("R3",),
        SQLITE,
        KILL_POINTS,
    ),
    Plant(
        "acknowledged-before-commit",
        "the group commit answers its callers before it commits",
        (
            service(
                "storage/writer.py",
                "            committing = True\n",
                "            committing = True\n"
                "            done, self._done = self._done, []\n"
                "            for future, value in done:\n"
                "                future.set_result(value)\n",
            ),
        ),
        ("R4.lost",),
        SQLITE,
        POWER,
    ),
    Plant(
        "synchronous-normal",
        "SQLite does not sync its log with a commit",
        (
            service(
                "storage/sqlite_files.py",
                '"PRAGMA synchronous = FULL"',
                '"PRAGMA synchronous = NORMAL"',
            ),
        ),
        ("R4.lost",),
        SQLITE,
        POWER,
    ),
    Plant(
        "synchronous-off",
        "SQLite syncs nothing, not even before it writes its log into the database",
        (service("storage/sqlite_files.py", '"PRAGMA synchronous = FULL"', '"PRAGMA synchronous = OFF"'),),
        ("R4.lost", "R4.corrupt"),
        SQLITE,
        POWER,
    ),
    Plant(
        "asynchronous-commit",
        "PostgreSQL answers a commit before it is on the disk",
        (
            service(
                "storage/postgres_pool.py",
                '_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"',
                '_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = off"',
            ),
        ),
        ("R29.lost",),
        POSTGRES,
        RESTARTS,
    ),
    Plant(
        "folder-not-synced",
        "the names of new files are not synced, only what is in them",
        (
            service(
                "storage/storefile.py",
                "        os.fsync(descriptor)\n    finally:\n        os.close(descriptor)",
                "        pass\n    finally:\n        os.close(descriptor)",
            ),
        ),
        ("R4.lost", "R4.corrupt"),
        SQLITE,
        POWER,
    ),
    Plant(
        "key-apart",
        "the Idempotency-Key is written in a transaction of its own, after the job's",
        (
            service(
                "engine/jobs.py",
                "        if key is not None:\n            tx.put_idempotency(\n",
                "        if not key and key is not None:\n            tx.put_idempotency(\n",
            ),
            service(
                "engine/jobs.py",
                "    future.add_done_callback(_tell_of_submit)\n",
                "    future.add_done_callback(_tell_of_submit)\n"
                "    if (key := asked.idempotency_key) is not None:\n"
                "        job, digest = accepted.job, accepted.request.fingerprint\n"
                "        record = IdempotencyRecord(key, digest, job.job_id, job.submitted_at)\n"
                "        future.add_done_callback(\n"
                "            lambda _: rt.store.write_soon(lambda tx: tx.put_idempotency(job.org_id, record))\n"
                "        )\n",
            ),
        ),
        ("R3",),
        SQLITE,
        KILL_POINTS,
    ),
    # ------------------------------------------------------------ cleanup
    Plant(
        "cleanup-of-running-jobs",
        "cleanup does not ask whether a job has ended, and counts from when a result was made",
        (
            service(
                "storage/retention.py",
                "        text(HAS_RESULTS),  # type: ignore[list-item]\n",
                '        text("results_kept = 1"),  # type: ignore[list-item]\n',
            ),
            service(
                "storage/retention.py",
                "        param(until) >= _CLOCK,\n        _RESULT_VALID,\n",
                "        param(until) >= results.c.created_at,\n",
            ),
            service(
                "storage/retention.py",
                "text(IS_ENDED), not_(_HELD), _RESULT_OLD)",
                "not_(_HELD))",
            ),
        ),
        ("R11",),
        BOTH,
        CLEANUPS,
    ),
    Plant(
        "cleanup-too-early",
        "cleanup adds the time to live to now instead of taking it off",
        (
            service(
                "domain/retention.py",
                "return now - timedelta(seconds=self.results_ttl_seconds)",
                "return now + timedelta(seconds=self.results_ttl_seconds)",
            ),
        ),
        ("R11",),
        BOTH,
        CLEANUPS,
    ),
    Plant(
        "dry-run-writes",
        "a dry run opens the store as a live run does",
        (
            service(
                "wiring/stores.py",
                "open_store(store_file, Mode.READ_ONLY if dry_run else Mode.TOOL)",
                "open_store(store_file, Mode.TOOL)",
            ),
        ),
        ("R12.bytes",),
        SQLITE,
        DRY_RUN,
    ),
    Plant(
        "dry-run-counts-the-held",
        "a dry run counts rows of jobs under hold among those that would go",
        (service("storage/retention.py", "going = and_(old, not_(_HELD))", "going = old"),),
        ("R12.counts",),
        BOTH,
        CLEANUPS,
    ),
    # ------------------------------------------------------------ files and disk
    Plant(
        "a-new-database-for-a-lost-one",
        "where the database is missing, a new one is made",
        (
            service(
                "storage/opening.py",
                "    database = file.database_path\n",
                "    database = file.database_path\n    if not os.path.lexists(database):\n"
                '        facts = {"store_id": file.store_id, "created_at": "2026-01-01T00:00:00Z"}\n'
                "        _build_database(database, facts)\n",
            ),
        ),
        ("R24",),
        SQLITE,
        BROKEN_STORES,
    ),
    Plant(
        "another-stores-database",
        "it is not seen that the database belongs to another store file",
        (service("storage/opening.py", "if facts.store_id != file.store_id:", "if not facts.store_id:"),),
        ("R24",),
        SQLITE,
        BROKEN_STORES,
    ),
    Plant(
        "reserve-kept-for-ever",
        "the reserve is not let go when the disk is full",
        (
            service(
                "storage/ballast.py",
                "    def release(self) -> bool:\n",
                "    def release(self) -> bool:\n        return False\n\n    def _release(self) -> bool:\n",
            ),
        ),
        ("R23.running", "R23.retention"),
        SQLITE,
        FULL_DISK,
    ),
)

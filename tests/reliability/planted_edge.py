"""Bugs at the edge: tenants, input, logs and alerts."""

from __future__ import annotations

from tests.reliability.planted_plant import BOTH, Plant, ids, service
from tests.reliability.planted_scratch import Edit

TIMING = ids("test_secrets_timing", "test_a_foreign_id_and_nobodys_take_the_same_time", *BOTH)
CROSSING = ids("test_strangers", "test_two_thousand_requests_of_three_tenants_cross_nowhere", *BOTH)
FOREIGN = ids(
    "test_strangers",
    "test_a_foreign_and_an_unknown_id_are_the_same_bytes_on_every_route_and_method",
    *BOTH,
)
SECRETS = ids("test_secrets", "test_no_planted_secret_is_found_where_it_does_not_belong", *BOTH)
SLOW = ids("test_slow", "test_fifty_slow_clients_cost_little_memory")

PLANTS: tuple[Plant, ...] = (
    # ------------------------------------------------------------ tenants
    Plant(
        "tenant-checked-after-the-load",
        "a result is loaded with its body, and only then is it seen whose it is",
        (
            service(
                "storage/statements.py",
                "    .outerjoin(result_bodies, result_bodies.c.result_key == results.c.result_key)\n"
                '    .where(*_one_of(results, "result_id"))\n',
                "    .outerjoin(result_bodies, result_bodies.c.result_key == results.c.result_key)\n"
                '    .where(results.c.result_id == param("the_result_id"))\n',
            ),
            service(
                "storage/reading.py",
                "        found = _as_asked(_to_found(tuple(row[:-1])), org_id, result_id)\n",
                "        found = _to_found(tuple(row[:-1]))\n"
                "        if found.result.org_id != org_id:\n"
                "            self.find_body(found.result.org_id, result_id)\n            return None\n",
            ),
        ),
        ("R17",),
        BOTH,
        TIMING,
    ),
    Plant(
        "tenant-forgotten",
        "one query does not ask for the tenant: that of a job by its id",
        (
            service(
                "storage/statements.py",
                'FIND_JOB = select(*_pick(jobs, job_rows.JOB_COLUMNS)).where(*_one_of(jobs, "job_id"))',
                "FIND_JOB = select(*_pick(jobs, job_rows.JOB_COLUMNS)).where("
                'jobs.c.job_id == param("the_job_id"))',
            ),
        ),
        ("R18",),
        BOTH,
        CROSSING,
    ),
    Plant(
        "key-of-all-tenants",
        "an Idempotency-Key that another tenant has used leads to that tenant's job",
        (
            service(
                "storage/statements.py",
                "FIND_KEY = select(*_pick(idempotency_keys, rows.IDEMPOTENCY_COLUMNS)).where("
                '*_one_of(idempotency_keys, "key"))',
                "FIND_KEY = select(*_pick(idempotency_keys, rows.IDEMPOTENCY_COLUMNS)).where("
                'idempotency_keys.c.key == param("the_key"))',
            ),
            service(
                "engine/jobs.py",
                "known = tx.find_job(job.org_id, record.job_id)",
                "owners = [one.org_id for one in tx.find_bundles([record.job_id])]\n"
                "    known = tx.find_job(owners[0], record.job_id) if owners else None",
            ),
        ),
        ("R18",),
        BOTH,
        CROSSING,
    ),
    Plant(
        "foreign-404-tells",
        "what is not found says in its words whether it is somebody else's",
        (
            service(
                "storage/writing.py",
                '        if row is None:\n            raise NotFoundError("job")\n        return job_rows.to_job(row)',
                "        if row is None:\n"
                '            raise NotFoundError("job of yours" if self.event_seqs([job_id]) else "job")\n'
                "        return job_rows.to_job(row)",
            ),
        ),
        ("R16",),
        BOTH,
        FOREIGN,
    ),
    # ------------------------------------------------------------ the edge
    Plant(
        "bodies-without-limit",
        "a body is read to its end however long it is",
        (
            service(
                "api/request.py", "or len(announced) > 18 or int(announced) > limit", "or len(announced) > 18"
            ),
            service("api/request.py", "if received > self._limit:", "if received < 0:"),
        ),
        ("R28.memory",),
        ("-",),
        SLOW,
    ),
    Plant(
        "deep-json-is-a-fault",
        "JSON that is nested too deep for the parser is answered with 500",
        (service("api/decode.py", "    except RecursionError:\n", "    except MemoryError:\n"),),
        ("R15",),
        ("-",),
        ids("test_hostile_parsers", "test_no_bytes_break_a_parser_or_keep_it_busy", "json_body"),
    ),
    Plant(
        "queries-in-the-log",
        "the log has the query of every request",
        (
            service(
                "api/gate.py",
                "route=route,",
                "route=f\"{route}?{call._scope.get('query_string', b'').decode()}\",",
            ),
        ),
        ("R20",),
        BOTH,
        SECRETS,
    ),
    Plant(
        "alert-that-never-fires",
        "the alert for a failed cleanup has a threshold that no exit code reaches",
        (
            Edit(
                "deploy/prometheus/async-delivery.rules.yml",
                "expr: max by (job) (async_retention_cleanup_exit_code) > 0\n",
                "expr: max by (job) (async_retention_cleanup_exit_code) > 300\n",
            ),
        ),
        ("R32.raised",),
        ("-",),
        ids("test_corpus_alerts", "test_a_fault_raises_its_alerts", "cleanup fails"),
    ),
)

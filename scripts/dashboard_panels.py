"""What is on the dashboard: its rows, panels and expressions. How they are drawn lives in ``generate_dashboard``.

In an expression ``$job`` is the deployment that was chosen, and ``$__rate_interval`` Grafana's choice of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

from async_delivery.domain.signal import (
    CLEANUP_EXIT_CODE,
    EVENTS_DELETE_COUNT,
    HTTP_5XX_RATE,
    P95_MS,
    RESULTS_DELETE_COUNT,
    WITHOUT_IN_APP,
    SignalSpec,
)

_QUANTILES = ("0.5", "0.95", "0.99")


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and how its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. With ``signal`` its thresholds are drawn and its hint is the description.

    unit     a unit of Grafana's
    span     columns, of 24
    single   the last value as a number, in place of a course over time
    stacked  the series add up
    """

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    span: int = 8
    text: str = ""
    signal: SignalSpec | None = None
    single: bool = False
    stacked: bool = False


def quantiles(histogram: str, *by: str) -> tuple[Query, ...]:
    """Median, p95 and p99 of a histogram, in seconds."""
    labels = ", ".join(("le", *by))
    legend = "".join(f"{{{{{each}}}}} " for each in by)
    return tuple(
        Query(
            f"histogram_quantile({quantile},"
            f' sum by ({labels}) (rate({histogram}_bucket{{job="$job"}}[$__rate_interval])))',
            f"{legend}p{float(quantile) * 100:g}",
        )
        for quantile in _QUANTILES
    )


def rate(counter: str, *by: str) -> str:
    """Per second, by labels."""
    return f'sum by ({", ".join(by)}) (rate({counter}{{job="$job"}}[$__rate_interval]))'


def largest(gauge: str, *by: str) -> str:
    """Of a gauge that every process reads from the same store."""
    return f'max by ({", ".join(("job", *by))}) ({gauge}{{job="$job"}})'


TRAFFIC = (
    Panel(
        "5xx of the permalink, 5 min",
        (Query(f'{HTTP_5XX_RATE.name}{{job="$job"}}', "5xx"),),
        unit="percentunit",
        span=6,
        signal=HTTP_5XX_RATE,
    ),
    Panel(
        "p95 of the permalink, 15 min",
        (Query(f'{P95_MS.name}{{job="$job"}}', "p95"),),
        unit="ms",
        span=6,
        signal=P95_MS,
    ),
    Panel(
        "Answers by class",
        (Query(rate("async_delivery_http_requests_total", "status_class"), "{{status_class}}"),),
        unit="reqps",
        span=12,
        stacked=True,
    ),
    Panel(
        "Answers by route",
        (Query(rate("async_delivery_http_requests_total", "method", "route"), "{{method}} {{route}}"),),
        unit="reqps",
        span=12,
    ),
    Panel(
        "p95 by route",
        (
            Query(
                "histogram_quantile(0.95, sum by (le, method, route)"
                ' (rate(async_delivery_http_request_seconds_bucket{job="$job"}[$__rate_interval])))',
                "{{method}} {{route}}",
            ),
        ),
        unit="s",
        span=12,
        text="An answer that is held for a client that waits counts with its waiting.",
    ),
)
JOBS = (
    Panel(
        "Jobs that have not ended",
        (
            Query(
                'sum by (status) (max by (status, analysis) (async_jobs{job="$job",'
                ' status=~"queued|running|partial"}))',
                "{{status}}",
            ),
        ),
        stacked=True,
    ),
    Panel(
        "Longest wait in the queue",
        (Query(largest("async_queue_oldest_seconds"), "oldest"),),
        unit="s",
        text="How long the job has waited that may run and waits longest.",
    ),
    Panel(
        "Ended without in-app notification",
        (Query(largest(WITHOUT_IN_APP.name), "jobs"),),
        signal=WITHOUT_IN_APP,
        single=True,
    ),
    Panel("From submit to start", quantiles("async_wait_seconds"), unit="s"),
    Panel("From start to end", quantiles("async_run_seconds"), unit="s"),
    Panel(
        "Ended attempts by outcome",
        (Query(rate("async_attempts_total", "outcome"), "{{outcome}}"),),
        unit="ops",
        stacked=True,
    ),
)
WORKERS = (
    Panel(
        "Slots",
        (Query('sum by (state) (async_worker_slots{job="$job"})', "{{state}}"),),
        stacked=True,
    ),
    Panel(
        "Age of the slowest worker loop",
        (Query('max by (instance) (async_worker_loop_age_seconds{job="$job"})', "{{instance}}"),),
        unit="s",
        text="Seconds at most, unless something hangs.",
    ),
    Panel(
        "Lost attempts and refused writes",
        (
            Query('sum(increase(async_attempts_lost_total{job="$job"}[$__rate_interval]))', "attempts lost"),
            Query(
                'sum(increase(async_stale_writes_refused_total{job="$job"}[$__rate_interval]))',
                "stale writes refused",
            ),
        ),
        text="A worker died, and its jobs were taken over; what it wrote too late was refused.",
    ),
    Panel(
        "Processor",
        (Query('rate(process_cpu_seconds_total{job="$job"}[$__rate_interval])', "{{instance}}"),),
        unit="percentunit",
        text="Of the serving process; each analysis has a process of its own.",
    ),
    Panel("Memory", (Query('process_resident_memory_bytes{job="$job"}', "{{instance}}"),), unit="bytes"),
    Panel(
        "Failed chores and lost log lines",
        (
            Query(
                'sum by (chore) (increase(async_chore_failures_total{job="$job"}[$__rate_interval]))',
                "{{chore}}",
            ),
            Query('sum(increase(async_log_lines_dropped_total{job="$job"}[$__rate_interval]))', "log lines"),
        ),
    ),
)
RETENTION = (
    Panel(
        "Exit code of the last cleanup",
        (Query(largest(CLEANUP_EXIT_CODE.name), "exit code"),),
        span=4,
        signal=CLEANUP_EXIT_CODE,
        single=True,
    ),
    Panel(
        "Since the last success",
        (
            Query(
                f"time() - ({largest('async_retention_cleanup_last_success_timestamp_seconds')} > 0)",
                "ago",
            ),
        ),
        unit="s",
        span=4,
        single=True,
    ),
    Panel("Paused", (Query(largest("async_retention_cleanup_paused"), "paused"),), span=4, single=True),
    Panel(
        "Old rows that wait for the next cleanup",
        (Query(largest("async_retention_backlog_rows", "section"), "{{section}}"),),
        span=12,
        text="By the TTLs of the server; 10,000 stands for that many or more.",
    ),
    *(
        Panel(
            f"Deleted {section}, and three times their 7-day median",
            (
                Query(largest(spec.name), "deleted"),
                Query(
                    "3 * (max by (job)"
                    f' (async_retention_delete_median_7d{{job="$job", section="{section}"}}) > 0)',
                    "spike from here on",
                ),
            ),
            signal=spec,
        )
        for section, spec in (("results", RESULTS_DELETE_COUNT), ("events", EVENTS_DELETE_COUNT))
    ),
    Panel(
        "Kept, and kept for want of a date",
        (
            Query(largest("async_retention_results_kept_count"), "results"),
            Query(largest("async_retention_events_kept_count"), "events"),
            Query(largest("async_retention_skipped_missing_timestamp_count"), "undated"),
        ),
    ),
)
STORE = (
    Panel("Readable", (Query('min(async_store_readable{job="$job"})', "readable"),), span=4, single=True),
    Panel(
        "Size",
        (
            Query(largest("async_store_bytes"), "database"),
            Query(largest("async_store_wal_bytes"), "write-ahead log"),
        ),
        unit="bytes",
        span=10,
    ),
    Panel(
        "Free space",
        (Query('min by (job) (async_store_free_bytes{job="$job"})', "free"),),
        unit="bytes",
        span=10,
    ),
)
ROWS = {"Traffic": TRAFFIC, "Jobs": JOBS, "Workers": WORKERS, "Retention": RETENTION, "Store": STORE}

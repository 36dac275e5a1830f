"""The table of settings, and the frozen values of one process. How they are read lives in ``sources``.

The table drives the flags of the command line, the environment, the TOML file and docs/reference/settings.md. What a
setting means is the business of those who use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_delivery.domain.duration import parse_ttl_seconds
from async_delivery.settings.forms import (
    LOG_FORMATS,
    LOG_LEVELS,
    parse_analysis_name,
    parse_analysis_ref,
    parse_bytes,
    parse_bytes_or_none,
    parse_host,
    parse_label,
    parse_log_format,
    parse_log_level,
    parse_network,
    parse_path,
    parse_rate,
    parse_ray_address,
    parse_switch,
    parse_text,
    parse_ttl_or_off,
    parse_variable,
    span,
    whole,
)
from async_delivery.settings.schedule import HOURLY, Schedule, parse_schedule

if TYPE_CHECKING:
    from async_delivery.domain.retention import RetentionPolicy

ENV_PREFIX = "ASYNC_DELIVERY_"


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process runs with; see SETTINGS for what each field means. Durations in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8080
    store_file: Path = Path("runtime/async_jobs/store.v1.json")
    store_url: str | None = None
    store_connections: int | None = None
    default_analysis: str = "profile"
    analysis: tuple[str, ...] = ()
    analyses: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    data_root: Path | None = None
    slots: int = field(default_factory=available_cores)
    no_workers: bool = False
    lease_seconds: float = 30.0
    heartbeat_seconds: float = 10.0
    poll_seconds: float = 1.0
    drain_grace_seconds: float = 10.0
    cancel_grace_seconds: float = 5.0
    kill_grace_seconds: float = 2.0
    work_dir: Path | None = None
    ray_address: str | None = None
    keep_env: tuple[str, ...] = ()
    fault_injection: bool = False
    max_timeout_seconds: float = 86_400.0
    results_ttl_seconds: int = 604_800
    max_results_ttl_seconds: int = 31_536_000
    events_ttl_seconds: int = 259_200
    jobs_ttl_seconds: int | None = 7_776_000
    cleanup_schedule: Schedule = HOURLY
    artifacts_dir: Path = Path("artifacts/async")
    artifacts_ttl_seconds: int = 2_592_000
    ready_max_queued_seconds: float = 900.0
    ready_min_free_bytes: int = 104_857_600
    ballast_bytes: int = 67_108_864
    max_body_bytes: int = 1_048_576
    max_upload_bytes: int = 1_073_741_824
    max_wait_seconds: float = 60.0
    max_queued_per_tenant: int = 100_000
    max_running_per_tenant: int | None = None
    requests_per_second: float | None = None
    trusted_proxy: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: str | None = None
    otel: bool = False

    @property
    def retention(self) -> RetentionPolicy:
        """How long things are kept."""
        from async_delivery.domain.retention import RetentionPolicy  # noqa: PLC0415  only some commands need it

        return RetentionPolicy(self.results_ttl_seconds, self.events_ttl_seconds, self.jobs_ttl_seconds)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    name        the field of Settings, the TOML key, and the stem of flag and variable
    form        what a value looks like, for people
    parse       text -> value; ValueError says what would be right
    help        one sentence
    number      TOML gives it as a number too
    switch      a flag without a value; a boolean in TOML
    repeatable  given several times on the command line, with commas in the environment, as a list in TOML
    unset       what stands for a default that is None or depends on the machine
    """

    name: str
    form: str
    parse: Callable[[str], Any]
    help: str
    number: bool = False
    switch: bool = False
    repeatable: bool = False
    unset: str = ""

    @property
    def flag(self) -> str:
        """``--store-file``"""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """``ASYNC_DELIVERY_STORE_FILE``"""
        return f"{ENV_PREFIX}{self.name.upper()}"

    @property
    def default_text(self) -> str:
        """The default as a person would type it."""
        value = None if self.name == "slots" else getattr(DEFAULTS, self.name)
        if value is None or value == ():
            return self.unset
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:g}" if isinstance(value, float) else str(value)


def _row(name: str, form: str, parse: Callable[[str], Any], text: str, **more: Any) -> Setting:
    return Setting(name, form, parse, text, **more)


DEFAULTS = Settings()
_LONGEST = float(365 * 86_400)

SETTINGS: tuple[Setting, ...] = (
    _row(
        "host",
        "address",
        parse_host,
        "Address to listen on. Beyond this machine `serve` needs trusted_proxy.",
    ),
    _row(
        "port",
        "0..65535",
        whole(0, 65_535),
        "Port to listen on; 0 takes a free one. A `worker` listens on 8081 unless it is told otherwise.",
        number=True,
    ),
    _row("store_file", "path", parse_path, "The file that names the store; made where there is none."),
    _row(
        "store_url",
        "url",
        parse_text,
        "The database that a new store file names. Where a store file exists it must say the same.",
        unset="sqlite:store.v1.sqlite3 beside the store file",
    ),
    _row(
        "store_connections",
        "2..1000",
        whole(2, 1_000),
        "The most connections to PostgreSQL for reads and writes; two more listen and tell.",
        number=True,
        unset="10, or in a worker as many as its slots and three more, if that is less",
    ),
    _row("default_analysis", "name", parse_analysis_name, "What a request without an analysis runs."),
    _row(
        "analysis",
        "module:function",
        parse_analysis_ref,
        "An analysis to offer besides those that are installed.",
        repeatable=True,
        unset="none",
    ),
    _row(
        "analyses",
        "name",
        parse_analysis_name,
        "An analysis whose jobs this process takes, where several processes share a store.",
        repeatable=True,
        unset="all that are available here",
    ),
    _row(
        "label",
        "K=V",
        parse_label,
        "A label of this machine. An analysis with runs_on is run only where all its labels are.",
        repeatable=True,
        unset="none",
    ),
    _row(
        "data_root",
        "path",
        parse_path,
        "Folder whose files jobs may name by path.",
        unset="no file of this machine",
    ),
    _row(
        "slots",
        "1..1024",
        whole(1, 1024),
        "Attempts that run at the same time.",
        number=True,
        unset="the number of cores",
    ),
    _row("no_workers", "true/false", parse_switch, "Serve the API and run no job.", switch=True),
    _row(
        "lease_seconds",
        "duration",
        span(0.3, 86_400),
        "How long an attempt is a worker's without a heartbeat.",
        number=True,
    ),
    _row(
        "heartbeat_seconds",
        "duration",
        span(0.1, 28_800),
        "How often a worker renews its leases; at most a third of lease_seconds.",
        number=True,
    ),
    _row(
        "poll_seconds",
        "duration",
        span(0.05, 60),
        "How often a worker with free slots asks for jobs when nobody told it of any.",
        number=True,
    ),
    _row(
        "drain_grace_seconds",
        "duration",
        span(0, 86_400),
        "How long running attempts may go on after SIGTERM, before they are given back.",
        number=True,
    ),
    _row(
        "cancel_grace_seconds",
        "duration",
        span(0, 3_600),
        "How long a canceled or overdue attempt may take to end by itself, before SIGTERM.",
        number=True,
    ),
    _row(
        "kill_grace_seconds", "duration", span(0, 3_600), "How long between SIGTERM and SIGKILL.", number=True
    ),
    _row(
        "work_dir",
        "path",
        parse_path,
        "Folder for the work folders of attempts.",
        unset="work beside the store file",
    ),
    _row(
        "ray_address",
        "auto or host:port",
        parse_ray_address,
        "The Ray cluster, which this machine is a node of, for analyses that run on Ray. Needs the extra ray.",
        unset="a Ray of its own, started by the worker if an analysis needs it",
    ),
    _row(
        "keep_env",
        "variable",
        parse_variable,
        "An environment variable that analyses may see; all others are kept from them.",
        repeatable=True,
        unset="none",
    ),
    _row(
        "fault_injection",
        "true/false",
        parse_switch,
        "Let selftest harm its own process on request. For tests only.",
        switch=True,
    ),
    _row(
        "max_timeout_seconds",
        "duration",
        span(0.001, _LONGEST),
        "The longest one attempt may run, whatever was asked for.",
        number=True,
    ),
    _row(
        "results_ttl_seconds",
        "duration",
        parse_ttl_seconds,
        "How long results are kept, unless their job asked for a time of its own.",
        number=True,
    ),
    _row(
        "max_results_ttl_seconds",
        "duration",
        parse_ttl_seconds,
        "The longest time to keep its results that a job may ask for.",
        number=True,
    ),
    _row(
        "events_ttl_seconds",
        "duration",
        parse_ttl_seconds,
        "How long events are kept after their job has ended.",
        number=True,
    ),
    _row(
        "jobs_ttl_seconds",
        "duration or off",
        parse_ttl_or_off,
        "How long an ended job is kept, with the receipts of its results; never shorter than its results and events.",
        number=True,
    ),
    _row(
        "cleanup_schedule",
        "schedule",
        parse_schedule,
        "When the server cleans up by itself; off leaves it to the script.",
    ),
    _row("artifacts_dir", "path", parse_path, "Folder for the reports of cleanups that the server runs."),
    _row(
        "artifacts_ttl_seconds",
        "duration",
        parse_ttl_seconds,
        "How long the server keeps the reports of its own cleanups; the last ten stay in any case.",
        number=True,
    ),
    _row(
        "ready_max_queued_seconds",
        "duration",
        span(0, _LONGEST),
        "How long a job may wait before /health/ready answers 503; 0 sets no limit.",
        number=True,
    ),
    _row(
        "ready_min_free_bytes",
        "size",
        parse_bytes,
        "Free disk space of the store below which /health/ready answers 503.",
        number=True,
    ),
    _row(
        "ballast_bytes",
        "size",
        parse_bytes_or_none,
        "Room that an SQLite store keeps for cleanups and running jobs when its disk is full: a file beside the"
        " database, at most a sixteenth of the disk; 0 for none.",
        number=True,
    ),
    _row("max_body_bytes", "size", parse_bytes, "Largest JSON body of a request.", number=True),
    _row("max_upload_bytes", "size", parse_bytes, "Largest uploaded file.", number=True),
    _row(
        "max_wait_seconds",
        "duration",
        span(0, 60),
        "The longest that an answer is held for a client that waits.",
        number=True,
    ),
    _row(
        "max_queued_per_tenant",
        "1..10000000",
        whole(1, 10_000_000),
        "Jobs of one tenant that may wait; more are refused with rate_limited.",
        number=True,
    ),
    _row(
        "max_running_per_tenant",
        "1..1024",
        whole(1, 1024),
        "Attempts of one tenant that run at the same time.",
        number=True,
        unset="as many as there are slots",
    ),
    _row(
        "requests_per_second",
        "number",
        parse_rate,
        "Requests of one tenant per second; more are refused with rate_limited.",
        number=True,
        unset="no limit",
    ),
    _row(
        "trusted_proxy",
        "network",
        parse_network,
        "Address or network of a proxy that sets X-Org-Id for its clients; only such peers are answered.",
        repeatable=True,
        unset="none",
    ),
    _row(
        "log_level",
        "/".join(LOG_LEVELS),
        parse_log_level,
        "From which level on the server logs to stderr. Requests are logged at info.",
    ),
    _row(
        "log_format",
        "/".join(LOG_FORMATS),
        parse_log_format,
        "One JSON object or one text per line.",
        unset="text on a terminal, json elsewhere",
    ),
    _row(
        "otel",
        "true/false",
        parse_switch,
        "Send traces with OpenTelemetry, as OTEL_EXPORTER_OTLP_ENDPOINT does by itself. Needs the extra otel.",
        switch=True,
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}

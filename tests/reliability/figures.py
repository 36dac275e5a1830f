"""The figures that the service is judged by: what is counted, the target, and how much must be tried for it.

A figure with several parts has a row for each, such as ``R6.recorded`` and ``R6.restarted``. No measurement lives
here, and nothing of the product is imported. After a change, ``python -m tests.reliability.page`` takes it over into
docs/explanation/reliability.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Comparison = Literal["<=", "<", ">="]
Form = Literal["short", "long"]

EITHER = ("sqlite", "postgres")
SQLITE = ("sqlite",)
POSTGRES = ("postgres",)
NONE = ("-",)

WEBHOOKS = "webhooks"
PAGES = "pages"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, or one part of a figure.

    key           its number, with the part after a point
    stores        where it is measured; "-" where no store takes part
    short_target  the target of the short form, where that differs
    *_cases       how many cases each form must have tried; 0 where the form has no share
    waits_for     what has to be built before it can be measured; "" if nothing
    """

    key: str
    what: str
    target: float
    unit: str = ""
    comparison: Comparison = "<="
    stores: tuple[str, ...] = EITHER
    short_cases: int = 0
    long_cases: int = 0
    short_target: float | None = None
    waits_for: str = ""

    @property
    def number(self) -> str:
        """The figure that this is, or is a part of, such as ``R6``."""
        return self.key.partition(".")[0]

    def target_of(self, form: Form) -> float:
        """The target of one form."""
        if form == "short" and self.short_target is not None:
            return self.short_target
        return self.target

    def cases_of(self, form: Form) -> int:
        """How many cases one form must have tried."""
        return self.short_cases if form == "short" else self.long_cases

    def reached(self, measured: float, form: Form) -> bool:
        """Whether ``measured`` is as good as the target; not a number never is."""
        target = self.target_of(form)
        match self.comparison:
            case "<=":
                return measured <= target
            case "<":
                return measured < target
            case ">=":
                return measured >= target

    def worse(self, one: float, other: float) -> float:
        """The value to be judged by, of two measurements of the same thing."""
        if self.target == 0 and not self.unit:
            return one + other  # two counts of what must not happen
        return min(one, other) if self.comparison == ">=" else max(one, other)

    def say_target(self, form: Form) -> str:
        """The target in words, such as ``<= 45 s``."""
        sign = "" if self.target == 0 and self.comparison == "<=" else f"{self.comparison} "
        return sign + say(self.target_of(form), self.unit)


def say(value: float, unit: str) -> str:
    """A value with its unit."""
    return f"{value:.6g}" if not unit else f"{value:.3g} {unit}"


FIGURES: tuple[Figure, ...] = (
    Figure("R1", "acknowledged jobs lost over random kill -9", 0, short_cases=40, long_cases=500),
    Figure("R2", "second ends or notifications of a job, same kills", 0, short_cases=40, long_cases=500),
    Figure(
        "R3",
        "violations over every system call that a commit can be killed at",
        0,
        stores=SQLITE,
        long_cases=300,
    ),
    Figure("R4.lost", "acknowledged writes lost in power-cut images", 0, stores=SQLITE, long_cases=10_000),
    Figure("R4.corrupt", "corrupt stores among power-cut images", 0, stores=SQLITE, long_cases=10_000),
    Figure(
        "R5",
        "writes accepted from an attempt that was stopped past its lease",
        0,
        short_cases=5,
        long_cases=200,
    ),
    Figure(
        "R5.late",
        "writes accepted from an attempt after another one got its job",
        0,
        short_cases=500,
        long_cases=10_000,
    ),
    Figure(
        "R6.recorded", "death of a child to its loss on record, p99", 1, "s", short_cases=10, long_cases=100
    ),
    Figure("R6.restarted", "death of a child to its next run, p99", 2, "s", short_cases=10, long_cases=100),
    # Long at a lease of 30 s and a heartbeat of 10 s, short at 6 s and 2 s.
    Figure(
        "R7",
        "loss of a host to the next run on another, p99",
        45,
        "s",
        stores=POSTGRES,
        short_cases=1,
        long_cases=5,
        short_target=10,
    ),
    Figure("R8", "healthy jobs run again while processors starve", 0, long_cases=100),
    Figure(
        "R9", "ends other than one in races of cancel and completion", 0, short_cases=500, long_cases=10_000
    ),
    Figure(
        "R10",
        "events missed, repeated or out of order for reconnecting readers",
        0,
        short_cases=20_000,
        long_cases=1_000_000,
    ),
    Figure(
        "R11",
        "updates lost or rows back from the dead, cleanup beside a server",
        0,
        short_cases=50,
        long_cases=1_000,
    ),
    Figure("R12.bytes", "bytes of the store changed by a dry run", 0, stores=SQLITE, short_cases=1),
    Figure("R12.counts", "difference of what a dry and a live run count", 0, short_cases=1),
    Figure("R13.reads", "p99 of reads during a large cleanup, over without", 2, "x", "<"),
    # PostgreSQL has no lock that all writers share.
    Figure("R13.lock", "longest hold of the write lock by cleanup", 50, "ms", stores=SQLITE),
    Figure("R13.deadlocks", "deadlocks among four cleanups", 0),
    # Of both stores together twice as many.
    Figure("R14", "unintended 5xx among generated requests", 0, short_cases=1_000, long_cases=50_000),
    Figure("R15", "crashes of parsers of bodies, headers and paths", 0, stores=NONE),
    Figure("R16", "bytes by which a foreign and an unknown id differ", 0, short_cases=1),
    Figure("R17", "foreign and unknown id told apart by time, AUC", 0.55, short_cases=2_000),
    Figure("R18", "reads or writes across tenants", 0, short_cases=2_000, long_cases=50_000),
    Figure("R19", "connections to addresses that are not public", 0, stores=NONE, waits_for=WEBHOOKS),
    Figure("R20", "planted secrets found in logs, metrics, errors, store or backup", 0),
    Figure("R21.lost", "events never delivered to a receiver that came back", 0, waits_for=WEBHOOKS),
    Figure("R21.ids", "ids of one event beyond the first", 0, waits_for=WEBHOOKS),
    Figure("R22", "hostile data that became markup, formula or log line", 0, stores=NONE, waits_for=PAGES),
    Figure("R23.reads", "failed reads while the disk is full", 0, stores=SQLITE),
    Figure("R23.running", "accepted jobs that do not complete while the disk is full", 0, stores=SQLITE),
    Figure("R23.litter", "files left over from writes on a full disk", 0, stores=SQLITE),
    Figure("R23.recovery", "space is back to the next accepted job", 5, "s", stores=SQLITE),
    Figure("R23.retention", "cleanups that work on a full disk", 100, "%", ">=", stores=SQLITE),
    Figure(
        "R24",
        "starts on a broken store that serve data or overwrite it",
        0,
        stores=SQLITE,
        short_cases=100,
        long_cases=1_000,
    ),
    Figure("R25.deletions", "rows deleted early because a clock jumped", 0),
    Figure("R25.leases", "leases lost because a clock jumped", 0),
    Figure("R26.starts", "starts of a job that kills its process beyond its limit", 0, short_cases=1),
    Figure("R26.loss", "throughput that its neighbours lose", 10, "%", short_cases=1),
    Figure(
        "R26.corpus",
        "misbehaving analyses that ended wrongly or were noticed by others",
        0,
        short_cases=30,
        long_cases=100,
    ),
    Figure("R27.gone", "cancel to the end of its processes, beyond the grace, p99", 1, "s", short_cases=10),
    Figure("R27.survivors", "processes left over from canceled attempts", 0, short_cases=10),
    Figure("R28.memory", "growth of the server under frozen and slow clients", 64, "MiB", stores=NONE),
    Figure("R28.others", "p99 of others meanwhile, over without", 2, "x", stores=NONE),
    Figure(
        "R29.lost",
        "acknowledged jobs lost over restarts of PostgreSQL",
        0,
        stores=POSTGRES,
        short_cases=3,
        long_cases=50,
    ),
    Figure(
        "R29.recovery",
        "PostgreSQL is back to the next accepted job, p99",
        5,
        "s",
        stores=POSTGRES,
        short_cases=3,
        long_cases=50,
    ),
    Figure("R30.ready", "start with a million jobs in the store: ready", 2, "s", long_cases=1_000_000),
    Figure("R30.claim", "the same: ready to the first claim", 1, "s", long_cases=1_000_000),
    Figure("R31.faults", "known faults in the pinned dependencies", 0, stores=NONE),
    Figure("R31.count", "direct dependencies of the base install", 15, stores=NONE),
    Figure("R32.raised", "faults that must raise an alert and do", 100, "%", ">=", stores=NONE),
    Figure("R32.false", "alerts without a fault", 0, stores=NONE),
    Figure("R33", "planted bugs that turn a figure red", 95, "%", ">=", stores=NONE, long_cases=20),
    Figure("R33.again", "of those found by chance, found again with the seed", 95, "%", ">=", stores=NONE),
)

BY_KEY = {figure.key: figure for figure in FIGURES}

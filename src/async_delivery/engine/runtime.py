"""What every use case needs: the store, the clock, ids, chance, the catalogue and the limits.

Built once by ``wiring`` (and by tests, with a clock of their own); nothing here decides anything.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import time_ns
from typing import Protocol

from async_delivery.engine.catalogue import Catalogue
from async_delivery.storage.contract import Store


class Clock(Protocol):
    """The only source of wall time below the edges."""

    def now(self) -> datetime:
        """Aware UTC."""


class SystemClock:
    """The machine's clock, for those who have no store yet."""

    def now(self) -> datetime:
        """Aware UTC, microseconds."""
        return datetime.now(UTC)


class StoreClock:
    """The clock of a store. Machines that share one agree on it whatever their own clocks say."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def now(self) -> datetime:
        """Aware UTC, microseconds."""
        return self._store.clock()


class _Unset(SystemClock):
    """Stands for the clock of the store that a Runtime is made with."""


_OF_THE_STORE = _Unset()


# Random bits, each handed out once. Asking the kernel lets other threads run, and with busy ones about it takes far
# longer to get the interpreter back than to get ten bytes; so many are asked for at a time.
_AT_ONCE = 512
_TAIL_BYTES = 10
_unused_tails: list[str] = []
_unused_tokens: list[str] = []
# What a byte becomes that holds the version in its upper four bits, or the variant in its upper two.
_VERSION_7 = bytes(0x70 | byte & 0x0F for byte in range(256))
_VARIANT = bytes(0x80 | byte & 0x3F for byte in range(256))


def _tail() -> str:
    """The last three groups of an id: 74 random bits between its version and its variant, never the same twice."""
    while True:
        try:
            return _unused_tails.pop()
        except IndexError:
            noise = bytearray(os.urandom(_AT_ONCE * _TAIL_BYTES))
            noise[0::_TAIL_BYTES] = noise[0::_TAIL_BYTES].translate(_VERSION_7)
            noise[2::_TAIL_BYTES] = noise[2::_TAIL_BYTES].translate(_VARIANT)
            digits = noise.hex()
            _unused_tails.extend(
                f"-{digits[at : at + 4]}-{digits[at + 4 : at + 8]}-{digits[at + 8 : at + 20]}"
                for at in range(0, len(digits), 2 * _TAIL_BYTES)
            )


# A forked process must not hand out what its parent hands out.
os.register_at_fork(after_in_child=_unused_tails.clear)
os.register_at_fork(after_in_child=_unused_tokens.clear)

# The last millisecond that an id was made in, and the beginning of the ids made in it.
_lately: tuple[int, str] = (-1, "")


def new_id() -> str:
    """A UUID version 7 (RFC 9562): 48 bits of milliseconds, then 74 random bits, as 36 characters.

    The random bits are fresh in each id; a counter in their place would make neighbours guessable.
    """
    global _lately  # noqa: PLW0603  one value, replaced whole
    millis = time_ns() // 1_000_000
    known, beginning = _lately
    if millis != known:
        text = f"{millis:012x}"
        beginning = f"{text[:8]}-{text[8:]}"
        _lately = millis, beginning
    return beginning + _tail()


def new_token() -> str:
    """128 random bits in hex, for leases."""
    while True:
        try:
            return _unused_tokens.pop()
        except IndexError:
            digits = os.urandom(_AT_ONCE * 16).hex()
            _unused_tokens.extend(digits[at : at + 32] for at in range(0, len(digits), 32))


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and spans of time. Durations in seconds.

    lease_seconds              how long an attempt is a worker's without a heartbeat
    heartbeat_seconds          how often the worker renews it; at most a third of the lease
    margin_seconds             so long before the lease ends its worker gives it up by itself
    default_analysis           what a request without ``analysis`` runs
    results_ttl_seconds        for jobs that ask for none
    max_results_ttl_seconds    the longest a tenant may ask for
    max_timeout_seconds        the longest an attempt may run, whatever was asked for
    max_queued_per_tenant      jobs that may wait; more are refused with rate_limited
    max_running_per_tenant     attempts at a time; None means as many as there are slots
    idempotency_ttl_seconds    how long an Idempotency-Key is remembered
    fault_injection            analyses may harm their own process on request; for tests only
    """

    lease_seconds: float = 30.0
    heartbeat_seconds: float = 10.0
    default_analysis: str = "profile"
    results_ttl_seconds: int = 604_800
    max_results_ttl_seconds: int = 31_536_000
    max_timeout_seconds: float = 86_400.0
    max_queued_per_tenant: int = 100_000
    max_running_per_tenant: int | None = None
    idempotency_ttl_seconds: int = 86_400
    fault_injection: bool = False

    def __post_init__(self) -> None:
        # A lease that one late heartbeat can lose makes healthy work run twice.
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                f"lease_seconds ({self.lease_seconds}) must be at least 3 x heartbeat_seconds "
                f"({self.heartbeat_seconds})"
            )

    @property
    def margin_seconds(self) -> float:
        """A tenth of the lease: for the error of a clock that is read over the network, and the child's death."""
        return self.lease_seconds / 10


@dataclass(frozen=True, slots=True)
class Runtime:
    """Handed to every use case as its first argument. The clock is the store's unless a test brings its own.

    clock_leads_by   seconds that the clock has been put forward by while that is not believed; see ``clockwatch``
    """

    store: Store
    catalogue: Catalogue
    policy: Policy = field(default_factory=Policy)
    clock: Clock = _OF_THE_STORE
    new_id: Callable[[], str] = new_id
    new_token: Callable[[], str] = new_token
    jitter: Callable[[], float] = random.random
    clock_leads_by: Callable[[], float | None] = lambda: None

    def __post_init__(self) -> None:
        if self.clock is _OF_THE_STORE:
            object.__setattr__(self, "clock", StoreClock(self.store))

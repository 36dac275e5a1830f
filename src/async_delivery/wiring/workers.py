"""What ``serve`` and ``worker`` share: the policy, the supervisor, and what is told of them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from async_delivery import __version__
from async_delivery.engine.runtime import Policy, Runtime
from async_delivery.settings import Settings, SettingsError
from async_delivery.wiring.analyses import refs_of

if TYPE_CHECKING:
    from async_delivery.ops.observer import ObserverSettings
    from async_delivery.worker.supervisor import Supervisor


def policy_of(settings: Settings) -> Policy:
    """The limits of every use case."""
    return Policy(
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        default_analysis=settings.default_analysis,
        results_ttl_seconds=settings.results_ttl_seconds,
        max_results_ttl_seconds=settings.max_results_ttl_seconds,
        max_timeout_seconds=settings.max_timeout_seconds,
        max_queued_per_tenant=settings.max_queued_per_tenant,
        max_running_per_tenant=settings.max_running_per_tenant,
        fault_injection=settings.fault_injection,
    )


def supervisor_of(rt: Runtime, settings: Settings, takes: tuple[str, ...]) -> Supervisor:
    """The worker of this process, not started.

    takes   analyses whose jobs it takes, where others share the store
    """
    from async_delivery.worker.limits import WorkerSettings
    from async_delivery.worker.supervisor import Supervisor

    return Supervisor(
        rt,
        refs_of(settings),
        WorkerSettings(
            slots=settings.slots,
            work_root=settings.work_dir or settings.store_file.parent / "work",
            drain_grace_seconds=settings.drain_grace_seconds,
            cancel_grace_seconds=settings.cancel_grace_seconds,
            kill_grace_seconds=settings.kill_grace_seconds,
            data_root=settings.data_root,
            poll_seconds=settings.poll_seconds,
            takes=takes,
            ray_address=settings.ray_address,
        ),
    )


def observer_settings(
    rt: Runtime, settings: Settings, *, cleanup_interval_seconds: float, max_queued_seconds: float
) -> ObserverSettings:
    """What an observer of this process must be told."""
    from async_delivery.ops.observer import ObserverSettings
    from async_delivery.storage.schema import HEAD
    from async_delivery.wiring.stores import reserve_of

    # Where the database is on another machine, the folder of the store file says nothing of its disk.
    folder: Path | None = settings.store_file.parent if rt.store.exclusive else None
    return ObserverSettings(
        version=__version__,
        retention=settings.retention,
        cleanup_interval_seconds=cleanup_interval_seconds,
        max_queued_seconds=max_queued_seconds,
        min_free_bytes=settings.ready_min_free_bytes,
        store_folder=folder,
        schema_revision=HEAD,
        reserve=reserve_of(rt.store),
    )


def trace(asked: bool, stack: ExitStack) -> None:
    """Send traces if that is wished; ``stack`` ends it. Raises SettingsError."""
    from async_delivery.wiring.traces import trace_to_collector

    try:
        stop = trace_to_collector(asked)
    except ValueError as exc:
        raise SettingsError([f"otel: {exc}"]) from exc
    if stop is not None:
        stack.callback(stop)

"""The serving process: settings become a store, workers and an HTTP server, which end again in the right order.

Start: take the port, start the forkserver (before the process has threads that hold locks), have the analyses
described by a child while the web stack is imported, open the store, start the workers, answer. Stop: drain, then
the HTTP server, then workers, chores and store, so that every answer that was begun can be finished.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from socket import socket
from typing import TYPE_CHECKING

from async_delivery import __version__, telemetry
from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.errors import StoreFileError, UnavailableError
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.engine.catalogue import Catalogue
from async_delivery.engine.runtime import Policy, Runtime
from async_delivery.plugins import discover
from async_delivery.settings import Settings, SettingsError
from async_delivery.wiring.address import StartError, bind, url_of
from async_delivery.wiring.logs import log_to_stderr

if TYPE_CHECKING:
    from async_delivery.api.context import ApiSettings
    from async_delivery.ops.observer import Observer
    from async_delivery.worker.supervisor import Supervisor

__all__ = ["StartError", "serve_forever"]


def serve_forever(settings: Settings, tell: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. A second signal ends the process at once, with exit code 1.

    tell   hears one line once the server answers

    For the main thread. Raises StartError, SettingsError.
    """
    with ExitStack() as stack:
        stack.callback(log_to_stderr(settings.log_level, settings.log_format))
        sock = stack.enter_context(bind(settings.host, settings.port))
        infos = _describe_analyses(settings)
        _check_settings(settings, infos)
        _trace(settings.otel, stack)
        try:
            return _serve(settings, infos, sock, tell, stack)
        except (StoreFileError, UnavailableError) as exc:
            raise StartError(exc.message) from exc
        except OSError as exc:
            raise StartError(f"cannot start: {exc}") from exc


def _describe_analyses(settings: Settings) -> list[AnalysisInfo]:
    from async_delivery.worker.catalogue import load_catalogue
    from async_delivery.worker.forkserver import ForkError, prepare

    refs = _refs(settings)
    # The other core imports meanwhile what this process will need itself.
    importing = threading.Thread(target=_import_web_stack, name="import", daemon=True)
    importing.start()
    try:
        prepare(refs, settings.keep_env)
        return load_catalogue(refs)
    except ForkError as exc:
        raise StartError(f"cannot start processes for analyses: {exc}") from exc
    finally:
        importing.join()


def _refs(settings: Settings) -> Mapping[str, str]:
    """What is installed, and what is given by hand; the latter goes over an installed one of the same name."""
    return {**discover(), **{ref: ref for ref in settings.analysis}}


def _import_web_stack() -> None:
    # What is wrong with an import is said by the one that needs it.
    with suppress(Exception):
        import async_delivery.api.app
        import async_delivery.wiring.listener
        import async_delivery.wiring.stores  # noqa: F401


def _check_settings(settings: Settings, infos: Sequence[AnalysisInfo]) -> None:
    """What can only be known with the catalogue and the API at hand. Raises SettingsError."""
    from async_delivery.api.access import check_bind

    faults = []
    try:
        check_bind(settings.host, settings.trusted_proxy)
    except ValueError as exc:
        faults.append(str(exc))
    if settings.data_root is not None and not settings.data_root.is_dir():
        faults.append(f"data_root: there is no folder {settings.data_root}")
    faults += [
        f"--analysis {info.source}: {info.unavailable_reason}"
        for info in infos
        if info.source in settings.analysis and not info.available
    ]
    names = [info.name for info in infos]
    if settings.default_analysis not in names:
        faults.append(
            f"default_analysis: there is no {settings.default_analysis}, only {', '.join(names) or 'none'}"
        )
    if faults:
        raise SettingsError(faults)


def _serve(
    settings: Settings,
    infos: Sequence[AnalysisInfo],
    sock: socket,
    tell: Callable[[str], None],
    stack: ExitStack,
) -> int:
    from async_delivery.api.app import create_app
    from async_delivery.wiring.listener import Listener
    from async_delivery.wiring.stores import open_for_serving

    store = open_for_serving(settings.store_file, settings.store_url)
    stack.callback(store.close)
    rt = Runtime(store, Catalogue(infos), _policy(settings))
    stopping = threading.Event()
    supervisor = None if settings.no_workers else _supervisor(rt, settings)
    observer = _observer(rt, settings, supervisor, stopping.is_set)
    stack.callback(observer.attach())
    app = create_app(rt, _api_settings(settings), observer, draining=stopping.is_set)
    drain = _start_workers(rt, settings, supervisor, stopping, stack)

    def ready() -> None:
        telemetry.emit("server.started", version=__version__, url=url_of(sock), pid=os.getpid())
        tell(_words(settings, infos, url_of(sock)))

    listener = Listener(app, sock, stopping=stopping, drain=drain, ready=ready)
    listener.serve_forever()
    telemetry.emit("server.ended", pid=os.getpid())
    return 0


def _trace(asked: bool, stack: ExitStack) -> None:
    from async_delivery.wiring.traces import trace_to_collector

    try:
        stop = trace_to_collector(asked)
    except ValueError as exc:
        raise SettingsError([f"otel: {exc}"]) from exc
    if stop is not None:
        stack.callback(stop)


def _supervisor(rt: Runtime, settings: Settings) -> Supervisor:
    from async_delivery.worker.limits import WorkerSettings
    from async_delivery.worker.supervisor import Supervisor

    return Supervisor(
        rt,
        _refs(settings),
        WorkerSettings(
            slots=settings.slots,
            work_root=settings.work_dir or settings.store_file.parent / "work",
            drain_grace_seconds=settings.drain_grace_seconds,
            cancel_grace_seconds=settings.cancel_grace_seconds,
            kill_grace_seconds=settings.kill_grace_seconds,
            data_root=settings.data_root,
        ),
    )


def _observer(
    rt: Runtime, settings: Settings, supervisor: Supervisor | None, draining: Callable[[], bool]
) -> Observer:
    from async_delivery.api.app import ROUTES
    from async_delivery.ops.observer import Observer, ObserverSettings
    from async_delivery.storage.schema import HEAD

    schedule = settings.cleanup_schedule
    told = ObserverSettings(
        version=__version__,
        retention=RetentionPolicy(settings.results_ttl_seconds, settings.events_ttl_seconds),
        cleanup_interval_seconds=schedule.longest_gap_seconds(rt.clock.now()),
        max_queued_seconds=settings.ready_max_queued_seconds,
        min_free_bytes=settings.ready_min_free_bytes,
        store_folder=settings.store_file.parent,
        schema_revision=HEAD,
    )
    return Observer(
        rt,
        told,
        worker=supervisor.snapshot if supervisor else None,
        draining=draining,
        routes=[(route.path, route.method) for route in ROUTES],
        chores=["prune", "rescue", "cleanup"],
    )


def _start_workers(
    rt: Runtime,
    settings: Settings,
    supervisor: Supervisor | None,
    stopping: threading.Event,
    stack: ExitStack,
) -> Callable[[], None]:
    """Start what runs beside HTTP; how to drain it. ``stack`` ends it."""
    from async_delivery.wiring.cleanup import cleanup_chore
    from async_delivery.worker.chores import Chores, prune_chore, rescue_chore

    chores = [prune_chore()]
    drain = _nothing
    if supervisor is not None:
        supervisor.start()
        stack.callback(supervisor.close)
        drain = supervisor.drain
        chores.append(rescue_chore(rt, lambda: [supervisor.worker_id]))
    sweepers = [Chores(rt, chores)]
    if not settings.cleanup_schedule.is_off:
        # On a thread of its own: lost jobs must not wait for the end of a long cleanup.
        chore = cleanup_chore(settings, rt.store, stopping.is_set)
        sweepers.append(Chores(rt, [chore], "cleanup"))
    for sweeper in sweepers:
        sweeper.start()
        stack.callback(sweeper.close)
    return drain


def _nothing() -> None:
    """Without workers there is nothing to drain."""


def _policy(settings: Settings) -> Policy:
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


def _api_settings(settings: Settings) -> ApiSettings:
    from async_delivery.api.context import ApiSettings

    return ApiSettings(
        version=__version__,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        max_wait_seconds=settings.max_wait_seconds,
        requests_per_second=settings.requests_per_second,
        trusted_proxies=settings.trusted_proxy,
    )


def _words(settings: Settings, infos: Sequence[AnalysisInfo], url: str) -> str:
    """The one line that says that the server answers, and with what."""
    names = ", ".join(info.name if info.available else f"{info.name} (not available)" for info in infos)
    slots = "no workers" if settings.no_workers else f"{settings.slots} slot{'s' * (settings.slots > 1)}"
    return f"async-delivery {__version__} on {url}, store {settings.store_file}, {slots}, analyses: {names}"

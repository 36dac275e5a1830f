"""The serving process: settings become a store, workers and an HTTP server, which end again in the right order.

Start: take the port, start the forkserver (before the process has threads that hold locks), have the analyses
described by a child while the web stack is imported, open the store, start the workers, answer. Stop: drain, then
the HTTP server, then workers, chores and store, so that every answer that was begun can be finished.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from socket import socket
from typing import TYPE_CHECKING

from async_delivery import __version__, telemetry
from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.errors import StoreFileError, UnavailableError
from async_delivery.engine.catalogue import Catalogue
from async_delivery.engine.clockwatch import ClockWatch
from async_delivery.engine.runtime import Runtime, StoreClock
from async_delivery.settings import Settings, SettingsError
from async_delivery.wiring.address import StartError, bind, url_of
from async_delivery.wiring.analyses import alone, describe_analyses, faults_of, taken
from async_delivery.wiring.logs import log_to_stderr
from async_delivery.wiring.workers import observer_settings, policy_of, supervisor_of, trace

if TYPE_CHECKING:
    from async_delivery.api.context import ApiSettings
    from async_delivery.ops.observer import Observer
    from async_delivery.worker.supervisor import Supervisor

__all__ = ["StartError", "serve_forever"]

# Some megabytes at most, if all of them were garbage. Python's own figure is 700.
_OBJECTS_BETWEEN_COLLECTIONS = 10_000


def serve_forever(settings: Settings, tell: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. A second signal ends the process at once, with exit code 1.

    tell   hears one line once the server answers

    For the main thread. Raises StartError, SettingsError.
    """
    with ExitStack() as stack:
        stack.callback(log_to_stderr(settings.log_level, settings.log_format))
        sock = stack.enter_context(bind(settings.host, settings.port))
        infos = describe_analyses(settings, _import_web_stack)
        _check_settings(settings, infos)
        trace(settings.otel, stack)
        try:
            return _serve(settings, infos, sock, tell, stack)
        except (StoreFileError, UnavailableError) as exc:
            raise StartError(exc.message) from exc
        except OSError as exc:
            raise StartError(f"cannot start: {exc}") from exc


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
    faults += faults_of(settings, infos)
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

    store = open_for_serving(
        settings.store_file, settings.store_url, settings.store_connections, settings.ballast_bytes
    )
    stack.callback(store.close)
    if store.exclusive:
        infos = alone(settings, infos)
    watch = ClockWatch(StoreClock(store))
    rt = Runtime(store, Catalogue(infos), policy_of(settings), clock_leads_by=watch.leads_by)
    stopping = threading.Event()
    supervisor = None if settings.no_workers else supervisor_of(rt, settings, taken(settings, infos))
    observer = _observer(rt, settings, supervisor, stopping.is_set)
    stack.callback(observer.attach())
    app = create_app(rt, _api_settings(settings), observer, draining=stopping.is_set)
    drain = _start_workers(rt, settings, supervisor, stopping, stack)

    def ready() -> None:
        _spare_collector()
        telemetry.emit("server.started", version=__version__, url=url_of(sock), pid=os.getpid())
        tell(_words(settings, infos, url_of(sock)))

    listener = Listener(app, sock, stopping=stopping, drain=drain, ready=ready)
    listener.serve_forever()
    telemetry.emit("server.ended", pid=os.getpid())
    return 0


def _observer(
    rt: Runtime, settings: Settings, supervisor: Supervisor | None, draining: Callable[[], bool]
) -> Observer:
    from async_delivery.api.app import ROUTES
    from async_delivery.ops.observer import Observer

    told = observer_settings(
        rt,
        settings,
        cleanup_interval_seconds=settings.cleanup_schedule.longest_gap_seconds(rt.clock.now()),
        max_queued_seconds=settings.ready_max_queued_seconds,
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

    drain = _nothing
    if supervisor is not None:
        supervisor.start()
        stack.callback(supervisor.close)
        drain = supervisor.drain
    # Without workers too: somebody must say that the job of a dead one waits again.
    alive = [supervisor.worker_id] if supervisor else []
    rescues = (
        rescue_chore(rt, lambda: alive, supervisor.held) if supervisor else rescue_chore(rt, lambda: alive)
    )
    sweepers = [Chores(rt, [prune_chore(rt.clock_leads_by), rescues])]
    if not settings.cleanup_schedule.is_off:
        # On a thread of its own: lost jobs must not wait for the end of a long cleanup.
        chore = cleanup_chore(settings, rt.store, stopping.is_set, rt.clock_leads_by)
        sweepers.append(Chores(rt, [chore], "cleanup"))
    for sweeper in sweepers:
        sweeper.start()
        stack.callback(sweeper.close)
    return drain


def _spare_collector() -> None:
    """What the start has made stays to the end, so it need not be looked through for garbage ever again.

    What requests and jobs leave behind is freed without a collector; the cycles that are its business are rare, and
    are looked for less often. Of what a submit took this was a seventh.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def _nothing() -> None:
    """Without workers there is nothing to drain."""


def _api_settings(settings: Settings) -> ApiSettings:
    from async_delivery.api.context import ApiSettings

    return ApiSettings(
        version=__version__,
        role="api" if settings.no_workers else "server",
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

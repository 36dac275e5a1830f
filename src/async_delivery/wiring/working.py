"""The worker process: settings become a store that others serve too, workers, and a port for probes.

The same order as in ``serving``: port, forkserver, analyses, store, workers; drain, then the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from socket import socket

from async_delivery import __version__
from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.errors import StoreFileError, UnavailableError
from async_delivery.engine.catalogue import Catalogue
from async_delivery.engine.runtime import Runtime
from async_delivery.settings import Settings, SettingsError
from async_delivery.wiring.address import StartError, bind, url_of
from async_delivery.wiring.analyses import describe_analyses, faults_of, taken
from async_delivery.wiring.logs import log_to_stderr
from async_delivery.wiring.workers import observer_settings, policy_of, supervisor_of, trace

__all__ = ["StartError", "work_forever"]

# Heartbeat, chores and probes; slots are rarely at the store all at once.
_BESIDE_SLOTS = 3
_MOST_CONNECTIONS = 10


def work_forever(settings: Settings, tell: Callable[[str], None]) -> int:
    """Run jobs until SIGTERM or SIGINT; the exit code. A second signal ends the process at once, with exit code 1.

    tell   hears one line once jobs are taken

    For the main thread. Raises StartError, SettingsError.
    """
    with ExitStack() as stack:
        stack.callback(log_to_stderr(settings.log_level, settings.log_format))
        try:
            _refuse_embedded(settings)
            sock = stack.enter_context(bind(settings.host, settings.port))
            infos = describe_analyses(settings, _import_probes)
            takes = _taken(settings, infos)
            trace(settings.otel, stack)
            return _work(settings, infos, takes, sock, tell, stack)
        except (StoreFileError, UnavailableError) as exc:
            raise StartError(exc.message) from exc
        except OSError as exc:
            raise StartError(f"cannot start: {exc}") from exc


def _refuse_embedded(settings: Settings) -> None:
    from async_delivery.wiring.stores import is_embedded

    if is_embedded(settings.store_file, settings.store_url):
        raise StartError(
            f"{settings.store_file}: one process serves an embedded store, and runs its jobs too: start"
            " `async-delivery serve`. For workers on their own move it to PostgreSQL with `async-delivery store export`"
            " and `store import`"
        )


def _import_probes() -> None:
    # What is wrong with an import is said by the one that needs it.
    with suppress(Exception):
        import async_delivery.api.probes
        import async_delivery.wiring.listener
        import async_delivery.wiring.stores  # noqa: F401


def _taken(settings: Settings, infos: Sequence[AnalysisInfo]) -> tuple[str, ...]:
    """Raises SettingsError."""
    faults = faults_of(settings, infos)
    takes = taken(settings, infos)
    if not takes and not faults:
        faults.append(
            "label: none of the analyses runs on a machine with these labels; there is nothing to do"
        )
    if faults:
        raise SettingsError(faults)
    return takes


def _work(
    settings: Settings,
    infos: Sequence[AnalysisInfo],
    takes: tuple[str, ...],
    sock: socket,
    tell: Callable[[str], None],
    stack: ExitStack,
) -> int:
    from async_delivery.api.probes import ROUTES, Probes
    from async_delivery.ops.observer import Observer
    from async_delivery.wiring.listener import Listener
    from async_delivery.wiring.stores import open_for_serving
    from async_delivery.worker.chores import Chores, rescue_chore

    connections = settings.store_connections or min(_MOST_CONNECTIONS, settings.slots + _BESIDE_SLOTS)
    store = open_for_serving(settings.store_file, settings.store_url, connections)
    stack.callback(store.close)
    rt = Runtime(store, Catalogue(infos), policy_of(settings))
    stopping = threading.Event()
    supervisor = supervisor_of(rt, settings, takes)
    # How long jobs wait is no reason to keep a new worker from its service.
    told = observer_settings(rt, settings, cleanup_interval_seconds=0.0, max_queued_seconds=0.0)
    observer = Observer(
        rt, told, worker=supervisor.snapshot, draining=stopping.is_set, routes=ROUTES, chores=["rescue"]
    )
    stack.callback(observer.attach())
    supervisor.start()
    stack.callback(supervisor.close)
    chores = Chores(rt, [rescue_chore(rt, lambda: [supervisor.worker_id])])
    chores.start()
    stack.callback(chores.close)
    listener = Listener(
        Probes(rt, observer, __version__),
        sock,
        stopping=stopping,
        drain=supervisor.drain,
        ready=lambda: tell(_words(settings, takes, url_of(sock))),
    )
    listener.serve_forever()
    return 0


def _words(settings: Settings, takes: Sequence[str], url: str) -> str:
    """The one line that says that jobs are taken, and which."""
    slots = f"{settings.slots} slot{'s' * (settings.slots > 1)}"
    return (
        f"async-delivery {__version__} worker, probes on {url}, store {settings.store_file}, {slots},"
        f" takes: {', '.join(takes)}"
    )

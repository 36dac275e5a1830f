"""Whether traces are sent, and to where: by OpenTelemetry's own variables."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

from async_delivery import __version__, telemetry

log = logging.getLogger("async_delivery")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_MISSING = "traces need the extra otel: pip install 'async-delivery[otel]'"


def trace_to_collector(asked: bool, environ: Mapping[str, str] | None = None) -> Callable[[], object] | None:
    """Send traces over OTLP (HTTP) if ``asked``, or if a variable names a collector. Returns the way to stop, or None.

    Raises ValueError if asked to without the extra.
    """
    environ = os.environ if environ is None else environ
    if not (asked or any(environ.get(name) for name in _ENDPOINTS)) or _switched_off(environ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from async_delivery.ops.traces import Traces
    except ImportError as exc:
        if asked:
            raise ValueError(_MISSING) from exc
        log.warning("%s (OTEL_EXPORTER_OTLP_ENDPOINT is set)", _MISSING)
        return None
    traces = Traces(BatchSpanProcessor(OTLPSpanExporter()), __version__)
    detach = telemetry.attach(traces.hear)

    def stop() -> None:
        detach()
        if not traces.close():
            log.warning("not all traces could be sent")

    return stop


def _switched_off(environ: Mapping[str, str]) -> bool:
    return (
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    )

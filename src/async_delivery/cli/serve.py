"""``serve``: the API and its workers, in this process, until it is told to stop."""

from __future__ import annotations

from typing import Any

import click

from async_delivery.cli.options import load_settings, settings_options
from async_delivery.cli.output import Failed, say


@click.command()
@settings_options()
def serve(config_file: str | None, **flags: Any) -> int:
    """Serve the API and run jobs, until SIGTERM or Ctrl-C.

    Every option can also be set as ASYNC_DELIVERY_<NAME> or in a TOML file. The first signal lets running jobs end
    (--drain-grace-seconds), a second one stops at once; either way nothing that was accepted is lost.
    """
    settings = load_settings(config_file, flags)
    from async_delivery.wiring.serving import StartError, serve_forever

    try:
        return serve_forever(settings, say)
    except StartError as exc:
        raise Failed(str(exc)) from exc

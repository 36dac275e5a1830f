"""``doctor``: one file with what somebody who helps from afar needs, and nothing that is secret."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from async_delivery.cli.options import json_option, server_address, settings_options
from async_delivery.cli.output import Failed, emit_json, say


@click.command()
@click.option("--base-url", metavar="URL", help="Where the server is.  [default: http://127.0.0.1:8080]")
@click.option(
    "--log",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take the last lines of the server's log along, without what looks like a secret.",
)
@click.option("--with-tenants", is_flag=True, help="Leave the names of tenants as they are.")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the bundle goes.  [default: doctor-TIME.tar.gz among the artefacts]",
)
@settings_options(["store_file", "artifacts_dir"])
@json_option
def doctor(
    config_file: str | None,
    base_url: str | None,
    log: Path | None,
    with_tenants: bool,
    output: Path | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Write a bundle for support: versions, settings, store, signals, last artefacts, log lines.

    Left out: params, queries, files and results of jobs, credentials, values of variables; tenants are pseudonyms.
    """
    if log is not None and not log.is_file():
        raise click.UsageError(f"--log: there is no file {log}")
    if output is not None and os.path.lexists(output):
        raise click.UsageError(f"--output: {output} is there already")
    from async_delivery.ops.artefacts import write_new
    from async_delivery.wiring.doctor import doctor as make_bundle
    from async_delivery.wiring.doctor import settings_for_doctor

    settings, told = settings_for_doctor(config_file, flags)
    bundle = make_bundle(
        settings,
        told,
        base_url=server_address(base_url),
        config_file=config_file,
        log=log,
        with_tenants=with_tenants,
    )
    stem = f"doctor-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    try:
        if output is None:
            path = write_new(settings.artifacts_dir, stem, ".tar.gz", bundle.data, private=True)
        else:
            path = write_new(output.parent, output.name, "", bundle.data, private=True)
    except OSError as exc:
        raise Failed(f"cannot write the bundle: {exc}") from exc
    if as_json:
        emit_json({"bundle": str(path), "files": bundle.names, "errors": dict(bundle.errors)})
    else:
        for part, why in bundle.errors.items():
            say(f"left out {part}: {why}")
        say(f"look through it before you pass it on: tar -xzf {path}")
        print(path)
    return 0

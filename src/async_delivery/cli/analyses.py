"""``analyses``: what the server can run."""

from __future__ import annotations

import click

from async_delivery.cli.options import client_options, json_option, open_client
from async_delivery.cli.output import emit_json, emit_table


@click.command()
@json_option
@client_options
def analyses(as_json: bool, base_url: str | None, org: str | None) -> int:
    """List the analyses that the server offers."""
    with open_client(base_url, org) as client:
        found = client.analyses()
    if as_json:
        emit_json({"analyses": found})
    else:
        emit_table(
            ("NAME", "VERSION", "TITLE", "AVAILABLE"),
            (
                (
                    each["name"],
                    each.get("version"),
                    each.get("title"),
                    "yes" if each.get("available", True) else "no",
                )
                for each in found
            ),
        )
    return 0

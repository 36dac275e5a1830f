"""``store init|info|check``: make a store, say what one is, verify that it keeps its promises. Moving between stores is
in ``store_transfer``."""

from __future__ import annotations

from typing import Any

import click

from async_delivery.cli.options import json_option, load_settings, settings_options
from async_delivery.cli.output import emit_json, emit_pairs, say
from async_delivery.cli.store_transfer import convert, export, import_
from async_delivery.domain.instant import format_instant

_MOST_VIOLATIONS = 1000


@click.group()
def store() -> None:
    """Make, describe and verify stores, and move jobs between them."""


for _command in (convert, import_, export):
    store.add_command(_command)


@store.command()
@settings_options(["store_file", "store_url"])
@json_option
def init(config_file: str | None, as_json: bool, **flags: Any) -> int:
    """Make a new store: the store file and the database it names. Nothing is made over what is there."""
    settings = load_settings(config_file, flags)
    from async_delivery.wiring.stores import init_store

    made = init_store(settings.store_file, settings.store_url)
    if as_json:
        emit_json(
            {"store_file": str(settings.store_file), "store_id": made.store_id, "database": made.database}
        )
    else:
        say(f"made {settings.store_file}")
        emit_pairs(
            [("store file", settings.store_file), ("store id", made.store_id), ("database", made.database)]
        )
    return 0


@store.command()
@settings_options(["store_file"])
@json_option
def info(config_file: str | None, as_json: bool, **flags: Any) -> int:
    """Say what a store is: its database, schema, size, counts and warnings."""
    settings = load_settings(config_file, flags)
    from async_delivery.wiring.stores import look

    file, found = look(settings.store_file, lambda store: store.info())
    if as_json:
        emit_json(
            {
                "store_file": str(settings.store_file),
                "store_id": file.store_id,
                "created_at": format_instant(file.created_at),
                "dialect": found.dialect,
                "database": found.database,
                "schema_revision": found.schema_revision,
                "durability": found.durability,
                "size_bytes": found.size_bytes,
                "counts": dict(found.counts),
                "warnings": list(found.warnings),
            }
        )
        return 0
    emit_pairs(
        [
            ("store file", settings.store_file),
            ("store id", file.store_id),
            ("made at", format_instant(file.created_at)),
            ("database", f"{found.dialect}: {found.database}"),
            ("schema", found.schema_revision),
            ("durability", found.durability),
            ("size", f"{found.size_bytes} bytes"),
            *((name, count) for name, count in found.counts.items()),
        ]
    )
    for warning in found.warnings:
        say(f"warning: {warning}")
    return 0


@store.command()
@settings_options(["store_file"])
@json_option
def check(config_file: str | None, as_json: bool, **flags: Any) -> int:
    """Verify every invariant over the whole store, beside a running server or at rest.

    Exit code 1 with one line for each breach.
    """
    settings = load_settings(config_file, flags)
    from async_delivery.wiring.stores import look

    _, breaches = look(
        settings.store_file, lambda store: store.read(lambda reader: reader.violations(_MOST_VIOLATIONS))
    )
    if as_json:
        emit_json({"store_file": str(settings.store_file), "ok": not breaches, "violations": breaches})
    elif breaches:
        for breach in breaches:
            print(breach)
    else:
        print(f"{settings.store_file}: every invariant holds")
    if breaches:
        more = " or more" if len(breaches) == _MOST_VIOLATIONS else ""
        say(f"{settings.store_file}: {len(breaches)}{more} invariants are broken")
    return 1 if breaches else 0

"""The doctor's bundle put together: settings with their sources, the server, the store, and what must not be in it."""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from async_delivery.ops.doctor import Bundle, Patient, make_bundle
from async_delivery.ops.probe import Probe
from async_delivery.ops.scrub import secret_name
from async_delivery.settings import (
    CONFIG_FILE,
    CONFIG_VARIABLE,
    DEFAULTS,
    ENV_PREFIX,
    ORG_VARIABLE,
    SETTINGS,
    Settings,
    SettingsError,
    load,
)
from async_delivery.wiring.stores import look

_ANSWER_SECONDS = 10.0
# What libpq reads, beside the service's own.
_PREFIXES = (ENV_PREFIX, "PG")
_ORIGINS = ("default", "file", "environment", "flag")


def settings_for_doctor(config_file: str | None, flags: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """The settings as far as they can be used, and what the bundle says of them: value and origin, or what is wrong.

    Faults are told by their source only: what was given there may be a secret in the wrong place.
    """
    try:
        stages = [
            DEFAULTS,
            load({}, {}, config_file=_named(config_file)).settings,
            load({}, config_file=config_file).settings,
            load(flags, config_file=config_file).settings,
        ]
    except SettingsError as exc:
        usable: dict[str, Any] = {name: Path(value) for name, value in flags.items() if value is not None}
        faults = [f"{fault.partition(': ')[0]}: cannot be used" for fault in exc.faults]
        return replace(DEFAULTS, **usable), {"faults": faults}
    told: dict[str, Any] = {}
    for setting in SETTINGS:
        values = [getattr(stage, setting.name) for stage in stages]
        changed = [number for number in range(1, len(values)) if values[number] != values[number - 1]]
        told[setting.name] = {
            "value": _plain(values[-1]),
            "origin": _ORIGINS[changed[-1] if changed else 0],
        }
    return stages[-1], told


def _named(config_file: str | None) -> str | None:
    return config_file or os.environ.get(CONFIG_VARIABLE) or None


def _plain(value: Any) -> Any:
    """A setting's value as JSON has it; what is more than a number or a switch as it would be typed."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return [str(each) for each in value] if isinstance(value, tuple) else str(value)


def doctor(
    settings: Settings,
    told: Mapping[str, Any],
    *,
    base_url: str,
    config_file: str | None,
    log: Path | None,
    with_tenants: bool,
) -> Bundle:
    """Make the bundle. ``settings`` and ``told`` are those of ``settings_for_doctor``."""
    with Probe(base_url, timeout_seconds=_ANSWER_SECONDS) as probe:
        return make_bundle(
            Patient(
                base_url=base_url,
                probe=probe,
                settings=told,
                secrets=frozenset(_known_secrets(base_url, _named(config_file) or CONFIG_FILE)),
                variables=sorted(name for name in os.environ if name.startswith(_PREFIXES)),
                tenants=frozenset(filter(None, [os.environ.get(ORG_VARIABLE)])),
                pseudonym_key=None if with_tenants else secrets.token_bytes(32),
                store_file=settings.store_file,
                look=look,
                artifacts_dir=settings.artifacts_dir,
                log=log,
            )
        )


def _known_secrets(base_url: str, config_file: str) -> Iterator[str]:
    """Values that are named like secrets, in the environment and the file; passwords in URLs of both."""
    named = [*os.environ.items(), *_entries(config_file), ("", base_url)]
    for name, value in named:
        if secret_name(name):
            yield value
        if "://" in value:
            try:
                parts = urlsplit(value)
            except ValueError:
                continue
            if parts.password:
                yield parts.password


def _entries(config_file: str) -> Iterator[tuple[str, str]]:
    try:
        document = tomllib.loads(Path(config_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    yield from _texts("", document)


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            # What stands below a name of a secret is one, whatever it is called there.
            yield from _texts(name if secret_name(name) else str(key), each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(name, each)

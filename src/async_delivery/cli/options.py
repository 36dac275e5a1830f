"""Options that several commands share: those of the settings table, and those of a client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from async_delivery.cli.output import say
from async_delivery.domain.duration import parse_duration, parse_ttl_seconds
from async_delivery.domain.errors import ValidationError
from async_delivery.domain.tenant import DEFAULT_ORG, parse_org_id
from async_delivery.settings import (
    BASE_URL_VARIABLE,
    BY_NAME,
    ORG_VARIABLE,
    SETTINGS,
    Setting,
    Settings,
    load,
)

if TYPE_CHECKING:
    from async_delivery.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])
_MAX_URL = 2_000
_MAX_SHOWN = 200  # characters of what was typed
DEFAULT_BASE_URL = "http://127.0.0.1:8080"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text for people.")


def settings_options(
    names: Iterable[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> Callable[[Command], Command]:
    """The flags of these settings (all where None), and --config. The command gets them as keyword arguments.

    defaults   what the command has instead of a setting's usual default
    """
    chosen = SETTINGS if names is None else [BY_NAME[name] for name in names]

    def decorate(command: Command) -> Command:
        for setting in reversed(chosen):
            default = (defaults or {}).get(setting.name, setting.default_text)
            command = _option(setting, str(default))(command)
        return click.option(
            "--config",
            "config_file",
            metavar="FILE",
            help="TOML file with settings.  [default: async-delivery.toml in the current folder, if there is one]",
        )(command)

    return decorate


def _option(setting: Setting, default: str) -> Callable[[Command], Command]:
    text = f"{setting.help}  [default: {default or 'none'}]"
    if setting.switch:
        return click.option(setting.flag, setting.name, is_flag=True, default=None, help=setting.help)
    return click.option(
        setting.flag,
        setting.name,
        metavar=setting.form.upper(),
        multiple=setting.repeatable,
        help=f"{text}  (may be repeated)" if setting.repeatable else text,
    )


def load_settings(
    config_file: str | None, flags: dict[str, Any], defaults: Mapping[str, Any] | None = None
) -> Settings:
    """The settings by flags, environment and file; warnings go to stderr. Raises SettingsError."""
    loaded = load(flags, config_file=config_file, defaults=defaults)
    for warning in loaded.warnings:
        say(f"async-delivery: {warning}")
    return loaded.settings


def client_options(command: Command) -> Command:
    """--base-url and --org. The command gets them as ``base_url`` and ``org``."""
    command = click.option(
        "--org",
        type=WORD,
        metavar="ORG_ID",
        help=f"Tenant to act as (X-Org-Id); {ORG_VARIABLE} otherwise.  [default: {DEFAULT_ORG}]",
    )(command)
    return click.option(
        "--base-url",
        type=WORD,
        metavar="URL",
        help=f"Where the server is; {BASE_URL_VARIABLE} otherwise.  [default: {DEFAULT_BASE_URL}]",
    )(command)


def open_client(base_url: str | None, org: str | None) -> Client:
    """A client by its options and the environment. Raises UsageError."""
    url, org_id = server_address(base_url), tenant(org)
    from async_delivery.client import Client

    return Client(url, org_id=org_id)


def server_address(base_url: str | None) -> str:
    """Where the server is, by --base-url or the environment. Raises UsageError."""
    source = "--base-url" if base_url else BASE_URL_VARIABLE
    url = base_url or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and len(url) <= _MAX_URL
            # urlsplit drops line breaks and tabs; and paths are put behind the URL.
            and not any(char.isspace() or not char.isprintable() or char in "?#" for char in url)
        )
    except ValueError:
        usable = False
    if not usable:
        shown = url if len(url) <= _MAX_SHOWN else f"{url[:_MAX_SHOWN]}…"
        raise click.UsageError(f"{source}: {shown!r} is not a URL such as {DEFAULT_BASE_URL}")
    return url


def tenant(org: str | None) -> str | None:
    """Which tenant to act as, by --org or the environment; None for neither. Raises UsageError."""
    org_id = org or os.environ.get(ORG_VARIABLE) or None
    if org_id is not None:
        try:
            parse_org_id(org_id, field="--org" if org else ORG_VARIABLE)
        except ValidationError as exc:
            raise click.UsageError(exc.message) from exc
    return org_id


def labels_of(given: Iterable[str]) -> dict[str, str]:
    """The labels of several --label. Raises UsageError."""
    labels: dict[str, str] = {}
    for text in given:
        key, mark, value = text.partition("=")
        if not mark or not key:
            raise click.UsageError(f"--label: {text!r} is not of the form K=V")
        if key in labels:
            raise click.UsageError(f"--label: {key} is given twice")
        labels[key] = value
    return labels


class _Text(click.ParamType[str]):
    """Text that can be sent: the shell passes on any bytes."""

    name = "text"

    def __init__(self, *, empty: bool) -> None:
        self._empty = empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text and not self._empty:
            self.fail("must not be empty", param, ctx)
        if any("\ud800" <= char <= "\udfff" for char in text):
            self.fail("holds bytes that are no text; it must be UTF-8", param, ctx)
        return text


class _Seconds(click.ParamType[float]):
    """A duration, as seconds."""

    name = "duration"

    def __init__(self, *, zero: bool) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = parse_duration(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if seconds == 0 and not self._zero:
            self.fail("must be longer than 0", param, ctx)
        return seconds


class _WholeSeconds(click.ParamType[int]):
    """A time to live, as whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_ttl_seconds(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


TEXT, WORD = _Text(empty=True), _Text(empty=False)
SECONDS, SOME_SECONDS = _Seconds(zero=True), _Seconds(zero=False)
WHOLE_SECONDS = _WholeSeconds()

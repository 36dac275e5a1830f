"""Flags over environment over TOML file: where the values of the settings come from, and every fault by its source."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from async_delivery.settings.table import BY_NAME, DEFAULTS, ENV_PREFIX, SETTINGS, Setting, Settings

CONFIG_FILE = "async-delivery.toml"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
BASE_URL_VARIABLE = f"{ENV_PREFIX}BASE_URL"
ORG_VARIABLE = f"{ENV_PREFIX}ORG"
# Read by the commands that speak to a server; no settings of one.
CLIENT_VARIABLES = frozenset({BASE_URL_VARIABLE, ORG_VARIABLE})


class SettingsError(ValueError):
    """Settings that cannot be used.

    faults      one sentence for each, beginning with its source
    store_file  the store they are about, where that much could be read
    """

    def __init__(self, faults: list[str], store_file: Path | None = None) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults
        self.store_file = store_file


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and what is worth telling about where they came from."""

    settings: Settings
    config_file: Path | None
    warnings: tuple[str, ...]


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    config_file: str | None = None,
    cwd: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Loaded:
    """The settings by their sources.

    flags        name -> text, True, or a tuple of texts; None and () mean that the flag was not given
    environ      ``os.environ`` where None
    config_file  what --config says
    cwd          where the TOML file is looked for; the current folder where None
    defaults     what a command has for a setting that nobody gives, instead of the table's default
    Raises SettingsError with every fault.
    """
    environ = os.environ if environ is None else environ
    faults: list[str] = []
    file = _config_file(config_file, environ, cwd or Path(), faults)
    document = _read_toml(file, faults) if file else {}
    # With a file that is missing or not TOML, nobody knows which store was meant.
    default = None if faults else DEFAULTS.store_file
    values = dict(defaults or {})
    values |= _from_toml(file, document, faults) if file else {}
    values |= _from_environment(environ, faults)
    values |= _from_flags(flags or {}, faults)
    if faults:
        raise SettingsError(faults, values.get("store_file", default))
    settings = Settings(**values)
    if faults := _contradictions(settings):
        raise SettingsError(faults, settings.store_file)
    return Loaded(settings, file, tuple(_unknown_variables(environ)))


def _config_file(given: str | None, environ: Mapping[str, str], cwd: Path, faults: list[str]) -> Path | None:
    named = given or environ.get(CONFIG_VARIABLE)
    if not named:
        found = cwd / CONFIG_FILE
        return found if found.is_file() else None
    if not Path(named).is_file():
        faults.append(f"{'--config' if given else CONFIG_VARIABLE}: there is no file {named}")
        return None
    return Path(named)


def _read_toml(file: Path, faults: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        faults.append(f"{file}: cannot be read as TOML: {exc}")
        return {}


def _from_toml(file: Path, document: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in document.items():
        setting = BY_NAME.get(name)
        if setting is None:
            faults.append(f"{name} in {file}: there is no such setting{_near(name, list(BY_NAME))}")
            continue
        try:
            parsed = _toml_value(setting, value)
        except ValueError as exc:
            faults.append(f"{name} in {file}: {exc}")
            continue
        # A file says where things are as seen from itself, wherever the process is started.
        values[name] = file.parent / parsed if isinstance(parsed, Path) else parsed
    return values


def _toml_value(setting: Setting, value: Any) -> Any:
    if setting.switch:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {value!r}")
        return value
    if setting.repeatable:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"must be a list of strings, not {value!r}")
        return tuple(setting.parse(item) for item in value)
    if setting.number and isinstance(value, int | float) and not isinstance(value, bool):
        return setting.parse(str(value))
    if not isinstance(value, str):
        raise ValueError(f"must be a {'number or a ' if setting.number else ''}string, not {value!r}")
    return setting.parse(value)


def _from_environment(environ: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        # Compose files and unit files pass on variables that nobody has set as empty ones.
        if text := environ.get(setting.variable):
            parts = [part.strip() for part in text.split(",")] if setting.repeatable else text
            _keep(values, setting, parts, setting.variable, faults)
    return values


def _from_flags(flags: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, given in flags.items():
        setting = BY_NAME[name]
        if given is None or given == ():
            continue
        if isinstance(given, bool):
            values[name] = given
        elif setting.repeatable:
            # Commas as in the environment: no value of a repeatable setting has one in it.
            parts = [part.strip() for text in given for part in text.split(",")]
            _keep(values, setting, parts, setting.flag, faults)
        else:
            _keep(values, setting, given, setting.flag, faults)
    return values


def _keep(values: dict[str, Any], setting: Setting, given: Any, source: str, faults: list[str]) -> None:
    try:
        if setting.repeatable:
            values[setting.name] = tuple(setting.parse(part) for part in given)
        else:
            values[setting.name] = setting.parse(given)
    except ValueError as exc:
        faults.append(f"{source}: {exc}")


def _contradictions(settings: Settings) -> list[str]:
    faults = []
    if settings.lease_seconds < 3 * settings.heartbeat_seconds:
        faults.append(
            f"lease_seconds ({settings.lease_seconds:g}) must be at least three times "
            f"heartbeat_seconds ({settings.heartbeat_seconds:g})"
        )
    keys = [text.partition("=")[0] for text in settings.label]
    faults += [f"label: {key} is given twice" for key in sorted(set(keys)) if keys.count(key) > 1]
    return faults


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {setting.variable for setting in SETTINGS} | CLIENT_VARIABLES | {CONFIG_VARIABLE}
    return [
        f"{name}: there is no such setting{_near(name, list(known))}; it is ignored"
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and name not in known
    ]


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""

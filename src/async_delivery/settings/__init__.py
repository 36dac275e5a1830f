"""Settings of a process: one table that names them, and the frozen values read by its rules.

Flags go over environment variables (``ASYNC_DELIVERY_*``), which go over a TOML file; everything is validated once.
Imports the standard library and ``domain``.
"""

from async_delivery.settings.schedule import Schedule
from async_delivery.settings.sources import (
    BASE_URL_VARIABLE,
    CLIENT_VARIABLES,
    CONFIG_FILE,
    CONFIG_VARIABLE,
    ORG_VARIABLE,
    Loaded,
    SettingsError,
    load,
)
from async_delivery.settings.table import BY_NAME, DEFAULTS, ENV_PREFIX, SETTINGS, Setting, Settings

__all__ = [
    "BASE_URL_VARIABLE",
    "BY_NAME",
    "CLIENT_VARIABLES",
    "CONFIG_FILE",
    "CONFIG_VARIABLE",
    "DEFAULTS",
    "ENV_PREFIX",
    "ORG_VARIABLE",
    "SETTINGS",
    "Loaded",
    "Schedule",
    "Setting",
    "Settings",
    "SettingsError",
    "load",
]

"""All that the author of an analysis sees: ``@analysis``, its Context, the errors to raise, the registry.

Child processes and the API build on these names; a database or HTTP is not known here. Imports ``domain``.
"""

from async_delivery.domain.analysis import AnalysisInfo, AnalysisLimits, InputMode, Isolation
from async_delivery.domain.placement import Executor
from async_delivery.plugins.analysis import Analysis, analysis
from async_delivery.plugins.context import Context, InputFile, check_percent
from async_delivery.plugins.errors import (
    AnalysisError,
    CancelRequested,
    InputNotFoundError,
    InvalidInputError,
    PluginError,
    RetryableError,
)
from async_delivery.plugins.registry import ENTRY_POINT_GROUP, describe, discover, load, preload_modules

__all__ = [
    "ENTRY_POINT_GROUP",
    "Analysis",
    "AnalysisError",
    "AnalysisInfo",
    "AnalysisLimits",
    "CancelRequested",
    "Context",
    "Executor",
    "InputFile",
    "InputMode",
    "InputNotFoundError",
    "InvalidInputError",
    "Isolation",
    "PluginError",
    "RetryableError",
    "analysis",
    "check_percent",
    "describe",
    "discover",
    "load",
    "preload_modules",
]

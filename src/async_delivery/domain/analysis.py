"""What the service knows about an analysis without importing it, and its plain-JSON form.

The server never imports plug-in modules: a child process loads them and sends these descriptions, so
``to_json`` and ``from_json`` are each other's inverse. How a description is made from a Python function
lives in ``plugins``. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from async_delivery.domain.placement import NOTHING, Executor, check_labels, check_resources

ANALYSIS_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


class InputMode(StrEnum):
    """Whether a job of this analysis takes an uploaded file."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Isolation(StrEnum):
    """Whether a child process may serve a second attempt of the same analysis after a success."""

    WARM = "warm"
    FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class AnalysisLimits:
    """What one attempt may use, and how often and how soon an attempt is made again.

    timeout_seconds      wall time of one attempt; a job may ask for less
    memory_bytes         of the child process; None: no limit
    max_result_bytes     canonical JSON of one partial or final result
    max_attempts         starts of a job that its own failures may use up, the first one included
    retry_base_seconds   backoff before the second attempt, doubled for each further one
    retry_cap_seconds    longest backoff
    """

    timeout_seconds: float
    memory_bytes: int | None
    max_result_bytes: int
    max_attempts: int
    retry_base_seconds: float
    retry_cap_seconds: float

    def __post_init__(self) -> None:
        if self.memory_bytes is not None:
            _check_number("memory_bytes", self.memory_bytes, above=0)
        _check_number("timeout_seconds", self.timeout_seconds, above=0)
        _check_number("max_result_bytes", self.max_result_bytes, above=0)
        _check_number("max_attempts", self.max_attempts, above=0)
        _check_number("retry_base_seconds", self.retry_base_seconds, least=0)
        _check_number("retry_cap_seconds", self.retry_cap_seconds, least=0)


@dataclass(frozen=True, slots=True)
class AnalysisInfo:
    """One entry of the catalogue.

    params_schema        JSON Schema, draft 2020-12, of the job's ``params``
    available            False: known by name, but jobs of it are refused for ``unavailable_reason``
    source               ``module:function`` it is loaded from
    requires             modules it imports late, worth importing ahead where children are made
    executor             who runs its attempts
    resources            with Ray, what one attempt is given of the cluster: see ``placement.check_resources``
    runs_on              labels that a worker must have to take its jobs
    """

    name: str
    version: str
    title: str
    description: str
    params_schema: Mapping[str, Any]
    limits: AnalysisLimits
    input: InputMode
    isolation: Isolation
    available: bool
    unavailable_reason: str | None
    source: str
    requires: tuple[str, ...] = ()
    executor: Executor = Executor.CHILD
    resources: Mapping[str, float] = field(default_factory=dict)
    runs_on: Mapping[str, str] = field(default_factory=dict)


def to_json(info: AnalysisInfo) -> dict[str, Any]:
    """``info`` as an object of plain JSON values."""
    limits = info.limits
    return {
        "name": info.name,
        "version": info.version,
        "title": info.title,
        "description": info.description,
        "params_schema": dict(info.params_schema),
        "limits": {
            "timeout_seconds": limits.timeout_seconds,
            "memory_bytes": limits.memory_bytes,
            "max_result_bytes": limits.max_result_bytes,
            "max_attempts": limits.max_attempts,
            "retry_base_seconds": limits.retry_base_seconds,
            "retry_cap_seconds": limits.retry_cap_seconds,
            "executor": str(info.executor),
            "resources": dict(info.resources),
            "runs_on": dict(info.runs_on),
        },
        "input": str(info.input),
        "isolation": str(info.isolation),
        "available": info.available,
        "unavailable_reason": info.unavailable_reason,
        "source": info.source,
        "requires": list(info.requires),
    }


def from_json(document: Mapping[str, Any]) -> AnalysisInfo:
    """The description that ``to_json`` wrote.

    Raises ValueError naming the field that is missing or wrong.
    """
    limits = _field(document, "limits", dict)
    schema = _field(document, "params_schema", dict)
    reason = document.get("unavailable_reason")
    memory_bytes = limits.get("memory_bytes")
    return AnalysisInfo(
        name=_field(document, "name", str),
        version=_field(document, "version", str),
        title=_field(document, "title", str),
        description=_field(document, "description", str),
        params_schema=schema,
        limits=AnalysisLimits(
            timeout_seconds=float(_field(limits, "timeout_seconds", int, float)),
            memory_bytes=None if memory_bytes is None else _field(limits, "memory_bytes", int),
            max_result_bytes=_field(limits, "max_result_bytes", int),
            max_attempts=_field(limits, "max_attempts", int),
            retry_base_seconds=float(_field(limits, "retry_base_seconds", int, float)),
            retry_cap_seconds=float(_field(limits, "retry_cap_seconds", int, float)),
        ),
        input=InputMode(_field(document, "input", str)),
        isolation=Isolation(_field(document, "isolation", str)),
        available=_field(document, "available", bool),
        unavailable_reason=None if reason is None else _field(document, "unavailable_reason", str),
        source=_field(document, "source", str),
        requires=tuple(_field(document, "requires", list)) if "requires" in document else (),
        executor=Executor(limits.get("executor", Executor.CHILD)),
        resources=check_resources(limits.get("resources", NOTHING)),
        runs_on=check_labels("runs_on", limits.get("runs_on", NOTHING)),
    )


def _field(document: Mapping[str, Any], name: str, *kinds: type) -> Any:
    if name not in document:
        raise ValueError(f"{name} is missing")
    value = document[name]
    # bool is an int to isinstance, but never a number here.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{name} must be {' or '.join(kind.__name__ for kind in kinds)}, not {value!r:.80}")
    return value


def _check_number(name: str, value: Any, *, above: float | None = None, least: float | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be greater than {above}, got {value}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")

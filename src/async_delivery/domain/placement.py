"""Where an analysis runs: in a child of the worker or on Ray, with which resources, on machines with which labels.

Pure checks of what its author declared; how a worker acts on it lives in ``worker``. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
RESOURCE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}")
NOTHING: Mapping[str, Any] = MappingProxyType({})

# Ray's own names of what has an argument of its own here, or is no author's business.
_RAY_NAMES = {"CPU": "num_cpus", "GPU": "num_gpus", "object_store_memory": "memory"}
_LARGEST = 2.0**50
# Ray counts in ten-thousandths.
_SMALLEST = 0.0001


class Executor(StrEnum):
    """Who runs the attempts of an analysis."""

    CHILD = "child"
    RAY = "ray"


def executor_for(executor: str | None, resources: Mapping[str, float]) -> Executor:
    """The declared executor; None: Ray for an analysis that asks for resources, else a child.

    Raises ValueError naming ``executor`` if it is none, or one that has no resources to give.
    """
    if executor is None:
        return Executor.RAY if resources else Executor.CHILD
    try:
        chosen = Executor(executor)
    except ValueError:
        raise ValueError(f"executor must be 'child' or 'ray', got {executor!r}") from None
    if resources and chosen is Executor.CHILD:
        raise ValueError("executor must be 'ray' for an analysis with resources, got 'child'")
    return chosen


def check_resources(resources: Any) -> dict[str, float]:
    """Declared resources, checked: ``num_cpus``, ``num_gpus``, ``memory`` in bytes, and names of the cluster's own.

    Amounts may be fractions below 1; above, Ray takes whole ones only. Raises TypeError, ValueError naming the entry.
    """
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources must be a mapping such as {{'num_gpus': 1}}, got {resources!r}")
    return {_resource_name(name): _amount(name, value) for name, value in resources.items()}


def _resource_name(name: Any) -> str:
    if not isinstance(name, str) or not RESOURCE_NAME.fullmatch(name):
        raise ValueError(f"resources: a name must match {RESOURCE_NAME.pattern}, got {name!r}")
    if name in _RAY_NAMES:
        raise ValueError(f"resources[{name!r}]: use {_RAY_NAMES[name]!r}")
    return name


def _amount(name: str, value: Any) -> float:
    where = f"resources[{name!r}]"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} must be a number, got {value!r}")
    if name == "memory":
        if value < 1 or value > _LARGEST or value != int(value):
            raise ValueError(f"{where} must be a whole number of bytes, got {value!r}")
        return int(value)
    if name in ("num_cpus", "num_gpus") and value == 0:
        return 0
    if not _SMALLEST <= value <= _LARGEST:
        raise ValueError(f"{where} must be greater than 0, got {value!r}")
    if value > 1 and value != int(value):
        raise ValueError(f"{where} must be a whole number or at most 1, got {value!r}")
    return int(value) if value == int(value) else value


def check_labels(field: str, labels: Any) -> dict[str, str]:
    """Labels that a worker must have, or has: ``{"zone": "eu", "disk": "fast"}``.

    Raises TypeError, or ValueError naming ``field`` and the entry.
    """
    if not isinstance(labels, Mapping):
        raise TypeError(f"{field} must be a mapping such as {{'zone': 'eu'}}, got {labels!r}")
    for key, value in labels.items():
        if not isinstance(key, str) or not LABEL_KEY.fullmatch(key):
            raise ValueError(f"{field}: a label must match {LABEL_KEY.pattern}, got {key!r}")
        if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
            raise ValueError(f"{field}[{key!r}] must match {LABEL_VALUE.pattern}, got {value!r}")
    return dict(labels)


def runs_on_worker(runs_on: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """True if a worker with these labels may run an analysis that asks for those."""
    return all(labels.get(key) == value for key, value in runs_on.items())

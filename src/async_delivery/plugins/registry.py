"""Which analyses there are: found by entry point, loaded by ``module:function``, described for the catalogue.

``discover`` imports nothing. The others import plug-in code: they run in a child, never in the server.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from async_delivery.domain.analysis import ANALYSIS_NAME, AnalysisInfo, AnalysisLimits, InputMode, Isolation
from async_delivery.domain.placement import Executor
from async_delivery.plugins.analysis import Analysis
from async_delivery.plugins.errors import PluginError

ENTRY_POINT_GROUP = "async_delivery.analyses"
_NO_LIMITS = AnalysisLimits(
    timeout_seconds=3600,
    memory_bytes=None,
    max_result_bytes=16 * 2**20,
    max_attempts=1,
    retry_base_seconds=0.0,
    retry_cap_seconds=0.0,
)


def discover() -> dict[str, str]:
    """Name → ``module:function`` of every installed analysis, by name; nothing is imported.

    Raises PluginError if two distributions claim one name for different functions.
    """
    found: dict[str, str] = {}
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)):
        ref = f"{entry.module}:{entry.attr}"
        if found.setdefault(entry.name, ref) != ref:
            raise PluginError(f"two analyses are named {entry.name}: {found[entry.name]} and {ref}")
    return found


def load(ref: str) -> Analysis[..., Any]:
    """Import the analysis at ``module:function``.

    Raises PluginError saying what is wrong with it.
    """
    module_name, separator, attribute = ref.partition(":")
    if not (module_name and separator and attribute):
        raise PluginError(f"{ref!r} is not of the form module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:
        raise PluginError(f"{ref}: cannot import {module_name}: {_import_problem(module_name, exc)}") from exc
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise PluginError(f"{ref}: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not isinstance(found, Analysis):
        raise PluginError(f"{ref}: is {type(found).__name__}, not an analysis: use @analysis(...)")
    return found


def describe(refs: Mapping[str, str]) -> list[AnalysisInfo]:
    """A catalogue entry for each of ``refs`` (name → ref), sorted by name. Never raises for a broken plug-in.

    Where the name is not known before the import (a ref given by hand), use the ref as its own key. Of two
    analyses with one name the later key wins, so that a ref given by hand can replace an installed one.
    """
    entries: dict[str, AnalysisInfo] = {}
    for key, ref in refs.items():
        info = _describe(key, ref)
        entries[info.name] = info
    return [entries[name] for name in sorted(entries)]


def preload_modules(refs: Mapping[str, str]) -> list[str]:
    """Modules worth importing before children are forked: the usable analyses' own and what they require."""
    modules: dict[str, None] = {}
    for info in describe(refs):
        if info.available:
            modules |= dict.fromkeys([info.source.partition(":")[0], *info.requires])
    return list(modules)


def _describe(key: str, ref: str) -> AnalysisInfo:
    try:
        loaded = load(ref)
    except PluginError as exc:
        return _unavailable(_name_without_import(key, ref), ref, exc.message)
    info = loaded.info()
    if key not in (info.name, ref):
        return _unavailable(key, ref, f"{ref} calls itself {info.name}; name the entry point {info.name} too")
    reason = None
    missing = [name for name in info.requires if not _is_installed(name)]
    if missing:
        reason = _missing(ref.partition(":")[0], missing)
    elif info.executor is Executor.RAY and not _is_installed("ray"):
        reason = "needs ray, which is not installed: pip install 'async-delivery[ray]'"
    return replace(info, available=reason is None, unavailable_reason=reason, source=ref)


def _unavailable(name: str, ref: str, reason: str) -> AnalysisInfo:
    return AnalysisInfo(
        name=name,
        version="",
        title=name,
        description="",
        params_schema={"type": "object"},
        limits=_NO_LIMITS,
        input=InputMode.OPTIONAL,
        isolation=Isolation.FRESH,
        available=False,
        unavailable_reason=reason,
        source=ref,
    )


def _name_without_import(key: str, ref: str) -> str:
    if ANALYSIS_NAME.fullmatch(key):
        return key
    guess = re.sub(r"[^a-z0-9_.-]", "-", ref.rpartition(":")[2].rpartition(".")[2].lower())[:64]
    return guess if ANALYSIS_NAME.fullmatch(guess) else "unnamed"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _import_problem(module_name: str, exc: BaseException) -> str:
    if isinstance(exc, ModuleNotFoundError) and exc.name and not f"{module_name}.".startswith(f"{exc.name}."):
        return _missing(module_name, [exc.name])
    lines = str(exc).splitlines()
    text = f"{type(exc).__name__}: {lines[0]}" if lines else type(exc).__name__
    return text if len(text) <= 500 else text[:499] + "…"


def _missing(module_name: str, missing: list[str]) -> str:
    text = f"needs {', '.join(missing)}, which is not installed"
    distribution, extra = _extra_for(module_name.partition(".")[0], missing[0].partition(".")[0])
    return f"{text}: pip install '{distribution}[{extra}]'" if extra else text


def _extra_for(package: str, module: str) -> tuple[str, str]:
    """The distribution of ``package`` and its extra that brings ``module``; empty when there is none."""
    try:
        distribution = importlib.metadata.distribution(package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "", ""
    extras: dict[str, list[str]] = {}
    for requirement in distribution.requires or ():
        if match := re.match(r"([A-Za-z0-9._-]+).*;.*extra == ['\"]([^'\"]+)['\"]", requirement):
            extras.setdefault(match[2], []).append(match[1].lower().replace("-", "_"))
    having = [name for name, modules in extras.items() if module.lower() in modules]
    # The smallest: an extra of all extras would bring it as well.
    return (distribution.name, min(having, key=lambda name: len(extras[name]))) if having else ("", "")

"""Which analyses a process knows, and which of their jobs it takes. They are described by a child, never imported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.placement import runs_on_worker
from async_delivery.plugins import discover
from async_delivery.settings import Settings, SettingsError
from async_delivery.wiring.address import StartError


def refs_of(settings: Settings) -> Mapping[str, str]:
    """What is installed, and what is given by hand; the latter goes over an installed one of the same name."""
    return {**discover(), **{ref: ref for ref in settings.analysis}}


def describe_analyses(settings: Settings, meanwhile: Callable[[], None]) -> list[AnalysisInfo]:
    """Start the forkserver and have a child describe every analysis. On the main thread. Raises StartError.

    meanwhile   imports what the process itself will need, on the other core
    """
    from async_delivery.worker.catalogue import load_catalogue
    from async_delivery.worker.forkserver import ForkError, prepare

    refs = refs_of(settings)
    importing = threading.Thread(target=meanwhile, name="import", daemon=True)
    importing.start()
    try:
        prepare(refs, settings.keep_env)
        return load_catalogue(refs)
    except ForkError as exc:
        raise StartError(f"cannot start processes for analyses: {exc}") from exc
    finally:
        importing.join()


def faults_of(settings: Settings, infos: Sequence[AnalysisInfo]) -> list[str]:
    """What is wrong with settings about analyses, and can only be known with the catalogue at hand."""
    faults = []
    if settings.data_root is not None and not settings.data_root.is_dir():
        faults.append(f"data_root: there is no folder {settings.data_root}")
    faults += [
        f"--analysis {info.source}: {info.unavailable_reason}"
        for info in infos
        if info.source in settings.analysis and not info.available
    ]
    return faults + _faults_of_taken(settings, {info.name: info for info in infos})


def _faults_of_taken(settings: Settings, known: Mapping[str, AnalysisInfo]) -> list[str]:
    faults = []
    for name in settings.analyses:
        info = known.get(name)
        if info is None:
            faults.append(f"analyses: there is no {name}, only {', '.join(known) or 'none'}")
        elif not info.available:
            faults.append(f"analyses: {name} is not available here: {info.unavailable_reason}")
        elif missing := _missing_labels(settings, info):
            faults.append(f"analyses: {name} runs only on a machine with the label {missing}; see --label")
    return faults


def taken(settings: Settings, infos: Sequence[AnalysisInfo]) -> tuple[str, ...]:
    """Names of the analyses whose jobs a worker with these settings takes."""
    return tuple(
        info.name
        for info in infos
        if info.available
        and (not settings.analyses or info.name in settings.analyses)
        and not _missing_labels(settings, info)
    )


def alone(settings: Settings, infos: Sequence[AnalysisInfo]) -> list[AnalysisInfo]:
    """The catalogue of a process that has its store to itself: what cannot run here can run nowhere.

    Raises SettingsError where the settings would have jobs wait for another process.
    """
    if settings.analyses:
        fault = "analyses: one process serves an embedded store and takes all its jobs; leave it out, or use PostgreSQL"
        raise SettingsError([fault])
    return [_alone(settings, info) for info in infos]


def _alone(settings: Settings, info: AnalysisInfo) -> AnalysisInfo:
    missing = _missing_labels(settings, info)
    if not info.available or not missing:
        return info
    return replace(info, available=False, unavailable_reason=f"it needs a machine with the label {missing}")


def _missing_labels(settings: Settings, info: AnalysisInfo) -> str:
    """``gpu=a100, zone=eu``; empty if the machine has every label that the analysis wants."""
    labels = {key: value for key, _, value in (text.partition("=") for text in settings.label)}
    if runs_on_worker(info.runs_on, labels):
        return ""
    return ", ".join(f"{key}={value}" for key, value in info.runs_on.items() if labels.get(key) != value)

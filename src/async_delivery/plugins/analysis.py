"""The ``@analysis`` decorator and the object it makes. How analyses are found lives in ``registry``."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

from async_delivery.domain.analysis import ANALYSIS_NAME, AnalysisInfo, AnalysisLimits, InputMode, Isolation
from async_delivery.domain.placement import NOTHING, check_labels, check_resources, executor_for
from async_delivery.plugins.context import Context
from async_delivery.plugins.errors import InvalidInputError
from async_delivery.plugins.params import Params

GIB = 2**30
MIB = 2**20

P = ParamSpec("P")
R = TypeVar("R")


class Analysis(Generic[P, R]):
    """A plain function with its name, limits and params. Called, it is the function: tests need no server."""

    def __init__(self, function: Callable[P, R], params: Params, info: AnalysisInfo) -> None:
        self._function = function
        self._params = params
        self._info = info
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<analysis {self._info.name} {self._info.version} of {self._info.source}>"

    @property
    def name(self) -> str:
        """The name jobs ask for."""
        return self._info.name

    @property
    def requires(self) -> tuple[str, ...]:
        """Modules without which it cannot run."""
        return self._info.requires

    def info(self) -> AnalysisInfo:
        """The catalogue entry. That ``requires`` is met is not checked here: see ``registry.describe``."""
        return self._info

    def run(self, params: Mapping[str, Any], context: Context) -> R:
        """One attempt: check the input, parse ``params`` into the annotated type, call the function.

        Raises InvalidInputError listing every fault of the params, and whatever the function raises.
        """
        if self._info.input is InputMode.REQUIRED and context.input is None:
            raise InvalidInputError("file", "this analysis needs an uploaded file")
        if self._info.input is InputMode.NONE and context.input is not None:
            raise InvalidInputError("file", "this analysis takes no uploaded file")
        arguments = self._params.arguments(self._params.parse(params), context)
        function: Callable[..., R] = self._function
        return function(**arguments)


def analysis(
    name: str,
    version: str = "1",
    *,
    title: str | None = None,
    description: str | None = None,
    timeout_seconds: float = 3600,
    memory_bytes: int | None = 2 * GIB,
    max_result_bytes: int = 16 * MIB,
    max_attempts: int = 3,
    isolation: str = "warm",
    input: str = "none",
    retry_base_seconds: float = 2.0,
    retry_cap_seconds: float = 3600,
    requires: Iterable[str] = (),
    executor: str | None = None,
    resources: Mapping[str, float] = NOTHING,
    runs_on: Mapping[str, str] = NOTHING,
) -> Callable[[Callable[P, R]], Analysis[P, R]]:
    """Make a plain function an analysis.

    title, description   for people; default: the name in words, the first paragraph of the docstring
    isolation            ``warm``: a child serves several attempts; ``fresh``: one child per attempt
    input                uploaded file: ``none``, ``optional`` or ``required``
    requires             modules that must be installed, e.g. ``("duckdb",)``; imported ahead of the first job
    executor             ``child`` (default) of the worker, or ``ray``, which resources imply
    resources            of the Ray cluster for one attempt: ``num_cpus``, ``num_gpus``, ``memory`` in bytes, own names
    runs_on              labels that a worker must have to take its jobs, e.g. ``{"zone": "eu"}``
    Limits: see ``domain.analysis.AnalysisLimits``.
    Raises TypeError or ValueError, here or where the function is decorated, saying what to change.
    """
    if not ANALYSIS_NAME.fullmatch(name):
        raise ValueError(f"name must match {ANALYSIS_NAME.pattern}, got {name!r}")
    if not version:
        raise ValueError("version must not be empty")
    if isinstance(requires, str):
        raise TypeError(f"requires must be a tuple of module names, got the str {requires!r}")
    limits = AnalysisLimits(
        timeout_seconds=timeout_seconds,
        memory_bytes=memory_bytes,
        max_result_bytes=max_result_bytes,
        max_attempts=max_attempts,
        retry_base_seconds=retry_base_seconds,
        retry_cap_seconds=retry_cap_seconds,
    )
    modes = (InputMode(input), Isolation(isolation))
    amounts, labels = check_resources(resources), check_labels("runs_on", runs_on)
    chosen = executor_for(executor, amounts)
    # Where the decorator stands: its local names resolve type hints of functions that are no module's.
    namespace = sys._getframe(1).f_locals

    def decorate(function: Callable[P, R]) -> Analysis[P, R]:
        _check_function(function)
        params = Params(function, namespace)
        info = AnalysisInfo(
            name=name,
            version=version,
            title=title or _words(name),
            description=_first_paragraph(function) if description is None else description,
            params_schema=params.schema,
            limits=limits,
            input=modes[0],
            isolation=modes[1],
            available=True,
            unavailable_reason=None,
            source=f"{function.__module__}:{function.__qualname__}",
            requires=tuple(requires),
            executor=chosen,
            resources=amounts,
            runs_on=labels,
        )
        return Analysis(function, params, info)

    return decorate


def _check_function(function: Any) -> None:
    if not inspect.isfunction(function):
        raise TypeError(f"@analysis goes on a plain function, not on {function!r}")
    asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if asynchronous or inspect.isgeneratorfunction(function):
        kind = "an async function" if asynchronous else "a generator"
        raise TypeError(f"{function.__name__} is {kind}; an analysis is a plain function with one result")


def _words(name: str) -> str:
    text = name.replace("_", " ").replace("-", " ").replace(".", " ").strip()
    return text[:1].upper() + text[1:]


def _first_paragraph(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())

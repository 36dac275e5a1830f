"""From a function's signature to a JSON Schema and back: what its params are, and how to call it with them.

Two forms: ``f(params, context)`` with one annotated object, or ``f(*, a: int = 1, context)`` with one keyword
per param. ``context`` may be left out in both. Imports ``domain`` and pydantic.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import pydantic
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from async_delivery.domain.errors import FieldIssue
from async_delivery.plugins.context import Context
from async_delivery.plugins.errors import InvalidInputError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MAPPINGS = (dict, Mapping)


class Params:
    """The params of one function. ``schema`` is what a job's params must satisfy.

    Raises TypeError when the function cannot be an analysis, saying what to change.
    """

    def __init__(self, function: Callable[..., Any], namespace: Mapping[str, Any]) -> None:
        parameters = _parameters(function)
        hints = _hints(function, namespace)
        self.takes_context = parameters.pop("context", None) is not None
        self.by_keyword = "params" not in parameters
        if self.by_keyword:
            kind: Any = _keyword_model(function.__name__, parameters, hints)
        elif len(parameters) > 1:
            others = ", ".join(name for name in parameters if name != "params")
            raise TypeError(
                f"{function.__name__}: takes 'params' or one parameter per param, not both ({others})"
            )
        else:
            kind = hints.get("params", dict)
        self.open = _is_open(kind)
        self._adapter, self.schema = _adapter(function.__name__, kind, closed=not self.open)
        if self.by_keyword:
            self.schema.pop("title", None)  # the name of a type nobody wrote
        self._known = frozenset(self.schema.get("properties", ()))

    def parse(self, params: Mapping[str, Any]) -> Any:
        """The params in the annotated type.

        Raises InvalidInputError listing every fault.
        """
        issues = []
        if not self.open:
            known = ", ".join(sorted(self._known)) or "none"
            issues = [
                FieldIssue(f"params.{name}", f"is not a param of this analysis; known: {known}")
                for name in params
                if name not in self._known
            ]
        try:
            parsed = self._adapter.validate_python(dict(params))
        except pydantic.ValidationError as exc:
            named = {each.field for each in issues}
            issues += [each for each in map(_issue, exc.errors(include_url=False)) if each.field not in named]
            raise InvalidInputError.of(issues) from exc
        if issues:
            raise InvalidInputError.of(issues)
        return parsed

    def arguments(self, parsed: Any, context: Context) -> dict[str, Any]:
        """The keyword arguments to call the function with."""
        if self.by_keyword:
            arguments = {each.name: getattr(parsed, each.name) for each in dataclasses.fields(parsed)}
        else:
            arguments = {"params": parsed}
        if self.takes_context:
            arguments["context"] = context
        return arguments


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(function).parameters)
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{function.__name__}: *{name} has no place in an analysis; name each param")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{function.__name__}: {name} must not be positional-only")
        if name.startswith("_"):
            raise TypeError(f"{function.__name__}: {name}: a param must not start with _")
    return parameters


def _hints(function: Callable[..., Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    # Context is often imported for type checkers only; it is the one name that is never needed at run time.
    names = {"Context": Context, **namespace}
    try:
        return get_type_hints(function, localns=names, include_extras=True)
    except NameError as exc:
        raise TypeError(f"{function.__name__}: type hint: {exc}; import it at module level") from exc


def _keyword_model(name: str, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]) -> type:
    fields: list[Any] = []
    for each in parameters.values():
        if each.name not in hints:
            raise TypeError(f"{name}: {each.name} needs a type hint, it becomes the param's JSON Schema")
        if each.default is each.empty:
            fields.append((each.name, hints[each.name]))
        elif isinstance(each.default, FieldInfo):
            raise TypeError(f"{name}: write {each.name}: Annotated[T, Field(...)] = default")
        else:
            fields.append((each.name, hints[each.name], _default(each.default)))
    return dataclasses.make_dataclass(f"{name}_params", fields, kw_only=True)


def _default(value: Any) -> Any:
    if isinstance(value, list | dict | set):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(value))
    return dataclasses.field(default=value)


def _is_open(kind: Any) -> bool:
    """True if the author's type takes params it does not name."""
    if (typing.get_origin(kind) or kind) in _MAPPINGS:
        return True
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    return config.get("extra") in ("allow", "ignore")


def _adapter(name: str, kind: Any, *, closed: bool) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    try:
        adapter = TypeAdapter(kind)
        schema = adapter.json_schema(mode="validation")
    except pydantic.PydanticUserError as exc:
        raise TypeError(f"{name}: params have no JSON Schema: {exc.message}") from exc
    if "$ref" in schema:  # a type that refers to itself: its own definition becomes the root
        root = schema["$defs"][schema["$ref"].rpartition("/")[2]]
        schema = {**root, "$defs": schema["$defs"]}
    if schema.get("type") != "object":
        raise TypeError(f"{name}: params must be an object: a model, a dataclass, a TypedDict or a mapping")
    if closed:
        schema["additionalProperties"] = False
        schema.setdefault("properties", {})
    return adapter, {"$schema": DIALECT, **schema}


def _issue(error: Any) -> FieldIssue:
    path = "params"
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    text = error["msg"].removeprefix("Value error, ")
    return FieldIssue(path, text[:1].lower() + text[1:])

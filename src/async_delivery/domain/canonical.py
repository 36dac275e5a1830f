"""Canonical JSON: one value, one sequence of bytes, on every store and for ever.

Object keys sorted by code point, no white space, UTF-8, shortest round-trip numbers. Close to RFC 8785, with
Python's own form of floats, which the bytes of equal values share as well. What JSON cannot say exactly is
refused with the path of the place, never bent: NaN, infinities, keys that are no strings, lone surrogates,
integers beyond 64 bits, cycles, and Python objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from async_delivery.domain.errors import NotSerializableError

MAX_DEPTH = 200
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode


def canonical_json(value: Any) -> bytes:
    """The canonical bytes of ``value``, built of dict, list, tuple, str, int, float, bool and None.

    Raises NotSerializableError with the path of the first place that has no JSON form.
    """
    _check(value, "$", 0)
    try:
        return _encode(value).encode("utf-8")
    except ValueError as exc:  # UnicodeEncodeError is one: a lone surrogate in a key or value
        raise NotSerializableError(_surrogate_path(value, "$"), "text with a lone surrogate") from exc


def _check(value: Any, path: str, depth: int) -> None:
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is int or kind is float:
        _check_number(value, path)
    elif depth >= MAX_DEPTH:
        raise NotSerializableError(path, f"nested deeper than {MAX_DEPTH} levels, or a cycle")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise NotSerializableError(path, f"key {key!r:.80} is {type(key).__name__}, must be str")
            if type(item) not in _PLAIN:
                _check(item, f"{path}.{key}", depth + 1)
    elif kind is list or kind is tuple:
        for index, item in enumerate(value):
            if type(item) not in _PLAIN:
                _check(item, f"{path}[{index}]", depth + 1)
    else:
        raise NotSerializableError(path, f"{kind.__module__}.{kind.__qualname__} has no JSON form")


def _check_number(value: int | float, path: str) -> None:
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise NotSerializableError(path, "integer beyond 64 bits; give it as text")
    elif not isfinite(value):
        raise NotSerializableError(path, f"{value} has no JSON form; give null or text")


_PLAIN = frozenset({str, bool, type(None)})


def _surrogate_path(value: Any, path: str) -> str:
    if isinstance(value, str):
        return path if any("\ud800" <= char <= "\udfff" for char in value) else ""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if found := _surrogate_path(key, path) or _surrogate_path(item, f"{path}.{key!a}"):
                return found
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if found := _surrogate_path(item, f"{path}[{index}]"):
                return found
    return ""

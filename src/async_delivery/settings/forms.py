"""What the value of a setting looks like: text -> value, where ValueError says what would be right."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path

from async_delivery.domain.analysis import ANALYSIS_NAME
from async_delivery.domain.duration import parse_duration, parse_ttl_seconds
from async_delivery.domain.placement import check_labels

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("json", "text")


def parse_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def parse_host(text: str) -> str:
    if not text or not text.isascii() or any(char.isspace() or char in "/@" for char in text):
        raise ValueError(f"{text!r} is not a host name or address, such as 127.0.0.1")
    return text


def parse_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("must be the path of a file or folder")
    return Path(text)


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.strip().replace("_", "")
        if not re.fullmatch(r"[0-9]{1,18}", digits) or not low <= int(digits) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(digits)

    return parse


_SIZE = re.compile(r"([0-9][0-9_]{0,17})\s*(KiB|MiB|GiB|)\Z")
_SIZE_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MAX_SIZE = 2**40


def parse_bytes(text: str) -> int:
    found = _SIZE.match(text.strip())
    size = int(found[1]) * _SIZE_UNITS[found[2]] if found else 0
    if not 1 <= size <= _MAX_SIZE:
        raise ValueError(
            f"{text!r} is not a size from 1 to {_MAX_SIZE}: give bytes, or a number with KiB, MiB or GiB"
        )
    return size


def parse_bytes_or_none(text: str) -> int:
    """A size, or 0 for none."""
    return 0 if text.strip() == "0" else parse_bytes(text)


def span(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if not low <= seconds <= high:
            raise ValueError(f"{text!r} is not between {low:g} and {high:g} seconds")
        return seconds

    return parse


def parse_ttl_or_off(text: str) -> int | None:
    """Whole seconds, or None for ``off``."""
    return None if text.strip().lower() == "off" else parse_ttl_seconds(text)


def parse_rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.001 <= rate <= 1e6:
        raise ValueError(f"{text!r} is not a number from 0.001 to 1000000")
    return rate


_SWITCH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def parse_switch(text: str) -> bool:
    if text.strip().lower() not in _SWITCH:
        raise ValueError(f"{text!r} is neither true nor false")
    return _SWITCH[text.strip().lower()]


def parse_analysis_name(text: str) -> str:
    if not ANALYSIS_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of an analysis, such as profile")
    return text


def parse_analysis_ref(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text):
        raise ValueError(f"{text!r} is not of the form module:function")
    return text


def parse_label(text: str) -> str:
    key, mark, value = text.partition("=")
    if not mark:
        raise ValueError(f"{text!r} is not a label of the form K=V, such as zone=eu")
    check_labels("a label", {key: value})
    return text


def parse_ray_address(text: str) -> str:
    if text == "auto" or re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}", text):
        return text
    raise ValueError(
        f"{text!r} is neither auto nor HOST:PORT of a Ray cluster that this machine is a node of"
    )


def parse_network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError as exc:
        raise ValueError(f"{text!r} is not an address or network, such as 10.0.0.0/8 ({exc})") from exc


def parse_variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(f"{text!r} is not the name of an environment variable")
    return text


def parse_log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f"{text!r} is not one of {', '.join(LOG_LEVELS)}")
    return text.lower()


def parse_log_format(text: str) -> str:
    if text.lower() not in LOG_FORMATS:
        raise ValueError(f"{text!r} is not one of {', '.join(LOG_FORMATS)}")
    return text.lower()

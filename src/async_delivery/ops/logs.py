"""The log: facts of telemetry and records of Python's logging become lines, one JSON object or one text each.

Whoever tells something only leaves it in a queue; a thread makes the lines and writes them, so that a request costs
the event loop next to nothing and a pipe that nobody reads blocks nobody. What is said of which fact is in ``facts``.
Whatever stands in a value, one record is one line, and it holds no character that a terminal would obey. Imports
``domain`` and ``telemetry``.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import orjson

from async_delivery import telemetry
from async_delivery.ops.backlog import Backlog
from async_delivery.ops.facts import DROPPED, FACTS, MESSAGE, REQUEST, Told
from async_delivery.ops.repeats import Repeats
from async_delivery.ops.scrub import scrub_text
from async_delivery.ops.sink import Sink
from async_delivery.ops.stacks import one_error, story, without_input

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
CLOSE_SECONDS = 5.0
_MAX_TEXT = 2_000
_MAX_ITEMS = 200
_MAX_PARTS = 1_000

# Beyond what JSON escapes: DEL and C1 (terminals obey some), separators of lines and paragraphs (some readers end a
# line there), all marks of format (bidi, zero width, byte order mark, tags), and halves of pairs.
_UNSAFE = (
    "\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IN_JSON = re.compile(f"[{_UNSAFE}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# What stands for itself in the text form; all else is quoted.
_PLAIN = re.compile(r'[^\s"=\\\[{][^\s"=\\]*\Z')
# Values that people or foreign code have written.
_FREE = frozenset({"error", "errors", "message", "stack", "why", "by", "path"})
_NAMELESS = Told("debug", {}, "")

# When (ns since 1970), what, and its values; or the values of an answered request.
Entry = tuple[int, str, Mapping[str, Any]] | Mapping[str, Any]


class Log:
    """Writes to ``sink`` what has at least ``level``, in ``form`` json or text.

    Attach ``hear`` to telemetry and ``handler`` to Python's root logger.
    """

    def __init__(self, sink: Sink, level: str, form: str, *, capacity: int = 10_000) -> None:
        self._lowest = LEVELS[level]
        self._sink = sink
        self._form = form
        self._told_dropped = 0
        self._repeats = Repeats()
        self._requests = RequestLines()
        self._structured: Any = None
        # Settled by one look-up: what is not in here is not told at this level. True: without delay.
        self._heard = {
            name: LEVELS[told.level] >= logging.WARNING
            for name, told in FACTS.items()
            if name not in {MESSAGE, DROPPED}
            and (told.worse is not None or LEVELS[told.level] >= self._lowest)
        }
        self._backlog: Backlog[Entry] = Backlog("log", self._write, capacity, on_drop=_count_dropped)
        self.handler = _Handler(self._backlog)
        self.handler.setLevel(self._lowest)

    @property
    def dropped(self) -> int:
        """Lines lost so far because stderr did not take them."""
        return self._backlog.dropped

    def hear(self, name: str, values: Mapping[str, Any]) -> None:
        """A fact of telemetry. Called on any thread, the event loop's included: leaves it for later."""
        urgent = self._heard.get(name)
        if urgent is None and (self._lowest > logging.DEBUG or name in FACTS):
            return
        if name == REQUEST:
            # It says itself when it was, and is never urgent: to hear of it costs a place in the queue.
            self._backlog.put(values)
            return
        self._backlog.put((time.time_ns(), name, values), urgent=bool(urgent))

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Write what waits, for so many seconds at most. False if it could not all be written."""
        return self._backlog.close(seconds)

    def _write(self, entries: list[Entry]) -> None:
        lost = self._backlog.dropped - self._told_dropped
        if lost:
            entries = [*entries, (time.time_ns(), DROPPED, {"count": lost})]
        # The requests' own clock has no date.
        offset_ns = time.time_ns() - time.perf_counter_ns()
        lines = b"".join(
            [
                self._line(*entry) if isinstance(entry, tuple) else self._request_line(entry, offset_ns)
                for entry in entries
            ]
        )
        # What cannot be written counts as dropped, and is told of with the next lines that can.
        self._sink.write(lines)
        self._told_dropped += lost

    def _request_line(self, values: Mapping[str, Any], offset_ns: int) -> bytes:
        at_ns = int(values["at"] * 1e9) + offset_ns
        made = self._requests.line(at_ns, values) if self._form == "json" else None
        return made or self._line(at_ns, REQUEST, values)

    def _line(self, at_ns: int, name: str, values: Mapping[str, Any]) -> bytes:
        told = FACTS.get(name, _NAMELESS)
        level = values["level"] if name == MESSAGE else told.level
        if told.worse is not None:
            level = told.worse(values) or level
            if LEVELS[level] < self._lowest:
                return b""
        if told.alike:
            count = self._repeats.count((name, *(str(values.get(each)) for each in told.alike)), at_ns)
            if count is None:
                return b""
            values = {**values, "count": count}
        fields = {key: value for key, pick in told.fields.items() if (value := pick(values)) is not None}
        if self._form == "json" and _FREE.isdisjoint(fields):
            # Nothing to clean: the line is what structlog would make of it, at a fifth of the cost. There is one for
            # each request.
            return json_line({"ts": _instant(at_ns), "level": level, "event": name, **fields})
        if self._structured is None:
            self._structured = structured(self._form)
        line: bytes = getattr(self._structured, level)(name, ts=_instant(at_ns), level=level, **fields)
        return line


class _Handler(logging.Handler):
    """Records of Python's logging, worded where they arise: their arguments may change or hold on to much."""

    def __init__(self, backlog: Backlog[Entry]) -> None:
        super().__init__()
        self._backlog = backlog

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  arguments that do not fit their template
            message = str(record.msg)
        values: dict[str, Any] = {
            "level": _level_name(record.levelno),
            "logger": record.name,
            "message": message,
            "request_id": getattr(record, "request_id", None),
        }
        if record.exc_info and record.exc_info[1] is not None:
            values["error"] = one_error(record.exc_info[1])
            values["stack"] = story(record.exc_info[1])
        urgent = record.levelno >= logging.WARNING
        self._backlog.put((int(record.created * 1e9), MESSAGE, values), urgent=urgent)


def _count_dropped(count: int) -> None:
    """At once, and not with the next lines: where none can be written any more, the metric alone tells of it."""
    telemetry.emit(DROPPED, count=count)


def _level_name(number: int) -> str:
    return next((name for name in ("error", "warning", "info") if number >= LEVELS[name]), "debug")


def structured(form: str) -> Any:
    """A structlog logger whose methods return the line, as bytes with its end, instead of writing it."""
    # Takes a tenth of a second, which the start of the server need not wait for.
    import structlog  # noqa: PLC0415

    render = structlog.processors.JSONRenderer(json_line) if form == "json" else text_line
    return structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[_clean, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=True,
    )


def _clean(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """In the order of the reference, with free texts cut and without what looks like a secret."""
    first = {"ts": event.pop("ts"), "level": event.pop("level"), "event": event.pop("event")}
    for key in _FREE & event.keys():
        value = event[key]
        event[key] = [_free(one) for one in value[:_MAX_ITEMS]] if isinstance(value, list) else _free(value)
    return {**first, **event}


def _free(value: object) -> str:
    return scrub_text(without_input(str(value))[:_MAX_TEXT])


def json_line(event: Mapping[str, Any], **_: Any) -> bytes:
    """One JSON object and the end of its line."""
    try:
        line = orjson.dumps(event, default=_kind, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Halves of pairs and numbers beyond 64 bits, which JSON has no way to say.
        line = orjson.dumps(_sayable(event), default=_kind, option=orjson.OPT_APPEND_NEWLINE)
    if line.isascii() and b"\x7f" not in line:
        return line
    return _IN_JSON.sub(_escape, line.decode()).encode()


def text_line(_: Any, __: str, event: Mapping[str, Any]) -> bytes:
    """The same for people: time, level and event, then ``name=value``; what is not plain is quoted as in JSON."""
    words = [
        value if key in {"ts", "level", "event"} else f"{key}={_word(value)}" for key, value in event.items()
    ]
    return f"{' '.join(words)}\n".encode()


def _word(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.isprintable() and not _IN_JSON.search(value):
        return value
    if isinstance(value, float):
        return f"{value:.15g}"
    return json_line(value).decode().rstrip("\n")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\u{0xD7C0 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _kind(value: object) -> str:
    """What stands for a value that has no form here; its content may be anybody's."""
    return f"<{type(value).__name__}>"


def _sayable(value: Any) -> Any:
    match value:
        case str():
            return _SURROGATE.sub("\ufffd", value)
        case bool() | float() | None:
            return value
        case int():
            return value if abs(value) < 2**63 else str(value)
        case list() | tuple():
            return [_sayable(one) for one in value]
        case dict():
            return {_sayable(str(key)): _sayable(one) for key, one in value.items()}
    return _kind(value)


class RequestLines:
    """The JSON line of an answered request, put together from parts that come again and again.

    There is one for each request, so it must cost next to nothing. What is unusual is left to the general way, which
    makes the same line.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str, int, str], tuple[str, str, str]] = {}

    def line(self, at_ns: int, values: Mapping[str, Any]) -> bytes | None:
        """The line; None where the general way is to make it."""
        request_id, correlation_id = values["request_id"], values["correlation_id"] or ""
        ids = request_id + correlation_id
        if (
            values["job"] is not None
            or not (ids.isascii() and ids.isprintable())
            or '"' in ids
            or "\\" in ids
        ):
            return None
        key = (values["route"], values["method"], values["status"], values["org_id"])
        parts = self._parts.get(key)
        if parts is None:
            parts = self._new_parts(*key)
        correlated = f'","correlation_id":"{correlation_id}' if correlation_id else ""
        head, middle, end = parts
        ms = 1000 * values["seconds"]
        sent = values["bytes"]
        return (
            f'{{"ts":"{_instant(at_ns)}{head}{request_id}{correlated}",{middle}{ms:.3f},"bytes":{sent}{end}'
        ).encode()

    def _new_parts(self, route: str, method: str, status: int, org_id: str) -> tuple[str, str, str]:
        if len(self._parts) >= _MAX_PARTS:
            self._parts.clear()
        middle = json_line({"route": route or "unmatched", "method": method, "status": status}).decode()
        end = json_line({"org_id": org_id}).decode()
        head = f'","level":"{FACTS[REQUEST].level}","event":"{REQUEST}","request_id":"'
        parts = self._parts[route, method, status, org_id] = (
            head,
            middle[1:-2] + ',"ms":',
            "," + end[1:],
        )
        return parts


_lately: tuple[int, int, str, str] = (-1, -1, "", "")


def _instant(at_ns: int) -> str:
    """RFC 3339 in UTC with milliseconds. Lines come in bursts; the text of the last millisecond is kept."""
    global _lately  # noqa: PLW0603  one value, replaced whole
    millis = at_ns // 1_000_000
    known_millis, known_second, second_text, text = _lately
    if millis != known_millis:
        second, rest = divmod(millis, 1000)
        if second != known_second:
            second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        text = f"{second_text}.{rest:03d}Z"
        _lately = (millis, second, second_text, text)
    return text

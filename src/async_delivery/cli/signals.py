"""``signals``: how the five signals of operation stand, asked of a server or computed from its log.

Its exit codes are the levels (0 ok, 1 warning, 2 critical, 3 unknown), so that a monitor can run it as it is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from async_delivery.cli.options import client_options, json_option, server_address
from async_delivery.cli.output import emit_json, emit_table, say
from async_delivery.domain.instant import format_instant, parse_instant
from async_delivery.domain.signal import (
    HTTP_5XX_RATE,
    P95_MS,
    Level,
    Signal,
    SignalExit,
    exit_code,
    judge,
    worst,
)

if TYPE_CHECKING:
    from async_delivery.ops.accesslog import LogFigures

# The log may be from another machine.
_CLOCKS_DIFFER = timedelta(hours=1)


@click.command()
@click.option(
    "--access-log",
    metavar="FILE",
    help="Compute the two signals of the permalink from the server's JSON log instead ('-' for stdin).",
)
@click.option(
    "--now",
    "now_text",
    metavar="INSTANT",
    help="With --access-log: where the windows end, RFC 3339; the log's last line otherwise.",
)
@json_option
@client_options
def signals(
    access_log: str | None, now_text: str | None, as_json: bool, base_url: str | None, org: str | None
) -> int:
    """Show the five signals. Exit code 0 ok, 1 warning, 2 critical, 3 unknown."""
    if access_log is None:
        if now_text is not None:
            raise click.UsageError("--now goes with --access-log")
        return _of_server(server_address(base_url), as_json)
    return _of_log(access_log, _instant(now_text), as_json)


def _instant(text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_instant(text)
    except ValueError as exc:
        raise click.UsageError(f"--now: {exc}") from exc


def _of_server(url: str, as_json: bool) -> int:
    from async_delivery.ops.probe import Probe, UnreachableError

    try:
        with Probe(url) as probe:
            answer = probe.get("/ops/signals")
    except UnreachableError as exc:
        say(f"async-delivery signals: {exc}")
        return SignalExit.UNKNOWN
    found = answer.body.get("signals")
    if answer.status != 200 or not isinstance(found, list):
        say(f"async-delivery signals: {answer.said()}")
        return SignalExit.UNKNOWN
    if not all(map(_is_signal, found)):
        say(
            f"async-delivery signals: {answer.said()}, but not as this version would; compare both with --version"
        )
        return SignalExit.UNKNOWN
    pause = answer.body.get("cleanup_pause")
    return _show(found, {"signals": found, "cleanup_pause": pause}, as_json, _paused(pause))


def _is_signal(found: Any) -> bool:
    """Whether it can be shown and judged: what answers may be another program, or a later version."""
    return (
        isinstance(found, dict)
        and {"name", "unit", "hint"} <= found.keys()
        and found.get("level") in set(Level)
        and all(
            name in found and (found[name] is None or isinstance(found[name], int | float))
            for name in ("value", "warning", "critical")
        )
    )


def _paused(pause: Any) -> str | None:
    if not isinstance(pause, dict):
        return None
    return f"cleanups are paused since {pause.get('paused_at')} by {pause.get('by')}: {pause.get('why')}"


def _of_log(path: str, now: datetime | None, as_json: bool) -> int:
    from async_delivery.ops.accesslog import measure_log, read_log

    try:
        figures = measure_log(read_log(path), now, not_after=datetime.now(UTC) + _CLOCKS_DIFFER)
    except OSError as exc:
        # Not wrong usage, whose exit code is that of a critical signal: a monitor knows nothing of the service then.
        say(f"async-delivery signals: --access-log: cannot read {path}: {exc.strerror or exc}")
        return SignalExit.UNKNOWN
    found = [signal.to_json() for signal in _judged(figures)]
    log = {
        "requests": figures.requests,
        "others": figures.others,
        "foreign": figures.foreign,
        "broken": figures.broken,
        "ended_at": format_instant(figures.ended_at) if figures.ended_at else None,
    }
    note = None if figures.requests else f"{path} has no line about a request in the server's JSON form"
    if figures.broken:
        broken = f"{figures.broken} lines of {path} are broken, or later than the clock of this machine"
        note = f"{note}; {broken}" if note else broken
    return _show(found, {"signals": found, "log": log}, as_json, note)


def _judged(figures: LogFigures) -> list[Signal]:
    at = figures.ended_at or datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    values = ((HTTP_5XX_RATE, figures.error_share), (P95_MS, figures.p95_ms))
    return [Signal(spec, value, judge(spec, value), at) for spec, value in values]


def _show(found: list[Any], document: dict[str, Any], as_json: bool, note: str | None) -> int:
    levels = [Level(signal["level"]) for signal in found]
    if as_json:
        emit_json(document)
    else:
        emit_table(("signal", "value", "unit", "level", "warning", "critical"), [_row(one) for one in found])
        for signal in found:
            if signal["level"] in (Level.WARNING, Level.CRITICAL):
                say(f"{signal['name']} is {signal['level']}: {signal['hint']}")
        if note:
            say(note)
    return exit_code(worst(levels))


def _row(signal: dict[str, Any]) -> tuple[object, ...]:
    value = signal["value"]
    shown = None if value is None else f"{value:g}"
    limits = tuple(
        None if signal[name] is None else f"> {signal[name]:g}" for name in ("warning", "critical")
    )
    return (signal["name"], shown, signal["unit"], signal["level"], *limits)

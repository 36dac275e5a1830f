from __future__ import annotations

import gzip
import io
import json
import random
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from async_delivery.domain.instant import format_instant
from async_delivery.ops.accesslog import PERMALINK_ROUTE, LogFigures, measure_log, read_log

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def request(
    seconds_ago: float = 0.0, status: int = 200, ms: float = 3.0, route: str = PERMALINK_ROUTE
) -> bytes:
    record = {
        "ts": format_instant(NOON - timedelta(seconds=seconds_ago)),
        "level": "info",
        "event": "http.answered",
        "route": route,
        "method": "GET",
        "status": status,
        "ms": ms,
    }
    return orjson.dumps(record) + b"\n"


def fact(seconds_ago: float = 0.0) -> bytes:
    at = format_instant(NOON - timedelta(seconds=seconds_ago))
    return orjson.dumps({"ts": at, "level": "info", "event": "worker.started"}) + b"\n"


def test_the_share_of_5xx_is_that_of_the_permalink_in_the_last_five_minutes() -> None:
    lines = [request(299, 500), *[request(10)] * 18, request(1, 503), request(0, 404)]
    outside = [request(301, 500), request(5, 500, route="/analyze"), fact()]

    figures = measure_log([*outside, *lines])

    assert (figures.answers_5m, figures.errors_5m) == (21, 2)
    assert figures.error_share == pytest.approx(2 / 21)


def test_the_p95_is_that_of_the_last_fifteen_minutes_and_at_most_one_percent_too_long() -> None:
    dice = random.Random(5)
    taken = [dice.lognormvariate(3, 1.5) for _ in range(2_000)]
    lines = [request(899 * dice.random(), ms=ms) for ms in taken]

    figures = measure_log([request(901, ms=9e9), *lines, fact()], NOON)

    exact = sorted(taken)[1_900 - 1]
    assert figures.answers_15m == 2_000
    assert figures.p95_ms is not None
    assert exact <= figures.p95_ms <= exact * 1.01


def test_a_latency_at_a_threshold_is_told_as_it_is() -> None:
    assert measure_log([request(ms=1200.0)] * 50).p95_ms == 1200.0


def test_the_windows_end_at_the_latest_line_unless_an_end_is_given() -> None:
    lines = [request(400, 500), request(0), fact(-60)]

    by_log = measure_log(lines)
    by_clock = measure_log(lines, NOON - timedelta(seconds=200))

    assert (by_log.ended_at, by_log.error_share) == (NOON + timedelta(seconds=60), 0.0)
    assert (by_clock.ended_at, by_clock.error_share) == (NOON - timedelta(seconds=200), 1.0)


def test_a_log_whose_answers_are_all_older_has_no_figures() -> None:
    figures = measure_log([request()], NOON + timedelta(hours=1))

    assert (figures.error_share, figures.p95_ms, figures.requests) == (None, None, 1)


def test_an_empty_log_has_no_figures_and_no_end() -> None:
    assert measure_log([]) == LogFigures(None, None, 0, 0, 0, None, 0, 0, 0, 0)


def test_lines_a_little_out_of_order_are_counted_all_the_same() -> None:
    lines = [request(ago, 500 if ago % 2 else 200) for ago in range(290)]
    random.Random(1).shuffle(lines)

    assert measure_log([*lines, fact()]).error_share == pytest.approx(0.5)


@pytest.mark.parametrize(
    "line",
    [
        request()[:60] + b"\n",
        b'{"ts":"yesterday","event":"http.answered","route":"/","status":200,"ms":1}\n',
        b'{"ts":"2026-03-01T12:00:00Z","event":"http.answered","route":"/","status":"200","ms":1}\n',
        b'{"ts":"2026-03-01T12:00:00Z","event":"http.answered","route":"/","status":true,"ms":1}\n',
        b'{"ts":"2026-03-01T12:00:00Z","event":"http.answered","route":"/","status":200,"ms":-1}\n',
        b'{"ts":"2026-03-01T12:00:00Z","event":"http.answered"}\n',
        b'{"ts":5,"event":"x"}\n',
        b'{"ts":"\xff\xfe","event":"x"}\n',
    ],
)
def test_a_broken_line_of_ours_is_counted_and_passed_over(line: bytes) -> None:
    figures = measure_log([request(), line, request()])

    assert (figures.requests, figures.answers_5m) == (2, 2)
    assert figures.broken + figures.foreign == 1
    if line.startswith(b'{"ts":"'):
        assert figures.broken == 1


@pytest.mark.parametrize(
    "line",
    [
        b"async-delivery 0.1.0 on http://127.0.0.1:8080, store x\n",
        b'127.0.0.1 - - [01/Mar/2026:12:00:00 +0000] "GET /analyze/results/x HTTP/1.1" 500 1\n',
        b'{"ts":"2026-03-01T12:00:00Z","msg":"another program"}\n',
        b"[1, 2]\n",
        b"\xff\xfe\x00\n",
    ],
)
def test_a_foreign_line_is_counted_and_passed_over(line: bytes) -> None:
    figures = measure_log([line, request()])

    assert (figures.foreign, figures.broken, figures.requests, figures.error_share) == (1, 0, 1, 0.0)


def test_what_a_collector_puts_around_a_line_does_not_hide_it() -> None:
    line = request(status=500)
    docker = orjson.dumps({"log": line.decode(), "stream": "stderr", "time": "2026-03-01T12:00:00Z"})
    journal = orjson.dumps({"__CURSOR": "s=1", "MESSAGE": line.decode().rstrip(), "PRIORITY": "6"})

    figures = measure_log([b"2026-03-01T12:00:00.1Z stderr F " + line, docker, journal])

    assert (figures.requests, figures.errors_5m, figures.foreign, figures.broken) == (3, 3, 0, 0)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_log_is_read_from_a_file_or_stdin_compressed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, source: str
) -> None:
    data = b"".join([request(1), request(0, 500)])
    # A rotated file to which another was appended has two members.
    data = gzip.compress(data[:50]) + gzip.compress(data[50:]) if packed else data
    file = tmp_path / "log"
    file.write_bytes(data)
    with io.TextIOWrapper(file.open("rb")) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)

        figures = measure_log(read_log("-" if source == "stdin" else str(file)))

    assert (figures.answers_5m, figures.errors_5m) == (2, 1)


def test_compressed_data_that_break_off_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    lines = [request(ago, ms=ago * 1.37) for ago in range(299)]
    file = tmp_path / "log.gz"
    file.write_bytes(gzip.compress(b"".join(lines))[:-200])

    figures = measure_log(read_log(str(file)))

    assert 0 < figures.requests < 299
    assert figures.broken >= 1


def test_a_file_that_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_log(str(tmp_path / "none")))


def test_a_line_without_an_end_costs_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("wb") as out:
        for _ in range(64):
            out.write(b"x" * 1_000_000)
        out.write(b"\n" + request(status=500))

    tracemalloc.start()
    figures = measure_log(read_log(str(file)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (figures.foreign, figures.errors_5m) == (1, 1)
    assert peak < 4_000_000


def test_memory_does_not_grow_with_the_log() -> None:
    def day(dice: random.Random) -> Iterator[bytes]:
        for ago in range(86_400, 0, -2):
            yield request(ago, ms=dice.choice((1, 10, 100)) * dice.random())

    tracemalloc.start()
    figures = measure_log(day(random.Random(2)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (figures.requests, figures.answers_15m) == (43_200, 450)
    assert peak < 4_000_000


def test_the_reader_knows_what_the_server_writes() -> None:
    from async_delivery.ops.answers import PERMALINK_ROUTE as COUNTED
    from async_delivery.ops.logs import structured

    line = structured("json").info(
        "http.answered", ts="2026-03-01T12:00:00.000Z", level="info", route=COUNTED, status=500, ms=2.5
    )

    assert json.loads(line)["event"] == "http.answered"
    assert measure_log([line]).error_share == 1.0


@pytest.mark.parametrize("ts", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_an_instant_that_no_calendar_has_is_a_broken_line(ts: str) -> None:
    odd = request().replace(format_instant(NOON).encode(), ts.encode())

    figures = measure_log([request(1, 500), odd])

    assert (figures.broken, figures.answers_5m, figures.error_share) == (1, 1, 1.0)


def test_lines_from_the_future_are_broken_and_move_no_window() -> None:
    figures = measure_log(
        [request(10, 500), request(-7200), request(-60)], not_after=NOON + timedelta(minutes=5)
    )

    assert (figures.broken, figures.answers_5m, figures.errors_5m) == (1, 2, 1)
    assert figures.ended_at == NOON + timedelta(minutes=1)

"""What runs in a child process: shut itself in, then make attempts of one analysis, one after another.

The child knows no database and no secret. It reads orders from its socket and answers with frames (``frames``);
results are canonical JSON made here, so the parent never builds an object from what a child sends. Imports
plugins and domain.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Mapping
from typing import Any

from async_delivery.domain.analysis import to_json
from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import NotSerializableError
from async_delivery.domain.failure import MESSAGE_LIMIT, FailureCode
from async_delivery.plugins import AnalysisError, CancelRequested, PluginError, describe, load
from async_delivery.worker import processes
from async_delivery.worker.context import ChildContext, Line, encodable
from async_delivery.worker.footing import Footing
from async_delivery.worker.frames import Tag, receive, split
from async_delivery.worker.streams import Streams

EXIT_BROKEN = 70  # the child could not be set up; EX_SOFTWARE
_MAX_TEXT = 500
_OUT_OF_MEMORY = b'{"code":"out_of_memory","message":"","again":false}'
# The kernel takes these before the server when the machine runs out of memory.
_OOM_SCORE = 500


def run(order: Mapping[str, Any], channel: int, output: int, flag: int, forkserver_pid: int) -> int:
    """Carry out the order a child was forked for; its exit code. Never returns to the forkserver's code."""
    streams = _shut_in(order, output, forkserver_pid)
    line = Line(socket.socket(fileno=channel))
    if order["task"] == "describe":
        infos = [to_json(info) for info in describe(order["refs"])]
        line.send(Tag.DESCRIPTION, json.dumps(infos).encode())
        return 0
    cancel_flag = mmap.mmap(flag, mmap.PAGESIZE, access=mmap.ACCESS_READ)
    os.close(flag)
    _serve(line, cancel_flag, streams)
    return 0


def _shut_in(order: Mapping[str, Any], output: int, forkserver_pid: int) -> Streams:
    os.setsid()
    processes.signal_when_parent_dies(signal.SIGKILL)
    if os.getppid() != forkserver_pid:
        os._exit(EXIT_BROKEN)
    processes.adopt_orphans()
    processes.set_name(f"ad-{order['name']}")
    _be_first_to_go()
    os.umask(0o077)
    _be_nice(order["nice"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(order["memory_bytes"])
    streams = Streams(output)
    _reseed()
    return streams


def _be_first_to_go() -> None:
    # Only up: where the process above has a higher one already, it would else be taken in the child's place.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as score:
        if int(score.read()) < _OOM_SCORE:
            score.write(str(_OOM_SCORE).encode())


def _be_nice(nice: int) -> None:
    os.nice(nice)
    # Where the kernel groups processes by session, niceness counts within the session only; this is the session's.
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "wb") as group:
        group.write(str(nice).encode())


def _limit_memory(limit: int | None) -> None:
    """Bound what may be allocated: ``limit`` beyond what was there before the analysis ran.

    The watchdog in the parent measures what is really used; this stops an allocation that is faster than it.
    """
    if limit is None:
        return
    with open("/proc/self/status", "rb") as status:
        before = next((int(row.split()[1]) * 1024 for row in status if row.startswith(b"VmData:")), 0)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = limit + before
    resource.setrlimit(
        resource.RLIMIT_DATA, (wanted, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    )


def _reseed() -> None:
    """All children start as copies of one state; their random numbers must not be the same."""
    # The standard library's generator reseeds itself after a fork, NumPy's global one does not.
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()


def _serve(line: Line, cancel_flag: mmap.mmap, streams: Streams) -> None:
    """Make attempts until the parent hangs up."""
    footing = Footing()
    while (frame := receive(line.channel)) is not None:
        head, params = split(frame.payload)
        order = json.loads(head)
        _prepare_attempt(order, streams, footing)
        context = ChildContext(order, line, cancel_flag)
        try:
            tag, payload = _attempt(order, params, context)
        except SystemExit as exc:
            streams.flush()
            os._exit(_exit_code(exc))
        streams.flush()
        if not context.is_own_process:
            # The analysis forked, and this is the fork, which came back: it may neither answer nor take orders.
            os._exit(0 if tag is Tag.RESULT else 1)
        context.close()
        # Before the parent hears of the end: nothing that this attempt has set going may strike the next, nor what
        # its last objects do when they are let go of.
        del context
        footing.put_back()
        line.send(tag, payload)
        del payload


def _prepare_attempt(order: Mapping[str, Any], streams: Streams, footing: Footing) -> None:
    if not order["first"]:
        streams.renew()
        os.umask(0o077)
    os.chdir(order["workdir"])
    # Temporary files belong to the attempt and go with it.
    tempfile.tempdir = order["workdir"]
    footing.set_variable("TMPDIR", order["workdir"])


def _attempt(order: Mapping[str, Any], params: bytes, context: ChildContext) -> tuple[Tag, bytes]:
    """Run the analysis; the frame that ends the attempt. Raises SystemExit if the analysis does."""
    try:
        result = load(order["source"]).run(json.loads(params), context)
        data = canonical_json(result)
        limit = order["max_result_bytes"]
        if len(data) > limit:
            return _error(
                FailureCode.RESULT_TOO_LARGE,
                f"the result has {len(data)} bytes of JSON, at most {limit} are kept",
            )
        return Tag.RESULT, data
    except CancelRequested:
        return Tag.CANCELED, b""
    except MemoryError as exc:
        traceback.clear_frames(exc.__traceback__)  # they hold what filled the memory
        return Tag.ERROR, _OUT_OF_MEMORY
    except SystemExit:
        raise
    except BaseException as exc:  # noqa: BLE001  whatever an analysis raises ends its attempt, not the child's loop
        return _failure(exc)


def _failure(exc: BaseException) -> tuple[Tag, bytes]:
    if isinstance(exc, AnalysisError):
        return _error(exc.code, exc.message, again=exc.retryable, retry_after=exc.retry_after_seconds)
    if isinstance(exc, NotSerializableError):
        return _error(FailureCode.RESULT_NOT_SERIALIZABLE, f"a result has no JSON form at {exc.message}")
    if isinstance(exc, PluginError):
        return _error(FailureCode.ANALYSIS_UNAVAILABLE, exc.message)
    with contextlib.suppress(Exception):
        traceback.print_exception(exc, limit=-50, file=sys.stderr)
    return _error(FailureCode.ANALYSIS_ERROR, f"the analysis raised {_say(exc)}")


def _say(exc: BaseException) -> str:
    kind = type(exc).__name__
    try:
        text = str(exc).strip().split("\n", 1)[0]
    except Exception:  # noqa: BLE001  an exception that cannot even be printed is still only that
        text = ""
    return f"{kind}: {text[:_MAX_TEXT]}" if text else kind


def _error(code: str, message: Any, *, again: bool = False, retry_after: Any = None) -> tuple[Tag, bytes]:
    document: dict[str, Any] = {
        "code": str(code),
        "message": encodable(str(message)[:MESSAGE_LIMIT]),
        "again": bool(again),
    }
    if retry_after is not None:
        document["retry_after_seconds"] = float(retry_after)
    return Tag.ERROR, json.dumps(document).encode()


def _exit_code(exc: SystemExit) -> int:
    """What ``sys.exit`` means as an exit code, as the interpreter reads it."""
    if exc.code is None:
        return 0
    if isinstance(exc.code, int):
        return exc.code & 0xFF
    with contextlib.suppress(Exception):
        print(exc.code, file=sys.stderr, flush=True)  # noqa: T201  that is what sys.exit("text") promises
    return 1

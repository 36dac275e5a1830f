"""Peers that are asked over HTTP, by this process, as the service is: FastAPI with Celery, pygeoapi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.lab import post
from bench.load import Connection, LoadError, Request, from_python
from bench.peers import driving


@dataclass(frozen=True, slots=True)
class Local:
    """A driver in this process, asked as a program in another one is."""

    driver: driving.Driver

    def jobs(self, count: int) -> float:
        """Seconds until ``count`` jobs, submitted at once, were completed. Raises LoadError if they were not."""
        return float(str(self._answer("jobs", count)["seconds"]))

    def latency(self, count: int) -> list[float]:
        """Seconds from submit to the result, for each of ``count`` jobs."""
        took = self._answer("latency", count)["took"]
        assert isinstance(took, list)
        return took

    def _answer(self, do: str, count: int) -> dict[str, object]:
        try:
            return driving.answer(self.driver, {"do": do, "count": count})
        except RuntimeError as exc:
            raise LoadError(str(exc)) from exc


def _ask(connection: Connection, request: Request) -> Any:
    answer = connection.ask(request)
    if answer.status >= 300:
        raise LoadError(f"{request.path}: {answer.status} {answer.body[:500]!r}")
    return answer.json()


FASTAPI_SUBMIT = Request("/jobs", "POST", {"Content-Type": "application/json"}, b"{}")


@dataclass(frozen=True, slots=True)
class FastApiCelery:
    """Accepts with 202, counts what has completed, and tells each job's result."""

    port: int

    def jobs(self, count: int) -> None:
        """See driving.Driver."""
        with Connection(self.port) as connection:

            def completed() -> int:
                return int(_ask(connection, Request("/completed"))["completed"])

            before = completed()
            from_python(self.port, FASTAPI_SUBMIT, 202, connections=driving.SUBMITTERS, count=count)
            driving.until(lambda: completed() - before >= count)

    def one(self) -> None:
        """See driving.Driver."""
        with Connection(self.port) as connection:
            job = Request(f"/jobs/{_ask(connection, FASTAPI_SUBMIT)['id']}")
            told: dict[str, Any] = {}

            def finished() -> bool:
                told.update(_ask(connection, job))
                return bool(told["state"] == "SUCCESS")

            driving.until(finished, driving.GLANCE_SECONDS)
            driving.check(told["result"])


PYGEOAPI_PROCESS = "bench-noop"
PYGEOAPI_SUBMIT = post({"inputs": {}}, Prefer="respond-async")
_EXECUTION = f"/processes/{PYGEOAPI_PROCESS}/execution"


@dataclass(frozen=True, slots=True)
class Pygeoapi:
    """Accepts with 201 and the address of the job."""

    port: int

    @property
    def submit(self) -> Request:
        """An execution that the answer does not wait for."""
        asked = PYGEOAPI_SUBMIT
        return Request(_EXECUTION, asked.method, asked.headers, asked.body)

    def jobs(self, count: int) -> None:
        """See driving.Driver."""
        with Connection(self.port) as connection:
            before = self._completed(connection)
            from_python(self.port, self.submit, 201, connections=driving.SUBMITTERS, count=count)
            driving.until(lambda: self._completed(connection) - before >= count, 0.1)

    def one(self) -> None:
        """See driving.Driver."""
        with Connection(self.port) as connection:
            answer = connection.ask(self.submit)
            if answer.status != 201:
                raise LoadError(f"{_EXECUTION}: {answer.status} {answer.body[:500]!r}")
            path = "/jobs/" + answer.headers["location"].rpartition("/")[2]
            driving.until(
                lambda: bool(_ask(connection, Request(f"{path}?f=json"))["status"] == "successful"),
                driving.GLANCE_SECONDS,
            )
            driving.check(_ask(connection, Request(f"{path}/results?f=json"))["value"])

    def _completed(self, connection: Connection) -> int:
        listed = _ask(connection, Request("/jobs?f=json&limit=100000"))["jobs"]
        return sum(job["status"] == "successful" for job in listed)

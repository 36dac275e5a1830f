"""Asks a server single questions over HTTP and reports the bare answers: whatever comes back is a fact, no error.

For checks and triage, which want to see a refusal as it is; programs use ``client``. Imports httpx2 only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx2

# Far beyond the largest result that is allowed by default.
_LARGEST_BYTES = 256 * 2**20
# The patience with one answer is that with its beginning and with each piece; so often as much with all of it, as a
# large result may come over a slow line.
_WHOLE = 4
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class UnreachableError(Exception):
    """No answer: the server is not there, or took too long; one line.

    refused   nobody listens there; otherwise somebody does, and does not answer as it should
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    asked     method and path
    body      the parsed JSON object; empty if the answer has none
    seconds   from the question to the end of the answer
    """

    asked: str
    status: int
    body: Mapping[str, Any]
    seconds: float
    request_id: str | None = None
    text: str = field(default="", repr=False)

    @property
    def code(self) -> str:
        """The error code of a refusal; empty otherwise."""
        return str(self.body.get("code") or "")

    def said(self) -> str:
        """One line on a refusal: question, status, code, message, and the request's name in the server's log."""
        what = f"{self.asked} answers {self.status}"
        if self.code:
            what += f" {self.code}: {str(self.body.get('message'))[:200]}"
        elif self.status >= 400:
            what += ", and not as this service would"
        return f"{what} (request {self.request_id})" if self.request_id else what


class Probe:
    """Asks one server. Not to be shared between threads. A context manager."""

    def __init__(
        self, base_url: str, headers: Sequence[tuple[str, str]] = (), *, timeout_seconds: float = 10.0
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout_seconds = timeout_seconds
        self._headers = [*headers, ("User-Agent", "async-delivery-probe")]
        self._client: httpx2.Client | None = None

    @property
    def _http(self) -> httpx2.Client:
        """Made with the first question: what is wrong with the environment is a fact, too. Raises UnreachableError."""
        if self._client is None:
            host = urlsplit(self.base_url).hostname or ""
            try:
                self._client = httpx2.Client(
                    base_url=self.base_url,
                    headers=self._headers,
                    # A proxy of the environment is for other machines: one's own server is asked directly.
                    trust_env=host not in _LOOPBACK,
                    timeout=httpx2.Timeout(self.timeout_seconds, connect=min(5.0, self.timeout_seconds)),
                )
            except (ValueError, ImportError, OSError, httpx2.InvalidURL) as exc:
                # Without what the library says: it may quote the proxy, and with it a password.
                raise UnreachableError(
                    f"{shown_url(self.base_url)} cannot be asked: a proxy or a file of certificates that the"
                    f" environment names cannot be used ({type(exc).__name__}; see HTTP_PROXY, HTTPS_PROXY,"
                    " ALL_PROXY, SSL_CERT_FILE)"
                ) from exc
        return self._client

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            self._client.close()

    def get(
        self, path: str, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer, whatever it is. Raises UnreachableError."""
        return self._ask("GET", path, params=dict(params or {}), headers=dict(headers or {}))

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """The answer to a POST. Raises UnreachableError."""
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **more: Any) -> Answer:
        began = perf_counter()
        shown = shown_url(self.base_url)
        try:
            with self._http.stream(method, path, **more) as got:
                content = self._read(got, began, f"{shown}{path}")
        except httpx2.ConnectError as exc:
            message = f"no server answers at {shown} ({_first_line(exc)})"
            raise UnreachableError(message, refused=True) from exc
        except httpx2.TimeoutException as exc:
            raise UnreachableError(f"{shown}{path} did not answer in {self.timeout_seconds:g} s") from exc
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise UnreachableError(f"{shown}{path}: {_first_line(exc)}") from exc
        return Answer(
            f"{method} {path}",
            got.status_code,
            _object(content),
            perf_counter() - began,
            got.headers.get("X-Request-Id"),
            content.decode("utf-8", "replace"),
        )

    def _read(self, got: httpx2.Response, began: float, asked: str) -> bytes:
        """All of the answer. A foreign server may never end."""
        content = bytearray()
        for piece in got.iter_bytes():
            content += piece
            if len(content) > _LARGEST_BYTES:
                raise UnreachableError(f"{asked} answers more than {_LARGEST_BYTES // 2**20} MiB")
            if perf_counter() - began > _WHOLE * self.timeout_seconds:
                raise UnreachableError(f"{asked} did not end in {_WHOLE * self.timeout_seconds:g} s")
        return bytes(content)


def not_ready(answer: Answer) -> list[str]:
    """What a ``/health/ready`` names as missing, one line each; nothing if all that is required is well."""
    checks = answer.body.get("checks")
    listed = [each for each in checks if isinstance(each, dict)] if isinstance(checks, list) else []
    return [
        f"{each.get('name')}: {each.get('detail')}"
        for each in listed
        if each.get("ok") is False and each.get("required") is not False
    ]


def segment(text: str) -> str:
    """One segment of a path: an id that came from a person may hold anything, and ``..`` must not lead away."""
    return quote(text, safe="").replace(".", "%2E") if set(text) == {"."} else quote(text, safe="")


def shown_url(url: str) -> str:
    """``url`` without a user and password in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _first_line(exc: Exception) -> str:
    lines = str(exc).splitlines()
    return lines[0] if lines else type(exc).__name__

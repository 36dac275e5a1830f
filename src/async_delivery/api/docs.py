"""The page that shows the OpenAPI file, with everything it needs served from here."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

STATIC = Path(__file__).with_name("static")

_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Async Delivery: HTTP API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/static/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript. The same in one file: <a href="/openapi.json">/openapi.json</a></noscript>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script src="/docs/static/start.js"></script>
</body>
</html>
"""

# Swagger UI needs no inline script; its icons are data: images in its style sheet.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFETY = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


async def docs_page(request: Request) -> Response:
    """The page."""
    headers = {**_SAFETY, "cache-control": "no-cache"}
    return Response(_PAGE, media_type="text/html; charset=utf-8", headers=headers)


async def static_file(request: Request, name: str) -> Response:
    """One of the page's files, from the package."""
    files: dict[str, tuple[bytes, str]] = request.app.state.static
    if name not in files:
        raise HTTPException(404)
    data, etag = files[name]
    headers = {**_SAFETY, "cache-control": "no-cache", "etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=_TYPES[Path(name).suffix], headers=headers)


def load_static() -> dict[str, tuple[bytes, str]]:
    """The files by name, each with its tag; what is not among them is not served."""
    found = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in _TYPES:
            data = path.read_bytes()
            found[path.name] = (data, f'"{sha256(data).hexdigest()[:32]}"')
    return found

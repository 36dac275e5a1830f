"""A process of pygeoapi that does nothing and returns 4 KiB, and its configuration.

``main`` writes the configuration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.peers import driving

NAME = "bench-noop"
METADATA = {
    "version": "1",
    "id": NAME,
    "title": {"en": "Nothing"},
    "description": {"en": "Nothing, with a result of 4 KiB"},
    "jobControlOptions": ["sync-execute", "async-execute"],
    "keywords": ["none"],
    "links": [],
    "inputs": {},
    "outputs": {
        "value": {"title": "value", "schema": {"type": "object", "contentMediaType": "application/json"}}
    },
    "example": {"inputs": {}},
}


def processor() -> Any:
    """The class, whose base is only there in the peer's environment."""
    from pygeoapi.process.base import BaseProcessor  # type: ignore[import-not-found]

    class Noop(BaseProcessor):  # type: ignore[misc]
        """As pygeoapi's own example is."""

        def __init__(self, definition: dict[str, Any]) -> None:
            super().__init__(definition, METADATA)
            self.supports_outputs = True

        def execute(self, data: object, outputs: object = None) -> tuple[str, dict[str, str]]:
            """The media type and the result."""
            return "application/json", {"id": "value", "value": driving.result()}

    return Noop


def configuration(port: int, folder: Path) -> dict[str, Any]:
    """The least that pygeoapi starts with; jobs in its TinyDB, outputs in files."""
    return {
        "server": {
            "bind": {"host": "127.0.0.1", "port": port},
            "url": f"http://127.0.0.1:{port}",
            "mimetype": "application/json; charset=UTF-8",
            "encoding": "utf-8",
            "gzip": False,
            "languages": ["en-US"],
            "cors": False,
            "pretty_print": False,
            "limits": {"default_items": 10, "max_items": 100_000},
            "map": {"url": "http://127.0.0.1/none", "attribution": "none"},
            "manager": {
                "name": "TinyDB",
                "connection": str(folder / "jobs.db"),
                "output_dir": str(folder / "outputs"),
            },
        },
        "logging": {"level": "ERROR"},
        "metadata": {
            "identification": {
                "title": {"en": "bench"},
                "description": {"en": "bench"},
                "keywords": {"en": ["bench"]},
                "keywords_type": "theme",
                "terms_of_service": "none",
                "url": "http://127.0.0.1",
            },
            "license": {"name": "none", "url": "http://127.0.0.1"},
            "provider": {"name": "bench", "url": "http://127.0.0.1"},
            "contact": {"name": "bench"},
        },
        "resources": {
            NAME: {"type": "process", "processor": {"name": "bench.peers.programs.pygeoapi_noop.Noop"}},
        },
    }


def __getattr__(name: str) -> Any:
    # pygeoapi asks for the class by its name.
    if name == "Noop":
        return processor()
    raise AttributeError(name)


def main(port: str, folder: str) -> None:
    """Write the configuration."""
    target = Path(folder)
    (target / "outputs").mkdir()
    # Every JSON document is YAML.
    (target / "config.yml").write_text(json.dumps(configuration(int(port), target)), encoding="utf-8")

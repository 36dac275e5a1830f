"""The analyses on offer, and whether params fit them. Holds descriptions only: plug-in code is never imported here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema_rs import Draft202012Validator

from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.errors import FieldIssue, NotFoundError

# So that one absurd request cannot make an absurd answer.
MAX_ISSUES = 50


class Catalogue:
    """The analyses by name, each with its params schema compiled once."""

    def __init__(self, infos: Iterable[AnalysisInfo]) -> None:
        self._infos = {info.name: info for info in sorted(infos, key=lambda info: info.name)}
        self._validators = {
            name: Draft202012Validator(dict(info.params_schema), validate_formats=True)
            for name, info in self._infos.items()
            if info.available
        }

    def __iter__(self) -> Any:
        return iter(self._infos.values())

    def names(self) -> list[str]:
        """Sorted."""
        return list(self._infos)

    def find(self, name: str) -> AnalysisInfo | None:
        """The description, or None."""
        return self._infos.get(name)

    def get(self, name: str) -> AnalysisInfo:
        """The description. Raises NotFoundError."""
        info = self._infos.get(name)
        if info is None:
            raise NotFoundError("analysis")
        return info

    def issues(self, name: str, params: Mapping[str, Any]) -> list[FieldIssue]:
        """Every fault of ``params`` against the schema of an available analysis, at most MAX_ISSUES."""
        validator = self._validators[name]
        if validator.is_valid(params):
            return []
        found = []
        for error in validator.iter_errors(params):
            path = "".join(
                f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path
            )
            found.append(FieldIssue(f"params{path}", error.message[:300]))
            if len(found) == MAX_ISSUES:
                break
        return sorted(set(found), key=lambda issue: (issue.field, issue.issue))

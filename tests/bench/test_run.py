"""A whole run takes hours and nobody watches it: what goes wrong must cost no more than itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.figures import Figure, Sense
from bench.lab import Lab
from bench.load import LoadError


def measured(lab: Lab) -> list[Figure]:
    (lab.folder("left") / "behind").write_text("x" * 100)
    return [Figure("job status", "/s", Sense.RATE, (50.0,), "as stated", (100.0,))]


def broken(lab: Lab) -> list[Figure]:
    raise LoadError("the server did not come up")


def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, **groups: Callable[[Lab], list[Figure]]
) -> int:
    monkeypatch.setattr(command, "_GROUPS", groups)
    monkeypatch.setattr(command, "_WHEN_ASKED", ("growth",))
    scratch = ["--scratch", str(tmp_path / "scratch"), "--json", str(tmp_path / "run.json")]
    monkeypatch.setattr(sys, "argv", ["bench", *scratch, *arguments])
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)  # type: ignore[attr-defined]
    return command.main()


def test_a_group_that_fails_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"

    code = run(monkeypatch, tmp_path, "--markdown", str(page), submits=broken, reads=measured)

    assert code == 1
    kept = json.loads((tmp_path / "run.json").read_text())
    assert kept["not_measured"] == {"the group submits": "failed: LoadError: the server did not come up"}
    assert [figure["name"] for figure in kept["figures"]] == ["job status"]
    assert set(kept["run"]["group_seconds"]) == {"submits", "reads"}
    for text in (capsys.readouterr().out, page.read_text()):
        assert "| job status" in text
        assert "not measured: the group submits: failed" in text
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_was_measured_before_a_stop_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(lab: Lab) -> list[Figure]:
        raise KeyboardInterrupt

    code = run(monkeypatch, tmp_path, reads=measured, throughput=stopped)

    assert code == 1
    kept = json.loads((tmp_path / "run.json").read_text())
    assert [figure["name"] for figure in kept["figures"]] == ["job status"]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), {"reads"}), (("--all",), {"reads", "growth"}), (("--only", "growth"), {"growth"})],
)
def test_the_long_groups_run_when_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], expected: set[str]
) -> None:
    assert run(monkeypatch, tmp_path, *arguments, reads=measured, growth=measured) == 0

    assert set(json.loads((tmp_path / "run.json").read_text())["run"]["group_seconds"]) == expected


def test_all_of_them_and_some_of_them_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, tmp_path, "--all", "--only", "reads", reads=measured)

    assert ended.value.code == 2


def test_the_readme_has_a_line_for_every_group() -> None:
    text = Path(command.__file__).with_name("README.md").read_text(encoding="utf-8")

    for name in command._GROUPS:
        star = " *" if name in command._WHEN_ASKED else ""
        assert f"| `{name}`{star} |" in text

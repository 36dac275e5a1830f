"""The how-to and the example say the same, and both run."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from async_delivery import plugins
from async_delivery.plugins import Context, analysis, describe

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "word_count"
HOWTO = (ROOT / "docs" / "howto" / "write-an-analysis.md").read_text(encoding="utf-8")


def code_blocks() -> dict[str, str]:
    """File name → content of each Python block of the how-to; the first line names the file."""
    return dict(re.findall(r"```python\n# (\S+)\n(.*?)```", HOWTO, flags=re.DOTALL))


@pytest.mark.parametrize("name", ["word_count.py", "test_word_count.py"])
def test_the_code_of_the_howto_is_the_example(name: str) -> None:
    assert code_blocks()[name] == (EXAMPLE / name).read_text(encoding="utf-8")


def test_the_howtos_own_tests_pass(tmp_path: Path) -> None:
    for name, content in code_blocks().items():
        (tmp_path / name).write_text(content, encoding="utf-8")

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "test_word_count.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_examples_entry_point_names_its_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    refs = project["entry-points"][plugins.ENTRY_POINT_GROUP]

    (info,) = describe(refs)

    assert info.available, info.unavailable_reason
    assert info.params_schema["properties"]["top"]["default"] == 10
    for part in (f"{name} = {ref!r}".replace("'", '"') for name, ref in refs.items()):
        assert part in HOWTO


def test_the_howto_lists_all_of_the_context_and_nothing_else() -> None:
    listed = set(
        re.findall(r"`context\.(\w+)", HOWTO.split("## What the function is given")[1].split("##")[0])
    )

    assert listed == {name for name in vars(Context) if not name.startswith("_")}


def test_the_howto_lists_every_setting_of_the_decorator() -> None:
    listed = set(
        re.findall(
            r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", HOWTO.split("## Limits")[1], re.MULTILINE))
        )
    )
    settings = set(inspect.signature(analysis).parameters) - {"name", "version", "title", "description"}

    assert listed == settings


def test_the_howto_names_every_error_an_analysis_may_raise() -> None:
    errors = {
        name
        for name in plugins.__all__
        if isinstance(kind := getattr(plugins, name), type) and issubclass(kind, plugins.AnalysisError)
    }

    assert errors == set(re.findall(r"^\| `(\w+Error)\(", HOWTO, re.MULTILINE))

"""docs/reference/settings.md and command-line.md say what the code has, and the code has what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from async_delivery.cli import app, process
from async_delivery.domain.retention import ExitCode, RetentionPolicy, RetentionReport, SectionCount
from async_delivery.settings import (
    BASE_URL_VARIABLE,
    CONFIG_VARIABLE,
    ORG_VARIABLE,
    SETTINGS,
    Settings,
    load,
)
from scripts import generate_reference
from tests.docs.pages import ROOT, code, fences, read, rows, section
from tests.domain.support import NOON

SETTINGS_PAGE, COMMANDS_PAGE = "docs/reference/settings.md", "docs/reference/command-line.md"
COMMANDS = generate_reference.commands()


# ---------------------------------------------------------------- the generated parts


@pytest.mark.parametrize("name", ["settings.md", "command-line.md"])
def test_a_page_is_what_the_generator_makes_of_the_code(name: str) -> None:
    page = read(f"docs/reference/{name}")

    assert generate_reference.fill(page, generate_reference.pages()[name]) == page


def test_the_generator_notices_a_page_that_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (SETTINGS_PAGE, COMMANDS_PAGE):
        (tmp_path / Path(page).name).write_text(read(page).replace("`--store-file", "`--stored-file"))
    monkeypatch.setattr(generate_reference, "FOLDER", tmp_path)

    assert generate_reference.main(["--check"]) == 1
    assert generate_reference.main([]) == 0

    assert [(tmp_path / Path(page).name).read_text() for page in (SETTINGS_PAGE, COMMANDS_PAGE)] == [
        read(SETTINGS_PAGE),
        read(COMMANDS_PAGE),
    ]
    assert generate_reference.main(["--check"]) == 0


def test_the_generator_refuses_a_page_that_lost_a_part() -> None:
    with pytest.raises(ValueError, match="settings"):
        generate_reference.fill("# Settings\n", {"settings": ""})


def test_the_generator_runs_from_the_checkout() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- settings, both ways


def test_the_settings_that_are_listed_are_the_settings_there_are() -> None:
    listed = [code(row[0])[0] for row in rows(section(read(SETTINGS_PAGE), "The settings"))]

    assert sorted(listed) == sorted(field.name for field in fields(Settings))


def test_a_listed_default_is_what_a_process_without_settings_has(tmp_path: Path) -> None:
    settings = load({}, {}, cwd=tmp_path).settings
    listed = {code(row[0])[0]: code(row[3]) for row in rows(section(read(SETTINGS_PAGE), "The settings"))}
    by_name = {setting.name: setting for setting in SETTINGS}

    for name, literal in listed.items():
        if literal:
            assert by_name[name].parse(literal[0]) == getattr(settings, name), name
        else:
            assert getattr(settings, name) in (None, ()) or name == "slots"


def test_serve_has_a_flag_for_every_setting_and_no_other() -> None:
    flags = {flag for param in COMMANDS["serve"].params for flag in param.opts}

    assert flags == {setting.flag for setting in SETTINGS} | {"--config"}


def test_the_example_file_is_one_that_would_be_taken(tmp_path: Path) -> None:
    (example,) = [fence for fence in fences(read(SETTINGS_PAGE)) if fence.language == "toml"]
    file = tmp_path / "async-delivery.toml"
    file.write_text(example.text)

    settings = load({}, {}, config_file=str(file)).settings

    assert settings.results_ttl_seconds == 30 * 86_400
    assert settings.store_file == tmp_path / "runtime/async_jobs/store.v1.json"


def test_the_other_variables_are_listed() -> None:
    listed = {code(row[0])[0] for row in rows(section(read(SETTINGS_PAGE), "Other variables"))}

    assert listed == {BASE_URL_VARIABLE, CONFIG_VARIABLE, ORG_VARIABLE}


def test_every_setting_does_something() -> None:
    """A setting that only exists in the table would promise what nothing keeps."""
    code_that_uses = "".join(
        path.read_text()
        for folder in ("wiring", "cli")
        for path in (ROOT / "src/async_delivery" / folder).glob("*.py")
    )

    unused = [each.name for each in SETTINGS if not re.search(rf"settings\.{each.name}\b", code_that_uses)]

    assert unused == []


# ---------------------------------------------------------------- commands, both ways


def headings() -> list[str]:
    return re.findall(r"^### async-delivery (.+)$", read(COMMANDS_PAGE), flags=re.MULTILINE)


def test_the_commands_that_are_described_are_the_commands_there_are() -> None:
    assert sorted(headings()) == sorted(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS)
def test_the_options_that_are_listed_are_the_options_there_are(words: str) -> None:
    text = section(read(COMMANDS_PAGE), f"async-delivery {words}")
    listed = {
        flag
        for row in rows(text)
        if (cells := code(row[0]))
        for flag in re.findall(r"(?<!\S)--[a-z-]+", cells[0])
    }

    options = [param for param in COMMANDS[words].params if isinstance(param, click.Option)]

    assert listed == {flag for option in options for flag in (*option.opts, *option.secondary_opts)}


def test_the_exit_codes_are_the_ones_that_are_used() -> None:
    listed = {int(row[0]) for row in rows(section(read(COMMANDS_PAGE), "Exit codes"))}
    cleanup = {
        int(row[0])
        for row in rows(section(read(COMMANDS_PAGE), "async-delivery cleanup"))
        if row[0].isdigit()
    }

    assert listed == {
        app.DONE,
        app.FAILED,
        app.WRONG_USAGE,
        process.INTERRUPTED,
        app.PIPE_CLOSED,
        process.TERMINATED,
    }
    assert cleanup == {int(exit_code) for exit_code in ExitCode}


def test_the_fields_of_the_report_are_listed() -> None:
    report = RetentionReport(
        "s", RetentionPolicy(), False, NOON, NOON, NOON, 0, 0, SectionCount(), SectionCount()
    )
    written = report.to_json()
    listed = set(
        code(section(read(COMMANDS_PAGE), "The cleanup script").partition("The fields of the report")[2])
    )

    assert listed == set(written) | set(written["results"])

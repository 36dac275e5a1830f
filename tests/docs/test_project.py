"""The checkout itself: what it pins, what it ships, what it must not carry, and that its rules bind."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import async_delivery

ROOT = Path(__file__).resolve().parents[2]
PINNED = ("base", "build", "otel", "profile", "postgres", "ray", "dev")
MAXIMUM_DIRECT_DEPENDENCIES = 15


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Every path that git tracks or would track, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    assert listing.returncode == 0, listing.stderr
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def run(
    *command: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


def tool(name: str) -> str:
    """The tool of the environment that runs the tests, whatever is on the PATH."""
    return str(Path(sys.executable).parent / name)


def pins(name: str) -> dict[str, tuple[str, int]]:
    """Name -> (version, number of hashes) of one requirements file."""
    found: dict[str, tuple[str, int]] = {}
    for entry in re.split(
        r"^(?=[a-zA-Z0-9])", (ROOT / "requirements" / f"{name}.txt").read_text(), flags=re.MULTILINE
    ):
        if not entry:
            continue
        pin = re.match(r"([a-z0-9-]+)==([^\s;\\]+)", entry)
        assert pin, f"requirements/{name}.txt pins no exact version in: {entry.splitlines()[0]}"
        found[pin[1]] = (pin[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)))
    return found


# ---------------------------------------------------------------- dependencies


def test_a_base_install_has_at_most_fifteen_direct_dependencies(project: dict[str, Any]) -> None:
    assert 0 < len(project["project"]["dependencies"]) <= MAXIMUM_DIRECT_DEPENDENCIES


@pytest.mark.parametrize("name", PINNED)
def test_every_pinned_requirement_carries_a_hash(name: str) -> None:
    assert pins(name)
    assert [requirement for requirement, (_, hashes) in pins(name).items() if not hashes] == []


@pytest.mark.parametrize("name", PINNED)
def test_requirements_name_no_address_and_no_folder(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()

    assert (
        re.findall(r"\w+://\S*|(?<![\w.])/\S+|--(?:extra-)?index-url|--find-links|--trusted-host", text) == []
    )


@pytest.mark.parametrize("name", PINNED)
def test_every_direct_dependency_is_pinned_within_its_range(project: dict[str, Any], name: str) -> None:
    wanted = list(project["project"]["dependencies"])
    if name == "build":
        wanted = project["dependency-groups"]["build"]
    elif name in {"otel", "profile", "postgres", "ray"}:
        wanted += project["project"]["optional-dependencies"][name]
    elif name == "dev":
        extras = project["project"]["optional-dependencies"]
        # Ray is as large as all the rest; only what needs it installs it.
        wanted += [each for extra in extras if extra != "ray" for each in extras[extra]]
        wanted += project["dependency-groups"]["build"] + project["build-system"]["requires"]
    pinned = pins(name)

    for requirement in map(Requirement, wanted):
        if requirement.name != project["project"]["name"]:
            assert requirement.name in pinned, f"make requirements: {requirement} is missing"
            assert requirement.specifier.contains(pinned[requirement.name][0], prereleases=True), requirement


@pytest.mark.parametrize("name", ["base", "build", "otel", "profile", "postgres"])
def test_what_is_tested_is_what_is_installed_in_production(name: str) -> None:
    tested = pins("dev")

    assert {k: v for k, v in pins(name).items() if tested.get(k) != v} == {}


def test_ray_is_tested_with_the_versions_of_all_the_rest() -> None:
    tested, with_ray = pins("dev"), pins("ray")

    assert {k: v for k, v in with_ray.items() if k in tested and tested[k] != v} == {}


# ---------------------------------------------------------------- what the checkout carries


def test_the_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", changelog, flags=re.MULTILINE)
    released = [Version(version) for version, _ in headings[1:]]

    assert importlib.metadata.version("async-delivery") == async_delivery.__version__
    assert headings[0] == ("Unreleased", "")
    assert all(date for _, date in headings[1:])
    assert released == sorted(released, reverse=True)
    assert all(version <= Version(async_delivery.__version__) for version in released)


def test_the_package_says_that_it_is_typed_and_licensed() -> None:
    assert (ROOT / "src/async_delivery/py.typed").is_file()
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_check_script_can_be_executed() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert run("bash", "-n", ".ci/run", cwd=ROOT).returncode == 0


def test_no_lock_file_that_names_a_registry_is_in_the_checkout(tracked: list[str]) -> None:
    locks = {"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock"}

    assert [name for name in tracked if Path(name).name in locks] == []


def test_no_file_names_somebodys_home_folder(tracked: list[str]) -> None:
    # Written apart, so that this file does not find itself.
    home = re.compile(rb"(?<![\w.$}<-])/(?:ro" + rb"ot|ho" + rb"me/[a-z]|Use" + rb"rs/[A-Za-z])")

    assert tracked
    assert [name for name in tracked if home.search((ROOT / name).read_bytes())] == []


def test_make_lists_every_command_it_has() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)
    assert phony

    listed = run("make", "--no-print-directory", cwd=ROOT).stdout

    assert re.findall(r"^  make (\S+)", listed, flags=re.MULTILINE) == phony[1].split()


# ---------------------------------------------------------------- the floors bind

DOWN = "Imports only go down"
STANDARD_LIBRARY = "The domain needs the standard library only"
ONE_ROOM_FOR_SQL = "Only storage speaks to a database"
WIRING_PICKS = "Only wiring picks a database"
PROMISES = "Use cases know the store's promises, not a store"
HTTP_AND_PROCESSES = "HTTP and the worker processes meet in wiring only"
GUESTS = "Built-in analyses use what every author of an analysis has"

# One line each, planted in a module of its own: the importing room, what it imports, who must object.
BREACHES = [
    ("domain", "async_delivery.api.app", DOWN),
    ("domain", "async_delivery.storage.contract", DOWN),
    ("storage", "async_delivery.engine.jobs", DOWN),
    ("engine", "async_delivery.worker.slot", DOWN),
    ("notifications", "async_delivery.ops.health", DOWN),
    ("api", "async_delivery.worker.slot", HTTP_AND_PROCESSES),
    ("api", "async_delivery.wiring", DOWN),
    ("domain", "orjson", STANDARD_LIBRARY),
    ("domain", "subprocess", STANDARD_LIBRARY),
    ("engine", "sqlalchemy", ONE_ROOM_FOR_SQL),
    ("cli", "sqlite3", ONE_ROOM_FOR_SQL),
    ("ops", "psycopg", ONE_ROOM_FOR_SQL),
    ("cli", "async_delivery.storage.sqlite", WIRING_PICKS),
    ("engine", "async_delivery.storage.rows", PROMISES),
    ("analyses", "async_delivery.storage.contract", GUESTS),
    ("analyses", "async_delivery.telemetry", GUESTS),
]
ROOM_WITHOUT_A_FLOOR = "utils"


@pytest.fixture(scope="module")
def objections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each contract says of a copy of the package in which every breach is planted."""
    copy = tmp_path_factory.mktemp("house")
    package = copy / "src/async_delivery"
    shutil.copytree(ROOT / "src/async_delivery", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for number, (room, imported, _) in enumerate(BREACHES):
        plant(package / room / f"planted_{number}.py", f"import {imported}\n")
        if imported.startswith("async_delivery."):
            target = package.joinpath(*imported.split(".")[1:])
            if not target.is_dir() and not target.with_suffix(".py").exists():
                plant(target.with_suffix(".py"), "")
    plant(package / f"{ROOM_WITHOUT_A_FLOOR}.py", "")

    linted = run(
        *(tool("lint-imports"), "--no-logo", "--no-cache"),
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src")},
    )

    assert linted.returncode == 1, linted.stdout + linted.stderr
    said = linted.stdout.partition("Broken contracts")[2]
    parts = re.split(r"^(\w.*)\n-{3,}$", said, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def plant(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(text)


@pytest.mark.parametrize(
    ("number", "contract"), [pytest.param(n, c, id=f"{r}-{i}") for n, (r, i, c) in enumerate(BREACHES)]
)
def test_a_planted_breach_of_the_floors_is_caught(
    objections: dict[str, str], number: int, contract: str
) -> None:
    room, imported, _ = BREACHES[number]

    assert f"async_delivery.{room}.planted_{number} -> {imported} (l.1)" in objections[contract]


def test_a_new_room_must_be_given_its_floor(objections: dict[str, str]) -> None:
    assert f"- async_delivery.{ROOM_WITHOUT_A_FLOOR}\n" in objections[DOWN]


def test_no_library_of_the_project_is_open_to_the_domain(project: dict[str, Any]) -> None:
    wanted = project["project"]["dependencies"] + [
        d for extra in ("profile", "postgres") for d in project["project"]["optional-dependencies"][extra]
    ]
    contract = next(
        c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "domain-stands-alone"
    )

    imported_as = {Requirement(d).name.replace("-", "_") for d in wanted}

    assert imported_as - set(contract["forbidden_modules"]) == set()


@pytest.mark.parametrize("floor", ["domain", "storage"])
@pytest.mark.parametrize(
    "line",
    [
        "import datetime\n\nNOW = datetime.datetime.now(datetime.UTC)",
        "from datetime import UTC, datetime\n\nNOW = datetime.now(UTC)",
        "import time\n\nNOW = time.time()",
        "import random\n\nJITTER = random.random()",
        "from secrets import token_hex\n\nTOKEN = token_hex(8)",
        "import uuid\n\nJOB_ID = uuid.uuid4()",
    ],
)
def test_the_clock_and_chance_are_banned_below_the_engine(floor: str, line: str) -> None:
    text = f'"""Planted."""\n\n{line}\n'

    below = ruff_findings(f"src/async_delivery/{floor}/deep/planted.py", text)
    above = ruff_findings("src/async_delivery/worker/planted.py", text)

    assert below == {"TID251"}
    assert above == set()


def ruff_findings(path: str, text: str) -> set[str]:
    """The codes ruff gives to ``text`` as if it stood at ``path`` in the checkout."""
    found = run(
        *(tool("ruff"), "check", "--no-cache", "--output-format=concise", f"--stdin-filename={path}", "-"),
        cwd=ROOT,
        stdin=text,
    )
    assert found.returncode in {0, 1}, found.stderr
    return set(re.findall(r"^\S+:\d+:\d+: ([A-Z]+\d+)", found.stdout, flags=re.MULTILINE))


# ---------------------------------------------------------------- nothing is skipped unseen


@pytest.mark.parametrize(
    ("ci", "closing"),
    [("true", "1 failed, 1 passed, 1 xfailed, 2 errors"), ("", "1 passed, 3 skipped, 1 xfailed")],
)
def test_a_skipped_test_is_a_failure_in_ci(tmp_path: Path, ci: str, closing: str) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_planted.py").write_text(
        "import pytest\n\n"
        "def test_runs(): pass\n\n"
        "@pytest.mark.skip(reason='no server')\ndef test_is_skipped(): pass\n\n"
        "def test_skips_itself(): pytest.skip('no server')\n\n"
        "@pytest.mark.xfail\ndef test_is_known_to_fail(): raise ValueError\n"
    )
    (tmp_path / "test_absent.py").write_text("import pytest\n\npytest.importorskip('no_such_library')\n")

    tested = run(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors"),
        str(tmp_path),
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
    )

    assert closing in tested.stdout.splitlines()[-1], tested.stdout

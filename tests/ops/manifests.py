"""What deploy/ says, read as data: Kubernetes objects, Compose services, and every process that any of them starts."""

from __future__ import annotations

import configparser
import dataclasses
import importlib
import json
import shlex
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import yaml

from async_delivery.cli.app import cli
from async_delivery.cli.worker import DEFAULTS as WORKER_DEFAULTS
from async_delivery.domain.duration import parse_duration
from async_delivery.settings import Settings, load
from tests.docs.pages import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = DEPLOY / "compose/compose.yaml"
DOCKERFILE = DEPLOY / "image/Dockerfile"
SYSTEMD = DEPLOY / "systemd"
INSTALLED = "/opt/async-delivery"

Object = dict[str, Any]


# ---------------------------------------------------------------- Kubernetes
def objects(folder: str) -> list[Object]:
    """The objects of a kustomization's own files, in the order of its list."""
    listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    files = [KUBERNETES / folder / name for name in listed if name.endswith(".yaml")]
    return [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]


def the(kind: str, name: str) -> Object:
    """One object of the base."""
    (found,) = [each for each in objects("base") if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod_of(workload: Object) -> Object:
    """The pod template of a Deployment or a CronJob."""
    spec: Object = workload["spec"]
    template: Object = (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]
    return template


def workloads() -> list[Object]:
    """Everything that makes pods."""
    return [each for each in objects("base") if each["kind"] in {"Deployment", "CronJob"}]


def _model(name: str, version: str) -> Any:
    if "lightkube.core.schema" not in sys.modules:
        # The models want the base class of a client that is not installed; plain dataclasses do as well.
        schema = types.ModuleType("lightkube.core.schema")
        schema.__dict__.update(DictMixin=object, dataclass=dataclasses.dataclass, field=dataclasses.field)
        sys.modules["lightkube.core"] = types.ModuleType("lightkube.core")
        sys.modules["lightkube.core.schema"] = schema
    group, _, release = version.rpartition("/")
    module = f"{group.partition('.')[0] or 'core'}_{release}"
    return getattr(importlib.import_module(f"lightkube.models.{module}"), name)


def kubernetes_faults(found: Object) -> list[str]:
    """What Kubernetes' own OpenAPI has against an object: unknown and missing fields, values of another type."""
    return list(_faults(found, _model(found["kind"], found["apiVersion"]), found["kind"]))


def _faults(value: Any, wanted: Any, where: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Union:
        choices = [each for each in arguments if each is not type(None)]
        answers = [list(_faults(value, each, where)) for each in choices]
        yield from min(answers, key=len)
    elif wanted is Any:
        return
    elif dataclasses.is_dataclass(wanted):
        yield from _object_faults(value, wanted, where)
    elif origin is list and isinstance(value, list):
        for number, each in enumerate(value):
            yield from _faults(each, arguments[0], f"{where}[{number}]")
    elif origin is dict and isinstance(value, dict):
        for key, each in value.items():
            yield from _faults(key, arguments[0], f"{where}.{key}")
            yield from _faults(each, arguments[1], f"{where}.{key}")
    elif type(value) is not (origin or wanted):
        yield f"{where}: {value!r} is not {wanted}"


def _object_faults(value: Any, wanted: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no object"
        return
    hints = typing.get_type_hints(wanted, vars(sys.modules[wanted.__module__]))
    fields = {each.metadata.get("json", each.name): each for each in dataclasses.fields(wanted)}
    for name, each in fields.items():
        optional = each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        if name not in value and not optional:
            yield f"{where}.{name}: is missing"
    for name, given in value.items():
        if name not in fields:
            yield f"{where}.{name}: is not known"
        else:
            yield from _faults(given, hints[fields[name].name], f"{where}.{name}")


# ---------------------------------------------------------------- Compose
def compose() -> Object:
    """The Compose file, with its anchors resolved."""
    found: Object = yaml.safe_load(COMPOSE.read_text())
    return found


def compose_faults(found: Object) -> list[str]:
    """What the schema of the Compose specification has against it."""
    schema = json.loads(
        (resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text()
    )
    return [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(found)]


# ---------------------------------------------------------------- processes
@dataclass(frozen=True, slots=True)
class Process:
    """One process of ours as a file starts it.

    where          file and name, for messages
    arguments      of the command async-delivery
    environment    as far as the file gives it
    stop_seconds   from SIGTERM to SIGKILL, less what happens before SIGTERM; None where nothing is said
    """

    where: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    stop_seconds: float | None

    @property
    def command(self) -> str:
        """``serve``, ``worker``, ..."""
        return self.arguments[0]

    def settings(self) -> Settings:
        """What the real command line makes of it. Raises click.UsageError and SettingsError, and fails on warnings."""
        flags = {
            name: value for name, value in parsed(self.arguments).params.items() if name in SETTING_NAMES
        }
        defaults = WORKER_DEFAULTS if self.command == "worker" else None
        loaded = load(flags, self.environment, cwd=DEPLOY, defaults=defaults)
        assert not loaded.warnings, loaded.warnings
        return loaded.settings


SETTING_NAMES = frozenset(each.name for each in dataclasses.fields(Settings))


def parsed(arguments: Sequence[str]) -> click.Context:
    """The arguments as the command line understands them, and nothing run. Raises click.UsageError."""
    command: click.Command = cli
    context = cli.make_context("async-delivery", list(arguments[:1]), resilient_parsing=False)
    left = list(arguments)
    while isinstance(command, click.Group):
        name, found, left = command.resolve_command(context, left)
        assert name is not None
        assert found is not None
        command = found
        context = (
            click.Context(command, context, name)
            if isinstance(command, click.Group)
            else command.make_context(name, left, parent=context)
        )
    return context


def processes() -> list[Process]:
    """All of them: Compose, Kubernetes, systemd."""
    return [*_of_compose(), *_of_kubernetes(), *_of_systemd()]


def _of_compose() -> Iterator[Process]:
    for name, service in compose()["services"].items():
        if str(service["image"]).startswith("async-delivery:"):
            environment = {key: str(value) for key, value in service["environment"].items()}
            seconds = parse_duration(service["stop_grace_period"])
            yield Process(f"compose.yaml: {name}", tuple(service["command"]), environment, seconds)


def _of_kubernetes() -> Iterator[Process]:
    shared: Mapping[str, str] = the("ConfigMap", "async-delivery")["data"]
    for workload in workloads():
        pod = pod_of(workload)["spec"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["envFrom"] == [{"configMapRef": {"name": "async-delivery"}}]
            own = {each["name"]: each["value"] for each in container.get("env", [])}
            before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            yield Process(
                f"kubernetes: {workload['metadata']['name']}/{container['name']}",
                tuple(container["args"]),
                {**shared, **own},
                pod["terminationGracePeriodSeconds"] - before,
            )


def unit(path: Path) -> configparser.ConfigParser:
    """A unit file; a key that stands twice, or a line that is none, is an error."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their capitals
    parser.read_string(path.read_text())
    return parser


def _of_systemd() -> Iterator[Process]:
    for path in sorted(SYSTEMD.glob("*.service")):
        service = unit(path)["Service"]
        program, *arguments = shlex.split(service["ExecStart"].replace("%i", "1"))
        if program.endswith("/bin/async-delivery"):
            seconds = float(service["TimeoutStopSec"])
            yield Process(f"systemd: {path.name}", tuple(arguments), {}, seconds)

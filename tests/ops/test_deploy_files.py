"""deploy/: what it says is valid by the schemas of those who read it, and true of this program."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import shutil
import signal
import subprocess
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import click
import pytest
import yaml

from async_delivery import __version__
from async_delivery.api.access import check_bind
from async_delivery.api.app import ROUTES
from async_delivery.api.probes import ROUTES as PROBES
from async_delivery.settings import BY_NAME, Settings
from tests.docs.pages import code, read, rows
from tests.ops.manifests import (
    DEPLOY,
    DOCKERFILE,
    KUBERNETES,
    Object,
    Process,
    compose,
    compose_faults,
    kubernetes_faults,
    objects,
    parsed,
    pod_of,
    processes,
    the,
    unit,
    workloads,
)

EXAMPLES = {each.where: each for each in processes()}
TEXTS = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".json")
# Variables of others that our processes are given.
FOREIGN = {"PGSERVICEFILE"}


def long_running() -> list[Process]:
    return [each for each in EXAMPLES.values() if each.command in {"serve", "worker"}]


@pytest.fixture(params=sorted(EXAMPLES))
def process(request: pytest.FixtureRequest) -> Process:
    return EXAMPLES[request.param]


# ---------------------------------------------------------------- as others read it
def test_every_file_of_yaml_is_yaml_without_a_key_given_twice() -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if key.value != "<<"]
            assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
            return super().construct_mapping(node, deep)

    found = [path for path in TEXTS if path.suffix in {".yaml", ".yml"}]

    assert len(found) > 10
    for path in found:
        assert all(each for each in yaml.load_all(path.read_text(), Strict))


def test_compose_takes_its_file() -> None:
    assert compose_faults(compose()) == []

    broken = deepcopy(compose())
    broken["services"]["api"]["stop_grace_periot"] = "1s"
    broken["services"]["db"]["ports"] = "5432"
    assert len(compose_faults(broken)) >= 2


@pytest.mark.parametrize(
    "found", objects("base"), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_kubernetes_takes_every_object(found: Object) -> None:
    assert kubernetes_faults(found) == []


def test_what_kubernetes_would_refuse_is_found() -> None:
    broken = deepcopy(the("Deployment", "async-delivery-api"))
    broken["spec"]["replicas"] = "2"
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    del broken["spec"]["selector"]

    assert [fault.split(": ")[0] for fault in kubernetes_faults(broken)] == [
        "Deployment.spec.selector",
        "Deployment.spec.replicas",
        "Deployment.spec.template.spec.containers[0].livenessProb",
    ]


def test_kustomize_finds_all_files_and_each_is_listed() -> None:
    for folder in ("base", "autoscaled"):
        listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
        there = {path.name for path in (KUBERNETES / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in listed if name.endswith(".yaml")} == there
    program = shutil.which("kubectl")
    if program is None:
        return  # read, which is what can be done without kubectl

    made = subprocess.run(
        [program, "kustomize", str(KUBERNETES / "autoscaled")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    built = list(yaml.safe_load_all(made.stdout))
    assert len(built) == len(objects("base")) + len(objects("autoscaled"))
    assert {each["metadata"].get("namespace") for each in built} == {None, "async-delivery"}
    images = set(re.findall(r"image: (\S+)", made.stdout))
    assert images == {f"registry.example/async-delivery:{__version__}"}


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    text = (DEPLOY / "compose/nginx.conf").read_text()
    assert text.count("{") == text.count("}")
    assert all(
        line.rstrip().endswith(("{", "}", ";"))
        for line in re.sub("#.*", "", text).splitlines()
        if line.strip()
    )
    program = shutil.which("nginx")
    if program is None:
        return
    (tmp_path / "nginx.conf").write_text(text.replace("/tmp/", f"{tmp_path}/"))

    done = subprocess.run(
        [program, "-t", "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- true of this program
def test_the_command_line_takes_every_command(process: Process) -> None:
    assert process.settings().slots > 0


def test_a_command_that_the_command_line_would_refuse_is_found() -> None:
    for arguments in (["worker", "--slotss", "2"], ["store", "inti"], ["cleanup", "run", "and", "more"]):
        with pytest.raises(click.UsageError):
            parsed(arguments)


def test_every_variable_is_a_setting_or_somebody_elses_that_is_known(process: Process) -> None:
    settings = {setting.variable for setting in BY_NAME.values()}

    assert set(process.environment) <= settings | FOREIGN


def test_every_variable_in_a_text_is_a_setting() -> None:
    settings = {setting.variable for setting in BY_NAME.values()}
    for path in TEXTS:
        assert set(re.findall(r"\bASYNC_DELIVERY_[A-Z_]+\b", path.read_text())) <= settings, path


def test_what_listens_for_others_says_whose_headers_it_believes(process: Process) -> None:
    settings = process.settings()

    if process.command == "serve":
        check_bind(settings.host, settings.trusted_proxy)
    # A network that anybody could be in would make the header a matter of taste.
    for network in map(ipaddress.ip_network, settings.trusted_proxy):
        assert network.is_private, network


def test_the_service_of_compose_believes_its_own_network_and_no_other() -> None:
    (subnet,) = compose()["networks"]["inner"]["ipam"]["config"]

    assert set(EXAMPLES["compose.yaml: api"].settings().trusted_proxy) == {"127.0.0.1/32", subnet["subnet"]}


def test_every_process_is_given_more_time_to_stop_than_it_may_take() -> None:
    for each in long_running():
        settings = each.settings()
        longest = 5.0
        if each.command == "worker" or not settings.no_workers:
            longest += (
                settings.drain_grace_seconds + settings.cancel_grace_seconds + settings.kill_grace_seconds
            )
        assert each.stop_seconds is not None
        assert each.stop_seconds > 1.1 * longest, each.where
    assert {each.where.partition(":")[0] for each in long_running()} == {
        "compose.yaml",
        "kubernetes",
        "systemd",
    }


def test_the_image_says_that_stopping_takes_time() -> None:
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE.read_text()


@pytest.mark.parametrize("workload", [each for each in workloads() if each["kind"] == "Deployment"])
def test_probes_ask_what_is_answered_where_it_is_answered(workload: Object) -> None:
    (container,) = pod_of(workload)["spec"]["containers"]
    process = EXAMPLES[f"kubernetes: {workload['metadata']['name']}/{container['name']}"]
    answered = (
        {route.path for route in ROUTES} if process.command == "serve" else {path for path, _ in PROBES}
    )
    (port,) = container["ports"]
    annotations = pod_of(workload)["metadata"]["annotations"]

    assert port["containerPort"] == process.settings().port
    for name, path in (("startup", "/health"), ("liveness", "/health"), ("readiness", "/health/ready")):
        probe = container[f"{name}Probe"]
        assert probe["httpGet"] == {"path": path, "port": port["name"]}
        assert path in answered
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert annotations["prometheus.io/path"] in answered


def test_health_checks_of_compose_ask_the_port_that_is_listened_on() -> None:
    for name in ("api", "worker"):
        (url,) = re.findall(
            r"http://127.0.0.1:\d+\S+?(?=\")", str(compose()["services"][name]["healthcheck"]["test"])
        )
        assert url == f"http://127.0.0.1:{EXAMPLES[f'compose.yaml: {name}'].settings().port}/health/ready"


def test_workers_on_one_machine_listen_on_different_ports() -> None:
    command = unit(DEPLOY / "systemd/async-delivery-worker@.service")["Service"]["ExecStart"]

    ports = [shlex.split(command.replace("%i", str(number)))[-3] for number in range(1, 10)]

    assert len(set(ports)) == 9
    assert ports[0] == "8081"
    assert str(Settings().port) not in ports


# ---------------------------------------------------------------- what belongs together
def labels_of(pod: Object) -> dict[str, str]:
    labels: dict[str, str] = pod["metadata"]["labels"]
    return labels


def chosen(selector: dict[str, str]) -> list[str]:
    """The workloads whose pods a selector takes."""
    return [
        each["metadata"]["name"]
        for each in workloads()
        if selector.items() <= labels_of(pod_of(each)).items()
    ]


def test_every_selector_chooses_what_it_is_meant_for() -> None:
    for each in workloads():
        if each["kind"] == "Deployment":
            assert chosen(each["spec"]["selector"]["matchLabels"]) == [each["metadata"]["name"]]
    assert chosen(the("Service", "async-delivery-api")["spec"]["selector"]) == ["async-delivery-api"]
    budget = the("PodDisruptionBudget", "async-delivery-api")["spec"]
    assert chosen(budget["selector"]["matchLabels"]) == ["async-delivery-api"]
    assert budget["minAvailable"] < the("Deployment", "async-delivery-api")["spec"]["replicas"]
    everything = the("NetworkPolicy", "async-delivery")["spec"]["podSelector"]["matchLabels"]
    assert chosen(everything) == [each["metadata"]["name"] for each in workloads()]
    api = the("NetworkPolicy", "async-delivery-api")["spec"]["podSelector"]["matchLabels"]
    assert chosen(api) == ["async-delivery-api"]


def test_the_service_leads_to_a_port_that_there_is() -> None:
    (port,) = the("Service", "async-delivery-api")["spec"]["ports"]
    (container,) = pod_of(the("Deployment", "async-delivery-api"))["spec"]["containers"]

    assert port["targetPort"] in {each["name"] for each in container["ports"]}


def test_every_mounted_volume_and_every_named_object_is_there() -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in objects("base")}
    for workload in workloads():
        pod = pod_of(workload)["spec"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        mounted = set()
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            mounted |= {each["name"] for each in container["volumeMounts"]}
        assert mounted == set(volumes)
        assert volumes["postgres"]["secret"]["secretName"] == "async-delivery-postgres"
        assert ("ServiceAccount", pod["serviceAccountName"]) in names
    # The one thing that is not in these files, for it is a secret: the page says how to make it.
    page = read("docs/howto/run-in-kubernetes.md")
    assert "create secret generic async-delivery-postgres" in page
    service_file = Path(the("ConfigMap", "async-delivery")["data"]["PGSERVICEFILE"]).name
    assert f"--from-file={service_file}" in page


def test_the_image_of_every_file_is_this_version() -> None:
    (image,) = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())["images"]
    ours = {str(service["image"]) for service in compose()["services"].values() if "build" in service}

    assert (image["name"], str(image["newTag"])) == ("async-delivery", __version__)
    assert ours == {f"async-delivery:{__version__}"}
    assert f"async-delivery:{__version__}" in DOCKERFILE.read_text()


def test_workers_do_not_count_the_cores_of_a_machine_they_share(process: Process) -> None:
    if process.command == "worker" and not process.where.startswith("systemd"):
        assert BY_NAME["slots"].variable in process.environment


def test_the_number_of_workers_is_left_to_those_who_scale_them() -> None:
    assert "replicas" not in the("Deployment", "async-delivery-worker")["spec"]

    (scaled,) = objects("autoscaled")
    target = scaled["spec"]["scaleTargetRef"]
    assert the(target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    assert 0 < scaled["spec"]["minReplicaCount"] <= scaled["spec"]["fallback"]["replicas"]
    assert scaled["spec"]["fallback"]["replicas"] <= scaled["spec"]["maxReplicaCount"]


def test_workers_are_scaled_by_a_metric_that_there_is(tmp_path: Path) -> None:
    (trigger,) = objects("autoscaled")[0]["spec"]["triggers"]
    metrics = {name for row in rows(read("docs/reference/metrics.md")) for name in code(row[0])}
    asked = re.findall(r"async_\w+", trigger["metadata"]["query"])

    assert trigger["type"] == "prometheus"
    assert asked == ["async_queue_oldest_seconds"]
    assert set(asked) <= metrics
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert float(trigger["metadata"]["threshold"]) > float(trigger["metadata"]["activationThreshold"]) > 0
    if (program := shutil.which("promtool")) is not None:
        rule = {"record": "simulated:query", "expr": trigger["metadata"]["query"]}
        (tmp_path / "rules.yml").write_text(yaml.dump({"groups": [{"name": "one", "rules": [rule]}]}))
        done = subprocess.run(
            [program, "check", "rules", str(tmp_path / "rules.yml")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_scaled_object_has_the_fields_that_keda_reads() -> None:
    # KEDA's own schema is not to be had as a package; these are the fields of v1alpha1 that the file may use.
    known = {
        "scaleTargetRef": {"apiVersion", "kind", "name"},
        "minReplicaCount": None,
        "maxReplicaCount": None,
        "pollingInterval": None,
        "fallback": {"failureThreshold", "replicas"},
        "advanced": {"horizontalPodAutoscalerConfig"},
        "triggers": None,
    }
    (scaled,) = objects("autoscaled")

    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert set(scaled["spec"]) == set(known)
    for name, fields in known.items():
        assert fields is None or set(scaled["spec"][name]) == fields
    behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x"},
        "spec": {
            "maxReplicas": 2,
            "scaleTargetRef": {"kind": "Deployment", "name": "x"},
            "behavior": behavior,
        },
    }
    assert kubernetes_faults(autoscaler) == []  # what KEDA makes of it is Kubernetes' own


def test_only_one_cleanup_runs_and_the_api_leaves_it_to_it() -> None:
    cleanup = the("CronJob", "async-delivery-cleanup")["spec"]
    (container,) = pod_of(the("CronJob", "async-delivery-cleanup"))["spec"]["containers"]

    assert cleanup["concurrencyPolicy"] == "Forbid"
    assert cleanup["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert EXAMPLES["kubernetes: async-delivery-api/api"].settings().cleanup_schedule.is_off
    assert not EXAMPLES["compose.yaml: api"].settings().cleanup_schedule.is_off
    # Of the exit codes, only 3 (another one runs, or a pause) is no failure of the job.
    shell, script = container["command"][:2], container["command"][2]
    for code_of_program, expected in ((0, 0), (1, 1), (2, 2), (3, 0)):
        stand_in = script.replace('async-delivery "$@"', f"(exit {code_of_program})")
        assert stand_in != script
        assert subprocess.run([*shell, stand_in], timeout=60, check=False).returncode == expected


def test_a_cleanup_hears_of_it_when_its_pod_is_to_go() -> None:
    (container,) = pod_of(the("CronJob", "async-delivery-cleanup"))["spec"]["containers"]
    shell, script = container["command"][:2], container["command"][2]
    stand_in = script.replace(
        'async-delivery "$@"', "sh -c 'trap \"exit 2\" TERM; echo up; while :; do sleep 0.05; done'"
    )
    assert stand_in != script

    with subprocess.Popen([*shell, stand_in], stdout=subprocess.PIPE, start_new_session=True) as pod:
        try:
            assert pod.stdout
            assert pod.stdout.readline() == b"up\n"
            status = Path(f"/proc/{pod.pid}/status")
            ends_at = monotonic() + 60
            while not _caught(status.read_text()) & 1 << (signal.SIGTERM - 1):
                assert monotonic() < ends_at, "the shell minds no SIGTERM"
                sleep(0.005)
            pod.terminate()
            code = pod.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(pod.pid, signal.SIGKILL)

    assert code == 2


def _caught(status: str) -> int:
    """The signals for which a process has a handler, from its file in /proc."""
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)

"""deploy/: nothing in it can do more than it must, knows a secret, or is built from what is not pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from async_delivery.api.app import ROUTES
from async_delivery.plugins import discover
from async_delivery.plugins.registry import describe
from tests.docs.pages import ROOT
from tests.ops.manifests import (
    DEPLOY,
    DOCKERFILE,
    Object,
    Process,
    compose,
    objects,
    pod_of,
    processes,
    the,
    unit,
    workloads,
)

EXAMPLES = {each.where: each for each in processes()}
TEXTS = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".json")


@pytest.mark.parametrize("workload", workloads(), ids=lambda each: str(each["metadata"]["name"]))
def test_pods_run_as_nobody_and_can_do_nothing_they_need_not(workload: Object) -> None:
    pod = pod_of(workload)["spec"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == user_of_the_image()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {next(iter(set(each) - {"name"})) for each in pod["volumes"]} == {"emptyDir", "secret"}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}
    namespace = the("Namespace", "async-delivery")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_worker_may_use_the_memory_that_its_attempts_may() -> None:
    largest = max(info.limits.memory_bytes or 0 for info in describe(discover()))
    compose_limit = compose()["services"]["worker"]["deploy"]["resources"]["limits"]["memory"]
    (container,) = pod_of(the("Deployment", "async-delivery-worker"))["spec"]["containers"]
    for where, limit in (
        ("compose.yaml: worker", compose_limit),
        ("kubernetes: async-delivery-worker/worker", container["resources"]["limits"]["memory"]),
    ):
        gib = int(re.match(r"(\d+)(?:g|Gi)\Z", limit)[1])  # type: ignore[index]  # it fails if it does not match
        assert gib * 2**30 > EXAMPLES[where].settings().slots * largest + 2**29


def user_of_the_image() -> int:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE.read_text(), re.MULTILINE)
    return int(user)


def test_no_container_of_compose_runs_as_root_or_gains_rights() -> None:
    for name, service in compose()["services"].items():
        user, _, group = service["user"].partition(":")
        assert int(user) > 0, name
        assert int(group) > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name
        if "build" in service:
            assert int(user) == user_of_the_image()
            assert service["read_only"] is True
            assert "/work" in service["volumes"]  # its own: no name, so no other container has it


def test_units_run_as_a_user_of_their_own_behind_the_same_walls() -> None:
    walls = None
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        service = unit(path)["Service"]
        assert service["User"] == "async-delivery"
        assert service["CapabilityBoundingSet"] == ""
        found = {
            key: value
            for key, value in service.items()
            if re.match("Protect|Private|Restrict|SystemCall|NoNew|Lock|RemoveIPC", key)
        }
        assert found == (walls or found)
        walls = found
    assert walls is not None
    assert len(walls) > 15


def test_compose_is_reached_through_its_proxy_and_by_nobody_else() -> None:
    services = compose()["services"]

    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"proxy": ["127.0.0.1:8080:8080"]}
    assert [name for name, service in services.items() if "edge" in service["networks"]] == ["proxy"]
    assert compose()["networks"]["inner"]["internal"] is True


def test_the_proxy_names_the_tenant_and_lets_nobody_else_do_so() -> None:
    text = re.sub("#.*", "", (DEPLOY / "compose/nginx.conf").read_text())
    settings, worker = EXAMPLES["compose.yaml: api"].settings(), compose()["services"]["proxy"]

    assert "proxy_set_header X-Org-Id $remote_user;" in text
    assert 'proxy_set_header X-Tenant-Id "";' in text
    assert text.count("proxy_pass $api;") == 2
    (pattern,) = re.findall(r"location ~ (\S+) \{", text)
    for path in ("/metrics", "/ops/signals", "/health/ready"):
        assert path in {route.path for route in ROUTES}
        assert re.match(pattern, path)
    for route in ROUTES:
        if route.path.startswith(("/analy", "/results")):
            assert not re.match(pattern, route.path)
    # The API is the one that refuses, and the one that ends a wait.
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(megabytes) * 2**20 > settings.max_upload_bytes + settings.max_body_bytes
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(seconds) > settings.max_wait_seconds
    assert f"/run/secrets/{worker['secrets'][0]}" in text


def test_no_file_has_a_password_in_it() -> None:
    for path in TEXTS:
        text = path.read_text()
        # Such a word may be followed by the name of a file, or by what explains it; never by a value.
        for value in re.findall(r"(?i)(?:password|token)\w*[ ]*[:=][ ]*[\"']?([^\s\"']+)", text):
            assert value in {"false", "the"} or value.startswith("/run/secrets/"), (path.name, value)
        assert not re.search(r"://[^/\s:@]+:[^@\s/]+@", text), path
    assert "Secret" not in {each["kind"] for each in objects("base")}
    for service in compose()["services"].values():
        for name in service.get("environment", {}):
            assert not re.search("PASSWORD|SECRET|TOKEN", name) or name.endswith("_FILE")


# ---------------------------------------------------------------- the image
def test_the_image_is_built_from_what_is_pinned_and_in_the_checkout() -> None:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    copied = [
        word for line in lines if line[0] == "COPY" and "--from=build" not in line for word in line[1:-1]
    ]
    let_through = {
        line[1:]
        for line in Path(f"{DOCKERFILE}.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }

    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert name.split("/")[0] in let_through
    assert {name for name in let_through if not (ROOT / name).exists()} == set()
    for name in (word for word in copied if word.startswith("requirements/")):
        assert f"-r {name}" in text
    assert text.count("pip install --require-hashes") == 2
    for line in text.splitlines():
        if "pip install" in line or "pip wheel" in line:
            assert all(
                "--require-hashes" in part or "--no-index" in part
                for part in re.findall(r"pip (?:install|wheel)[^&]*", line)
            )
    assert not any(line[0] == "ADD" for line in lines)


def test_the_image_starts_the_program_as_somebody_who_is_not_root() -> None:
    text = DOCKERFILE.read_text()

    assert user_of_the_image() > 1000
    assert text.rindex("\nUSER ") > text.rindex("\nRUN ")  # everything after it runs as that user
    (entry,) = re.findall(r'^ENTRYPOINT \["(\S+)"\]$', text, re.MULTILINE)
    exposed = [int(port) for port in re.findall(r"^EXPOSE (.*)$", text, re.MULTILINE)[0].split()]
    (default,) = re.findall(r'^CMD \["(\S+)"\]$', text, re.MULTILINE)
    assert entry == "async-delivery"
    assert Process("image", (default,), {}, None).settings().port in exposed


def test_images_of_others_are_named_with_a_version() -> None:
    images = [str(service["image"]) for service in compose()["services"].values()]
    images += re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)

    for image in images:
        name, _, tag = image.partition(":")
        assert name
        assert re.match(r"\d+(\.\d+)*", tag), image

"""The files of docs/deploy say what the code does: options, port, health, user, extras, and how long it takes to end."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("yaml", reason="manifests are read with PyYAML")

import yaml

from engine.serve import _parser
from engine.service.guard import OPEN
from engine.service.limits import Limits
from engine.service.server import LAST_SECONDS

FOLDER = ROOT / "docs" / "deploy"
IMAGES = ("cpu", "cuda")
HADOLINT = shutil.which("hadolint")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SERVE = ["python", "-m", "engine.serve"]


def manifest(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def steps(image: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile and what follows it."""
    text = re.sub(r"^#.*\n", "", (FOLDER / f"{image}.Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def entrypoint(image: str) -> list[str]:
    words: list[str] = json.loads(dict(steps(image))["ENTRYPOINT"])
    assert words[: len(SERVE)] == SERVE
    return words[len(SERVE) :]


def containers(pod: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The container of a pod, and the options that the command gets in it."""
    (container,) = pod["containers"]
    given = [*entrypoint("cpu"), *container["args"]]
    if "command" in container:
        assert container["command"] == ["/bin/sh", "-c"]
        words = shlex.split(container["args"][0])
        assert words[:4] == ["exec", *SERVE]  # a signal reaches the server, not a shell
        given = words[4:]
    return container, _parser().parse_args(given)


PODS = {
    "kubernetes": manifest("kubernetes")[0]["spec"]["template"]["spec"],
    "predictor": manifest("kserve")[0]["spec"]["predictor"],
    "explainer": manifest("kserve")[0]["spec"]["explainer"],
}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_the_command_without_root_on_the_port_that_it_names(image: str) -> None:
    said, options = dict(steps(image)), _parser().parse_args(entrypoint(image))
    assert (options.host, said["EXPOSE"], said["USER"]) == ("0.0.0.0", str(options.port), "10001:10001")
    assert f"127.0.0.1:{options.port}/v2/health/live" in said["HEALTHCHECK"]
    compile(json.loads(said["HEALTHCHECK"].partition("CMD ")[2])[2], "health", "exec")
    assert "XDG_CACHE_HOME=/tmp" in said["ENV"]
    assert options.provider == ("cuda" if image == "cuda" else "auto")


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_what_it_copies_and_what_the_service_needs(image: str) -> None:
    copied = [part for name, rest in steps(image) if name == "COPY" and "--from" not in rest for part in rest.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {"engine", "export", "kernels", "pyproject.toml", "constraints.txt"} <= set(copied)  # setuptools builds all three
    (install,) = [rest for name, rest in steps(image) if name == "RUN" and "'.[" in rest]
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", install)
    by_name = set(re.findall(r"'([a-z][^']*)'", install))
    needed = {one for extra in ("serve", "index") for one in EXTRAS[extra]}
    if image == "cpu":
        assert set(extras.split(",")) == {"serve", "index"}
    else:
        assert extras == "cuda"
        assert by_name == needed - {"sane-engine[cpu]"}


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint on the path: .ci/requirements-service.txt has it")
@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_as_hadolint_advises(image: str) -> None:
    done = subprocess.run([str(HADOLINT), FOLDER / f"{image}.Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", PODS)
def test_a_pod_starts_ends_and_is_asked_about_as_the_service_does(name: str) -> None:
    pod, (container, options) = PODS[name], containers(PODS[name])
    assert options.host == "0.0.0.0"
    (port,) = container["ports"]
    assert port["containerPort"] == options.port
    for kind, path in (("readinessProbe", "/v2/health/ready"), ("livenessProbe", "/v2/health/live")):
        asked = container[kind]["httpGet"]
        assert asked["path"] == path in OPEN
        assert asked["port"] in (options.port, port.get("name"))
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1]) if "lifecycle" in container else 0
    drains = Limits.of(options.limit).drain_seconds + max(LAST_SECONDS, 10)  # 10: that several workers are waited for
    assert pod["terminationGracePeriodSeconds"] >= before + drains
    assert options.threads == int(container["resources"]["limits"]["cpu"])


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_rights_and_finds_its_files(name: str) -> None:
    pod, (container, options) = PODS[name], containers(PODS[name])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"{pod['securityContext']['runAsUser']}:" in dict(steps("cpu"))["USER"]
    own = container["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
    assert "/tmp" in mounted
    stored = ["/mnt/models"] if any(one["name"] == "STORAGE_URI" for one in container.get("env", ())) else []
    for file in (options.bundle, options.api_key_file):
        assert file is None or any(Path(file).is_relative_to(one) for one in (*mounted, *stored))


def test_kserve_makes_plain_deployments() -> None:
    """Knative refuses a grace period and the security context of a pod."""
    (service,) = manifest("kserve")
    assert service["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "RawDeployment"}


def test_what_kserve_adds_to_an_explainer_reaches_nobody(tmp_path: Path) -> None:
    (container,) = PODS["explainer"]["containers"]
    shown = [part.replace("exec python", "echo python") for part in container["args"]]
    added = ["--model_name", "shoes", "--predictor_host", "shoes.default", "--http_port", "8080"]
    done = subprocess.run([*container["command"], *shown, *added], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == shlex.split(container["args"][0])[1:]


def test_the_service_leads_to_the_pods() -> None:
    deployment, service = manifest("kubernetes")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    (container,) = PODS["kubernetes"]["containers"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    secret = next(volume["secret"]["secretName"] for volume in PODS["kubernetes"]["volumes"] if "secret" in volume)
    assert f"create secret generic {secret} --from-file=keys=" in (ROOT / "docs" / "deploy.md").read_text()

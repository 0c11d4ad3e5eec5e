"""The Docker files and Kubernetes manifests cannot be run here: what can be checked without either is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def instructions(file):
    text = re.sub(r"\\\n", " ", file.read_text())
    return [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_docker_file_installs_what_the_readme_installs_and_starts_a_command_that_exists(file, dprag):
    steps = instructions(file)
    side = file.stem
    assert steps[0][0] == "FROM" and steps[-1][0] == "ENTRYPOINT"
    copied = [part for name, rest in steps if name == "COPY" for part in rest.split()[:-1]]
    assert all((ROOT / part).exists() for part in copied)
    assert any(f"'.[{side}]'" in rest for name, rest in steps if name == "RUN")
    assert [rest for name, rest in steps if name == "USER"] == ["dprag"]
    command = yaml.safe_load(steps[-1][1])
    assert command[:2] == ["dprag", side]
    code, out, _ = dprag(side, "--help")
    assert code == 0 and all(option in out for option in command if option.startswith("--"))


def test_compose_names_files_commands_and_secrets_that_fit(dprag):
    composed = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    _, shown, _ = dprag("gateway", "--help")
    for name, service in composed["services"].items():
        file = ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]
        assert file.resolve() in FILES and file.stem == name
        assert all(f"/run/secrets/{secret}" in file.read_text() for secret in service["secrets"])
        assert set(service["secrets"]) <= set(composed["secrets"]) and set(service["networks"]) <= set(composed["networks"])
        assert all(option in shown for option in service.get("command", []) if option.startswith("--"))
    assert composed["networks"]["between"]["internal"] is True and "outside" not in composed["services"]["engine"]["networks"]


def test_both_sides_install_the_same_pinned_torch():
    lines = {shlex.split(rest)[0:8][-1] for file in FILES for name, rest in instructions(file) if name == "RUN" and "pip" in rest}
    assert len(FILES) == 2 and len(lines) == 1
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()


MANIFESTS = {
    f"{file.stem} {one['kind']}": one
    for file in sorted((ROOT / "docker" / "kubernetes").glob("*.yaml"))
    for one in yaml.safe_load_all(file.read_text())
    if file.stem != "kustomization"
}
PODS = {name.split()[0]: one["spec"]["template"] for name, one in MANIFESTS.items() if "template" in one["spec"]}


@pytest.mark.slow
@pytest.mark.scale
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_fits_the_schema_of_kubernetes(name):
    import kubernetes_validate

    kubernetes_validate.validate(MANIFESTS[name], "1.31", strict=True)


@pytest.mark.slow
@pytest.mark.scale
def test_a_field_that_kubernetes_does_not_know_is_found():
    import kubernetes_validate

    wrong = MANIFESTS["engine StatefulSet"] | {"spec": MANIFESTS["engine StatefulSet"]["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


@pytest.mark.parametrize("side", PODS)
def test_pods_start_our_images_with_options_that_exist_and_no_rights(side, dprag):
    (container,) = PODS[side]["spec"]["containers"]
    assert container["image"] == f"dprag-{side}"
    _, shown, _ = dprag(side, "--help")
    assert all(option in shown for option in container["args"] if option.startswith("--"))
    steps = instructions(ROOT / "docker" / f"{side}.Dockerfile")
    (key_file,) = re.findall(r"/run/secrets/[a-z-]+", steps[-1][1])
    places = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"]["items"] for volume in PODS[side]["spec"]["volumes"] if "secret" in volume}
    mounted = {f"{places[name]}/{item['path']}" for name, items in secrets.items() for item in items}
    assert key_file in mounted
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"] and rights["capabilities"] == {"drop": ["ALL"]}
    assert any("--uid 1000" in rest for _, rest in steps) and PODS[side]["spec"]["securityContext"]["runAsUser"] == 1000


def test_the_gateway_asks_every_engine_at_its_own_address():
    (container,) = PODS["gateway"]["spec"]["containers"]
    engines = [value for option, value in zip(container["args"], container["args"][1:], strict=False) if option == "--engine"]
    count = MANIFESTS["engine StatefulSet"]["spec"]["replicas"]
    assert engines == [f"http://engine-{number}.engine:8000" for number in range(count)]
    assert MANIFESTS["engine Service"]["spec"]["clusterIP"] == "None"

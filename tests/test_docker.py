"""The Docker files cannot be built here: what can be checked without Docker is."""

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

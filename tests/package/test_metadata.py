"""What the package says about itself is true: versions, citation, extras, and pins."""

from __future__ import annotations

import yaml
from declared import EXTRAS, PROJECT, ROOT, granted, installed_with
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

READERS = {"beautifulsoup4", "lxml", "pypdfium2", "openpyxl", "python-pptx"}  # markdown-it-py comes with rich in any case


def test_python_versions_and_their_classifiers_agree():
    versions = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert versions == ["3.11", "3.12", "3.13"] and PROJECT["requires-python"] == f">={versions[0]}"
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == versions


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"] and "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_names_the_paper():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert "2509.01088" in paper["url"] and paper["title"] and paper["authors"] and paper["year"] == 2025


def test_the_engine_installs_no_document_readers_and_the_gateway_all():
    assert not READERS & installed_with("engine") and not READERS & installed_with(None)
    assert installed_with("gateway") >= READERS
    assert granted("all") >= {"documents", "retrieval", "engine", "gateway", "evaluate", "synthesize"}


def test_every_declared_dependency_is_pinned():
    pins = {canonicalize_name(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    texts = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    assert declared - pins <= {"distilledprag", "lm-eval"}  # lm-eval: checked against what is installed, in its own make target

"""The house: whose packages these are, what may import what, and that the documents are true."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.cli import COMMANDS, make_parser
from tests.support.studies import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


@pytest.mark.parametrize("name", ["hpo", "features", "slurm", "studies"])
def test_each_package_is_the_checkouts_own(name):
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve().parent == ROOT / name


def test_importing_a_package_does_nothing_and_loads_no_chemistry():
    code = (
        "import sys, hpo.cli, hpo.worker.worker, features.table\n"
        "heavy = {'pymatgen', 'matminer', 'smact', 'elementembeddings', 'sklearn', 'plotly'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def commands() -> list[str]:
    """Every command, as in `features build`."""
    found = []

    def walk(parser: argparse.ArgumentParser, prefix: str) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, sub in action.choices.items():
                    walk(sub, f"{prefix} {name}".strip())
                return
        found.append(prefix)

    walk(make_parser(COMMANDS), "")
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented_and_explains_itself(command):
    assert f"hpo {command}" in README
    done = subprocess.run(
        [sys.executable, "-m", "hpo", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: " in done.stdout


def test_every_documented_command_exists():
    words = re.findall(r"(?<![\w./-])hpo ([a-z]+(?: [a-z]+)?)", README)
    known = commands()
    for word in words:
        first = word.split()[0]
        assert any(name == word or name.split()[0] == first for name in known), word


def test_every_make_target_of_the_documents_exists():
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document.name}: {target}"


def test_every_path_that_the_documents_name_exists():
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for path in re.findall(
            r"(?<![\w/])((?:studies|hpo|features|slurm|tests)/[\w./-]*\w)", text
        ):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def test_the_lock_files_name_no_host_and_hold_what_the_project_needs():
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        for package in ("optuna", "sqlalchemy", "submitit", "pymatgen", "matminer", "smact"):
            assert re.search(rf"^{package}==", text, re.MULTILINE)

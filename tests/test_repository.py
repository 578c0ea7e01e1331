"""The house: whose packages these are, what may import what, and that the documents are true."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hpo.cli import COMMANDS, main, make_parser
from tests.support.studies import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
]


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
def test_every_command_is_documented_and_explains_itself(command, capsys):
    assert f"hpo {command}" in README
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: hpo {command} ")


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


def sources(*folders: str) -> dict[Path, ast.Module]:
    """The parsed modules below folders of the checkout, by path."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imported(module: ast.Module) -> set[str]:
    """Full names of what a module imports, wherever in it."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_test_file_imports_another():
    for path, module in sources("tests").items():
        assert not [name for name in imported(module) if ".test_" in name], path
        texts = [node.value for node in ast.walk(module) if isinstance(node, ast.Constant)]
        named = [text for text in texts if re.search(r"tests[.\w]*\.test_\w+:", str(text))]
        assert not named, f"{path} names a test file as a module of a study"


def test_every_module_says_what_it_is():
    for path, module in sources("hpo", "features", "slurm", "studies", "tests").items():
        text = ast.get_docstring(module)
        if path.parts[0] != "tests":
            assert text, path
        # What `import hpo` offers is loaded when it is used.
        if path.name == "__init__.py" and path != Path("hpo/__init__.py"):
            assert len(module.body) == 1, f"{path} does more than say what lives here"


@pytest.mark.parametrize(
    ("private", "homes"),
    [
        (r"optuna\.(\w+\.)*_", {"hpo/storage/schema.py", "hpo/storage/best.py"}),
        (r"sklearn\.(\w+\.)*_", {"hpo/estimators/sklearn_private.py"}),
    ],
)
def test_private_parts_of_libraries_are_imported_in_few_files(private, homes):
    users = {
        str(path)
        for path, module in sources("hpo", "features", "slurm", "studies").items()
        if any(re.match(private, name) for name in imported(module))
    }
    assert users == homes


def test_files_and_folders_are_of_a_size_to_read():
    modules = sources("hpo", "features", "slurm", "studies", "tests")
    long = {str(p) for p in modules if len((ROOT / p).read_text().splitlines()) > 500}
    assert not long
    folders = Counter(path.parent for path in modules if path.name != "__init__.py")
    del folders[Path("tests/benchmarks")]
    assert not {str(folder) for folder, n in folders.items() if n > 15}


def test_the_program_tells_its_version_and_is_a_module():
    version = importlib.metadata.version("hpo")
    program = str(Path(sys.executable).with_name("hpo"))
    for command in ([program], [sys.executable, "-m", "hpo"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (f"hpo {version}\n", "")


def test_a_command_loads_no_other():
    code = (
        "import sys\nfrom hpo.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "loaded = [m for m in sys.modules if m.startswith('hpo.commands.')]\n"
        "print(*sorted(m for m in loaded if m.count('.') > 2))"
    )
    for arguments, expected in (
        (["--help"], ""),
        (["check", "--help"], "hpo.commands.studies.check hpo.commands.studies.study_options"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == expected

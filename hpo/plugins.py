"""Finds what a study names as `module:attribute`, and imports it without being taken down.

A module may be named by its file, too: `train.py:attribute`. It is imported as `train`, from the
folders that modules of the study are imported from; nothing that it does as `__main__` is run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from features.table import describe_failure
from hpo.errors import SpecError, StopRequested, suggest

# Imports one module after the other, each said before and all said at the end: a module that ends
# the process cannot pass for one that was imported, whatever the exit code. One that raises is
# told by whoever imports it for good, but for a KeyboardInterrupt, which nobody pressed here.
_TRIAL = """
import importlib, importlib.util, json, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
names, sys.path[:] = json.loads(sys.argv[1])
for name, file in names.items():
    os.write(2, f"\\n{name}\\n".encode())
    try:
        if file is None:
            importlib.import_module(name)
        else:
            spec = importlib.util.spec_from_file_location(os.path.basename(file)[:-3], file)
            sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException:
        pass
os.write(2, b"\\n\\n")
os._exit(0)
"""
_INTERRUPTED = 130
_OUR_PACKAGES = ("features", "hpo", "slurm")
# Modules that did not end the process that tried to import them.
_tried: set[str] = set()
# Folders that were made importable.
_added: list[str] = []
# File and content of modules that were imported by their files.
_imported: dict[str, tuple[str | None, bytes]] = {}


def check_params(cls: type, params: Iterable[str], where: str) -> None:
    """Refuse parameters that the constructor of a class does not take.

    Raises
    ------
    SpecError
        If one has another name; `where` is the section of the study file.
    """
    parameters = inspect.signature(cls).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for name in params:
        if name not in parameters:
            raise SpecError(
                f"[{where}] params.{name}: {cls.__name__} has no such parameter; "
                f"{suggest(name, parameters)}"
            )


def missing_params(cls: type, arguments: Mapping[str, Any]) -> list[str]:
    """Return the parameters that the constructor of a class needs and is not given."""
    return [
        name
        for name, one in inspect.signature(cls).parameters.items()
        if one.default is one.empty
        and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and name not in arguments
    ]


def make_importable(study_file: Path) -> None:
    """Let a study file name modules that lie beside it, or in the working directory."""
    # In a notebook there were studies before, whose files may have the same names.
    before, _added[:] = _added[:], []
    sys.path[:] = [folder for folder in sys.path if folder not in before]
    for folder in (str(study_file.resolve().parent), str(Path.cwd())):
        # Behind everything else: a user's file must not hide an installed module.
        if folder not in sys.path:
            sys.path.append(folder)
            _added.append(folder)
    # What is imported later on by a study of before is still found.
    sys.path.extend(folder for folder in before if folder not in sys.path)
    _added.extend(folder for folder in before if folder not in _added)


def try_imports(named: Mapping[str, str]) -> None:
    """Refuse modules that end the process that imports them: by os._exit, a signal, an abort.

    Only what is of the study's own is tried, and not imported yet: modules that are installed have
    been imported by others.

    Parameters
    ----------
    named
        What says so in the study file, as "[objective] name", to `module:attribute`.

    Raises
    ------
    SpecError
        Naming the first such module, its file, and how it ended.
    """
    modules = {what: name.partition(":")[0] for what, name in named.items()}
    own = {module: what for what, module in modules.items() if _is_untried(module)}
    if not own:
        return
    files = {module: str(_file_of(module)) if _is_file(module) else None for module in own}
    arguments = json.dumps([files, sys.path])
    done = subprocess.run(
        [sys.executable, "-B", "-c", _TRIAL, arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.stderr.endswith(b"\n\n"):
        _tried.update(own)
        return
    lines = done.stderr.decode(errors="replace").splitlines()
    ended = next((line for line in reversed(lines) if line in own), next(iter(own)))
    raise SpecError(
        f"{own[ended]}: cannot import '{ended}': it ends the process that imports it "
        f"({_how_it_ended(done.returncode)}; {_file_of(ended)}); let it define things, and do "
        "nothing else"
    )


def take_as_tried(named: Mapping[str, str]) -> None:
    """Import modules without a trial, in a worker: who started it has made one, and sees its end.

    Parameters
    ----------
    named
        As for `try_imports`.
    """
    _tried.update(name.partition(":")[0] for name in named.values())


def _how_it_ended(code: int) -> str:
    if code == _INTERRUPTED:
        return "KeyboardInterrupt"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def resolve(name: str, what: str) -> Any:
    """Import `module:attribute`.

    Raises
    ------
    SpecError
        If there is no such module or attribute, or the module fails, whatever it raises, or ends
        the process; `what` says which setting named it.
    """
    module_name, _, attribute = name.rpartition(":")
    if _is_file(module_name) and find_module(module_name) is None:
        raise SpecError(
            f"{what}: there is no file {module_name}, beside the study or in the working directory"
        )
    try_imports({what: name})
    try:
        with _apart():
            module = (
                _import_file(module_name)
                if _is_file(module_name)
                else (importlib.import_module(module_name))
            )
    except (KeyboardInterrupt, StopRequested):
        raise
    except BaseException as exc:  # a user's module may raise anything, or leave by sys.exit
        if isinstance(exc, OSError) and "shared object" in str(exc):
            # LightGBM's wheel relies on the system's OpenMP runtime, which a bare machine lacks.
            hint = "; install it (Debian: libgomp1)" if "libgomp" in str(exc) else ""
            raise SpecError(f"{what}: '{module_name}' lacks a system library: {exc}{hint}") from exc
        if isinstance(exc, SyntaxError):
            line = f", line {exc.lineno}" if exc.lineno else ""
            where = exc.filename or _file_of(module_name)
            raise SpecError(f"{what}: {where}{line}: not valid Python ({exc.msg})") from exc
        raise SpecError(f"{what}: cannot import '{module_name}': {describe_failure(exc)}") from exc
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise SpecError(f"{what}: module '{module_name}' has no '{attribute}'")
        found = getattr(found, part)
    return found


def find_module(name: str, folders: Iterable[Path] = ()) -> ModuleSpec | None:
    """Find a module as an import would, but import nothing, not even the packages it is in.

    Parameters
    ----------
    folders
        Where its first part is looked for at last, as if they were importable.
    """
    if _is_file(name):
        places = [Path(folder) / name for folder in [*map(str, folders), *sys.path]]
        file = next((place.resolve() for place in places if place.is_file()), None)
        return None if file is None else importlib.util.spec_from_file_location(file.stem, file)
    first, *rest = name.split(".")
    try:
        found = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        found = None
    if found is None:
        found = PathFinder.find_spec(first, [str(folder) for folder in folders])
    for part in rest:
        if found is None or found.submodule_search_locations is None:
            return None
        found = PathFinder.find_spec(f"{found.name}.{part}", list(found.submodule_search_locations))
    return found


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Let what is imported read nothing, print beside our output, and leave us where we are."""
    folder, stdin = Path.cwd(), sys.stdin
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdin = stdin
        os.chdir(folder)


def is_module(name: str) -> bool:
    """Whether there is a module of this name; packages that it is in are imported for that."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _is_file(module: str) -> bool:
    """Whether a module is named by its file."""
    return module.endswith(".py")


def _import_file(name: str) -> Any:
    """Import a module by its file: once, unless it is edited, or another study has another one."""
    spec = find_module(name)
    assert spec is not None
    assert spec.loader is not None
    assert spec.origin is not None
    now = (spec.origin, Path(spec.origin).read_bytes())
    known, before = sys.modules.get(spec.name), _imported.get(spec.name)
    if known is not None and (
        before == now if before else getattr(known, "__file__", None) == spec.origin
    ):
        return known
    if known is not None and before is None:
        raise ImportError(
            f"its name is that of module '{spec.name}', which is imported already; rename it"
        )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        # Not by `spec.loader`, which takes compiled code for that of a file of the same size and
        # second.
        exec(compile(now[1], spec.origin, "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[spec.name]
        raise
    _imported[spec.name] = now
    return module


def _is_untried(module: str) -> bool:
    """Whether a module is of the study's own, and was neither imported nor tried yet."""
    if module in sys.modules or module in _tried or module.partition(".")[0] in _OUR_PACKAGES:
        return False
    file = _file_of(module)
    return file is not None and not {"site-packages", "dist-packages"} & {*file.parts}


def _file_of(module: str) -> Path | None:
    """Return the file or folder of a module, of a package that of its first part; None if none.

    Nothing is imported for that.
    """
    try:
        first = module if _is_file(module) else module.partition(".")[0]
        found = find_module(first)
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    if found.origin is not None and found.has_location:
        return Path(found.origin)
    return next((Path(place) for place in found.submodule_search_locations or ()), None)

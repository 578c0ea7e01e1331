"""Compiles `hpo/estimators/trees.c`, with a compiler that comes as a package."""

import hashlib
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError


class CompileWithZig(build_ext):
    """Makes plain shared libraries, which need no headers of Python."""

    def build_extension(self, ext):
        """Compile a source into a library, beside the modules of its package."""
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        source_hash = hashlib.sha256(Path(ext.sources[0]).read_bytes()).hexdigest()
        command = [
            *(sys.executable, "-m", "ziglang", "cc", "-std=c11", "-shared", "-fPIC", "-O3"),
            # For every node of a cluster, and rounded as it is written.
            *("-mcpu=baseline", "-ffp-contract=off", "-Wall", "-Wextra"),
            *(f'-DSOURCE_HASH="{source_hash}"', *ext.sources),
            *("-o", str(library)),
        ]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            raise CompileError(f"{ext.sources[0]}: {exc}") from exc


setup(
    # Without it scores are the same, but take several times as long: `hpo doctor` says so.
    ext_modules=[Extension("hpo.estimators._trees", ["hpo/estimators/trees.c"], optional=True)],
    cmdclass={"build_ext": CompileWithZig},
)

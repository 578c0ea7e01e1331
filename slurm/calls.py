"""Calls of SLURM's own programs; whatever keeps one from answering becomes an error."""

from __future__ import annotations

import os
import re
import subprocess

from slurm.errors import SlurmError, UnreachableError

TIMEOUT_S = 60.0
# Settings of a user's own that would change what is listed or how it is written.
_UNWANTED = ("SQUEUE_", "SCANCEL_", "SINFO_", "SCONTROL_")
_NO_ANSWER = re.compile(
    r"unable to contact slurm controller|connect failure|socket timed out|connection refused"
    r"|could not establish a configuration source|not responding|controller.*(down|standby)",
    re.IGNORECASE,
)


def call(*command: str, timeout_s: float = TIMEOUT_S) -> str:
    """Run one of SLURM's programs and return what it prints.

    Raises
    ------
    UnreachableError
        If there is no such program, or the controller does not answer.
    SlurmError
        If it refuses, with its own words.
    """
    program = command[0]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_UNWANTED)}
    environment["SLURM_TIME_FORMAT"] = "standard"
    environment["SLURM_BITSTR_LEN"] = "0"  # arrays in full, however many jobs they have
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as exc:
        raise UnreachableError(missing_program(program)) from exc
    except subprocess.TimeoutExpired as exc:
        raise UnreachableError(
            f"SLURM cannot be asked: {program} gave no answer in {timeout_s:g} s; try again later"
        ) from exc
    if done.returncode == 0:
        return done.stdout
    words = one_line(done.stderr or done.stdout, program)
    if says_no_answer(words):
        raise UnreachableError(f"SLURM cannot be asked: {program}: {words}; try again later")
    raise SlurmError(f"{program}: {words or f'exit code {done.returncode}'}")


def says_no_answer(words: str) -> bool:
    """Whether a message means that the controller did not answer."""
    return _NO_ANSWER.search(words) is not None


def missing_program(program: str) -> str:
    """Return what to say where a program of SLURM is not installed."""
    return (
        f"SLURM cannot be asked: no program {program} on PATH; use a login node of the cluster,"
        " or load the module that brings it"
    )


def one_line(text: str, program: str) -> str:
    """Return the messages of a program in one line, without its name before each."""
    pattern = re.compile(rf"^{re.escape(program)}: (error: |fatal: )?")
    lines = (pattern.sub("", line.strip()) for line in text.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))

"""A program as an objective: started once for each trial, scored by what it leaves behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from hpo.errors import ObjectiveError, describe_os_error
from hpo.objectives.programs.program_output import ProgramOutput, pass_on
from hpo.objectives.programs.score_file import read_score
from hpo.objectives.scores import SCORE, check_part
from hpo.redaction import redact, redact_arguments
from hpo.spec.objectives import ProgramSpec, variable_of
from hpo.spec.placeholders import fill, names_in
from hpo.spec.space import Dimension, distributions
from hpo.system.atomic_files import replace_file
from hpo.system.programs import running
from hpo.wording import abridge, one_line

# The trial's own folder, which whoever calls a program has set.
FOLDER_VARIABLE = "HPO_TRIAL_DIR"
NUMBER_VARIABLE = "HPO_TRIAL_NUMBER"
PARAMS_VARIABLE = "HPO_PARAMS"
PARAMS_NAME = "params.json"
# How long a full disk is waited for.
DISK_PATIENCE_S = 60.0
_SHELL = "/bin/sh"


class Program:
    """A function of a trial that runs the program of a study file, and returns its score.

    It draws all parameters, and the program finds them on its command line, in environment
    variables (`HPO_PARAM_LR`) and in the JSON file `$HPO_PARAMS`. It finds its trial's folder in
    `$HPO_TRIAL_DIR`, and runs in the environment of this process otherwise. What it prints is
    printed here.

    Attributes
    ----------
    directions
        Optuna's word for which scores are better, of each score.
    score_names
        What the scores are.
    splits_hash
        No data are divided.

    Raises
    ------
    ObjectiveError
        If there is no such program, or no such folder to run it in.
    """

    splits_hash = ""

    def __init__(self, spec: ProgramSpec, space: Mapping[str, Dimension], seed: int) -> None:
        self._spec, self._seed = spec, seed
        self._distributions = distributions(space)
        self.directions = spec.all_directions
        self.score_names = spec.value_names or tuple(score.label for score in spec.score)
        # All that is looked for, scores first.
        self._numbers = (*spec.score, *spec.constraints.values())
        # Commands that change the working directory later on do not matter.
        self._start = Path.cwd()
        self._check_folder()
        self._executable = self._find()

    @property
    def code_files(self) -> list[Path]:
        """The files that the command names, as it is written: scripts, and inputs as well.

        An installed program, which is found on PATH or by its full path, is none of them; nor are
        files that one of these imports or reads.
        """
        folder, found = self._folder_at_check() or self._start, []
        words = self._spec.words
        if self._spec.shell:
            words = _shell_words(words[0])
        elif self._executable is None:
            words = words[1:]
        for word in words:
            # Also of an argument such as --config=settings.yaml.
            for text in filter(None, (word, word.partition("=")[2])):
                # What the program itself is found by, and what it finds.
                path = self._start / text if word is self._spec.words[0] else folder / text
                installed = Path(text).is_absolute() and os.access(path, os.X_OK)
                if not {"{", "}"} & {*text} and _is_file(path) and not installed:
                    found.append(path)
        return list(dict.fromkeys(found))

    def __call__(self, trial: Trial) -> float | tuple[float, ...]:
        """Run the program with the parameters of a trial.

        Raises
        ------
        ObjectiveError
            If it cannot be started, fails, or leaves no finite score behind.
        optuna.TrialPruned
            If the trial is pruned by what the program reports.
        """
        folder = _trial_folder()
        params = {name: _draw(trial, name, d) for name, d in self._distributions.items()}
        values = {name: _text(value) for name, value in params.items()}
        params_file = folder / PARAMS_NAME
        environment = {
            # Or Python would keep its reports until there are 8 kB of them.
            "PYTHONUNBUFFERED": "1",
            **os.environ,
            **self._spec.env,
            **{variable_of(name): text for name, text in values.items()},
            FOLDER_VARIABLE: str(folder),
            NUMBER_VARIABLE: str(trial.number),
            PARAMS_VARIABLE: str(params_file),
        }
        seed = int(np.random.SeedSequence((self._seed, trial.number)).generate_state(1)[0])
        values |= {"trial_dir": str(folder), "number": str(trial.number), "seed": str(seed // 2)}
        _write_patiently(params_file, json.dumps(params, indent=1))
        output = self._run(trial, values, environment)
        numbers = tuple(self._read(folder, output))
        n_scores = len(self._spec.score)
        scores, others = numbers[:n_scores], numbers[n_scores:]
        for (name, must), value in zip(self._spec.constraints.items(), others, strict=True):
            trial.set_constraint(name, must.violation(value))
        return scores[0] if n_scores == 1 else scores

    def _run(
        self, trial: Trial, values: Mapping[str, str], environment: Mapping[str, str]
    ) -> ProgramOutput:
        """Run the program to its end, and return what it has printed."""
        arguments = self._arguments(values)
        output = ProgramOutput(
            [number.regex for number in self._numbers],
            self._spec.report.regex if self._spec.report else None,
        )
        pass_on(f"$ {one_line(self._shown(arguments))}\n")
        with contextlib.ExitStack() as stack:
            try:
                program = stack.enter_context(running(arguments, self._folder(values), environment))
            except (OSError, ValueError) as exc:
                reason = describe_os_error(exc) if isinstance(exc, OSError) else str(exc)
                raise ObjectiveError(f"cannot start {self._title}: {reason}") from exc
            reported: set[int] = set()
            for block in program.output():
                _report(trial, output, block, reported)
            _report(trial, output, b"", reported, final=True)
        if program.exit_code:
            raise ObjectiveError(f"{self._title} {_how(program.exit_code)}; {output.ending}")
        return output

    def _arguments(self, values: Mapping[str, str]) -> list[str]:
        if self._spec.shell:
            quoted = {name: shlex.quote(text) for name, text in values.items()}
            return [_SHELL, "-c", fill(self._spec.words[0], quoted)]
        first, *others = (fill(word, values) for word in self._spec.words)
        if self._executable is not None:
            first = str(self._executable)
        return [first, *others]

    def _shown(self, arguments: list[str]) -> str:
        return redact(arguments[2]) if self._spec.shell else shlex.join(redact_arguments(arguments))

    @property
    def _title(self) -> str:
        return f"'{one_line(' '.join(redact_arguments(self._spec.words)), 80)}'"

    def _folder(self, values: Mapping[str, str]) -> Path:
        """Return the folder that the program runs in."""
        return self._start / fill(self._spec.cwd or "", values)

    def _folder_at_check(self) -> Path | None:
        """Return the same where no trial is needed to know it."""
        return None if names_in(self._spec.cwd or "") else self._folder({})

    def _check_folder(self) -> None:
        folder = self._folder_at_check()
        if folder is not None and not folder.is_dir():
            raise ObjectiveError(f"[objective] cwd: there is no folder {folder}")

    def _find(self) -> Path | None:
        """Return the program where it is given by a path; None where PATH tells, or a trial.

        Like every path of a study file, one that is not absolute begins where the study was
        started.
        """
        word = self._spec.words[0]
        if self._spec.shell or names_in(word):
            return None
        word, what = fill(word, {}), "[objective] command"
        path = self._start / word
        hint = 'put its interpreter before it, as in ["python", "train.py"]'
        if "/" not in word:
            if shutil.which(word, path=self._spec.env.get("PATH")) is None:
                here = f"; for the file of that name here, {hint}" if _is_file(path) else ""
                raise ObjectiveError(f"{what}: there is no program '{word}' on PATH{here}")
            return None
        if not _is_file(path):
            raise ObjectiveError(f"{what}: there is no program {path}")
        if not os.access(path, os.X_OK):
            raise ObjectiveError(f"{what}: {path} is not executable: make it so, or {hint}")
        return path

    def _read(self, folder: Path, output: ProgramOutput) -> Iterator[float]:
        for at, number in enumerate(self._numbers):
            if number.file is None:
                what, value = f"regex '{abridge(number.regex or '')}'", output.number(at)
            else:
                what, value = (
                    f"{number.file}, {number.key}",
                    read_score(folder, number.file, number.key or ""),
                )
            try:
                yield float(check_part({SCORE: value})[SCORE])
            except ObjectiveError as exc:
                raise ObjectiveError(f"{what}: {exc}") from None


def _trial_folder() -> Path:
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if not folder:
        raise ObjectiveError(
            f"a program needs a folder for its trial: {FOLDER_VARIABLE} is not set"
        )
    return Path(folder).absolute()


def _write_patiently(path: Path, text: str) -> None:
    """Write a file; a disk that is full for a while costs no trial, and not one after the other."""
    deadline = time.monotonic() + DISK_PATIENCE_S
    while True:
        try:
            return replace_file(path, text)
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full or time.monotonic() >= deadline:
                said = f"parameters cannot be written: {describe_os_error(exc)}"
                raise ObjectiveError(said) from exc
        time.sleep(1.0)


def _draw(trial: Trial, name: str, space: BaseDistribution) -> Any:
    if isinstance(space, FloatDistribution):
        return trial.suggest_float(name, space.low, space.high, step=space.step, log=space.log)
    if isinstance(space, IntDistribution):
        return trial.suggest_int(name, space.low, space.high, step=space.step, log=space.log)
    return trial.suggest_categorical(name, space.choices)  # type: ignore[attr-defined]


def _text(value: bool | int | float | str) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _report(
    trial: Trial, output: ProgramOutput, block: bytes, reported: set[int], *, final: bool = False
) -> None:
    """Report what a block of output says, each step once, or raise TrialPruned."""
    for report in output.read(block, final=final):
        if report.step in reported:
            continue
        reported.add(report.step)
        trial.report(report.value, report.step)
        if trial.should_prune():
            raise TrialPruned(f"at step {report.step}")


def _how(code: int) -> str:
    """Return how a program ended that did not end well."""
    if code < 0:
        name = _signal_name(-code)
        memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"was killed by {name}{memory}"
    # What a shell or mpirun says of a program that it has started.
    of_signal = f" (128 + {_signal_name(code - 128)})" if 128 < code < 128 + signal.NSIG else ""
    return f"ended with exit code {code}{of_signal}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_file(path: Path) -> bool:
    """Whether there is a file; what could not be the name of one is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _shell_words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:
        return tuple(command.split())

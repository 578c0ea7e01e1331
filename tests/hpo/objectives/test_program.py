"""Programs as objectives: real programs, scored, pruned, failing, and never left behind."""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import psutil
import pytest

from hpo.errors import ObjectiveError, StopRequested
from hpo.objectives.programs.program import FOLDER_VARIABLE, Program
from hpo.spec.objectives import ProgramSpec
from hpo.spec.sections import StudySpec
from hpo.worker.signals import SIGNALS, StopSignal
from tests.support.studies import make_spec, wait_until

LR = {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}
JSON_SCORE = {"json": "result.json", "key": "rmse"}
REGEX_SCORE = {"regex": r"rmse=(\S+)"}
REPORT = {"regex": r"epoch (?P<step>\d+) loss (?P<value>\S+)"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the trial; the working directory is the one above it."""
    trial_folder = tmp_path / "trial 0"
    trial_folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FOLDER_VARIABLE, str(trial_folder))
    return trial_folder


def study_spec(space: Any, **objective: Any) -> StudySpec:
    return make_spec(objective=objective, space=space, table=None, cv=None, estimator=None)


def make(space: Any = None, **objective: Any) -> Program:
    spec = study_spec({"lr": LR} if space is None else space, **objective)
    assert isinstance(spec.objective, ProgramSpec)
    return Program(spec.objective, spec.space, spec.seed)


def python(code: str, *arguments: str) -> list[str]:
    """The command of a Python script beside the study file."""
    Path("train.py").write_text(f"import json, os, signal, subprocess, sys, time\n{code}")
    return [sys.executable, "train.py", *arguments]


def run(program: Program, study: optuna.Study | None = None, **fixed: Any) -> Any:
    """Score one trial."""
    study = study or optuna.create_study(directions=list(program.directions))
    if fixed:
        study.enqueue_trial(fixed)
    return program(study.ask())


def failure(program: Program, **fixed: Any) -> str:
    with pytest.raises(ObjectiveError) as caught:
        run(program, **fixed)
    return str(caught.value)


def written_pids(path: str = "pids") -> list[int]:
    file = Path(path)
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_behind() -> list[int]:
    """What a test's program noted of itself and what it started, and still lives."""
    pids = written_pids()
    assert pids, "nothing was started"
    return [pid for pid in pids if lives(pid)]


# What a program notes its processes with, and a child that does nothing for long.
NOTE = """
def note(pid):
    with open("pids", "a") as stream:
        stream.write(f"{pid}\\n")
def child(code="import time; time.sleep(1000)", **options):
    note(subprocess.Popen([sys.executable, "-c", code], **options).pid)
note(os.getpid())
"""


def test_a_score_is_read_from_a_json_file_of_the_trials_folder(folder):
    code = (
        'lr, out = float(sys.argv[1]), sys.argv[2]\n'
        'json.dump({"metrics": {"rmse": lr * 2}}, open(out + "/result.json", "w"))'
    )  # fmt: skip
    program = make(
        command=python(code, "{lr}", "{trial_dir}"),
        score={"json": "result.json", "key": "metrics.rmse"},
    )
    assert run(program, lr=0.012345678901234567) == 2 * 0.012345678901234567
    assert program.directions == ("minimize",)
    assert program.score_names == ("metrics.rmse",)
    assert program.splits_hash == ""


def test_the_last_match_of_a_regex_is_the_score(capsys):
    program = make(
        command=python('print("rmse=3 rmse=2\\nmore"); print("rmse=0.12D-03", file=sys.stderr)'),
        score={"regex": r"(?:^|\s)rmse=(?P<rmse>\S+)"},
    )
    assert run(program) == 0.12e-3
    assert program.score_names == ("rmse",)
    printed = capsys.readouterr().out
    assert printed.startswith(f"$ {sys.executable} train.py\n")
    assert printed.endswith("rmse=3 rmse=2\nmore\nrmse=0.12D-03\n")


def test_several_scores_are_for_several_objectives(folder):
    code = 'open(sys.argv[1] + "/r.json", "w").write("[{\\"a.b\\": 1}, 7]"); print("time=2.5")'
    program = make(
        command=python(code, "{trial_dir}"),
        score=[
            {"json": "r.json", "key": "0.a.b"},
            {"json": "r.json", "key": "1"},
            {"regex": "time=(.*)"},
        ],
        directions=["minimize", "maximize", "minimize"],
    )
    assert program.directions == ("minimize", "maximize", "minimize")
    assert run(program) == (1.0, 7.0, 2.5)


SPACE = {
    "lr": LR,
    "grid": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.25},
    "n": {"type": "int", "low": 1, "high": 100, "log": True},
    "second.max_depth": {"type": "int", "low": 2, "high": 10, "step": 2},
    "on": {"type": "categorical", "choices": [True, False]},
    "kind of it": {"type": "categorical", "choices": ["a b", "$(touch hit)'\"", "-x"]},
    "mixed": {"type": "categorical", "choices": [1, 1.0, "1", True]},
}
FIXED: dict[str, Any] = {
    "lr": 1e-05, "grid": 0.75, "n": 7, "second.max_depth": 4, "on": True,
    "kind of it": "$(touch hit)'\"", "mixed": 1.0,
}  # fmt: skip
TELL = """
told = {name: os.environ[name] for name in os.environ if name.startswith("HPO_")}
told["arguments"] = sys.argv[1:]
told["params"] = json.load(open(os.environ["HPO_PARAMS"]))
json.dump(told, open(os.environ["HPO_TRIAL_DIR"] + "/told.json", "w"))
print("rmse=1")
"""


def test_parameters_of_every_kind_reach_the_program_by_every_way(folder):
    names = ["{lr}", "--grid={grid}", "{n}", "{second.max_depth}", "{on}", "{kind of it}", "{{}}"]
    program = make(SPACE, command=python(TELL, *names), score=REGEX_SCORE)
    run(program, **FIXED)
    told = json.loads((folder / "told.json").read_text())
    assert told["arguments"] == ["1e-05", "--grid=0.75", "7", "4", "true", "$(touch hit)'\"", "{}"]
    assert told["params"] == FIXED
    assert told["HPO_PARAMS"] == str(folder / "params.json")
    assert told["HPO_TRIAL_NUMBER"] == "0"
    assert told["HPO_PARAM_LR"] == "1e-05"
    assert told["HPO_PARAM_SECOND_MAX_DEPTH"] == "4"
    assert told["HPO_PARAM_ON"] == "true"
    assert told["HPO_PARAM_KIND_OF_IT"] == "$(touch hit)'\""
    assert float(told["HPO_PARAM_MIXED"]) == 1.0


def test_a_shell_gets_every_value_as_one_word(folder):
    python(TELL)
    command = f"{shlex.quote(sys.executable)} train.py {{kind of it}} {{trial_dir}} a'{{{{x'"
    run(make(SPACE, command=command, shell=True, score=REGEX_SCORE), **FIXED)
    told = json.loads((folder / "told.json").read_text())
    assert told["arguments"] == ["$(touch hit)'\"", str(folder), "a{x"]
    assert not Path("hit").exists()


def test_a_seed_is_the_trials_own_and_the_same_again():
    program = make(command=["echo", "rmse={seed}", "{number}"], score=REGEX_SCORE)
    study = optuna.create_study()
    seeds = [run(program, study) for _ in range(3)]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**31 and seed.is_integer() for seed in seeds)
    assert run(program) == seeds[0]


def test_a_program_runs_where_it_is_told_and_with_what_it_is_given(folder, monkeypatch):
    code = 'print(f"rmse={os.environ[\'X\']}"); open("here", "w"); print(repr(sys.stdin.read()))'
    python(code)
    tool = Path("tool.sh")
    tool.write_text('#!/bin/sh\nexec "$@"\n')
    tool.chmod(0o755)
    script = str(Path("train.py").absolute())
    program = make(
        command=["./tool.sh", sys.executable, script],
        score=REGEX_SCORE,
        cwd="{trial_dir}",
        env={"X": "4"},
    )
    assert run(program) == 4.0
    assert (folder / "here").exists()


def test_the_files_of_the_study_that_a_command_names_are_its_code(tmp_path):
    command = python("", "--config=conf.yaml", "{lr}", "x" * 5000, "absent", str(tmp_path / "in"))
    for name in ("conf.yaml", "in", "run.sh"):
        Path(name).write_text("#!/bin/sh\n")
    Path("run.sh").chmod(0o755)
    program = make(command=command, score=REGEX_SCORE)
    assert program.code_files == [tmp_path / name for name in ("train.py", "conf.yaml", "in")]
    assert make(command=["./run.sh", "in"], score=REGEX_SCORE).code_files == [
        tmp_path / "run.sh",
        tmp_path / "in",
    ]
    text = f"{sys.executable} train.py {{lr}} > {{trial_dir}}/log"
    assert make(command=text, shell=True, score=REGEX_SCORE).code_files == [tmp_path / "train.py"]


def test_a_program_that_is_not_there_is_refused_by_name(tmp_path):
    def refusal(*command: str, **more: Any) -> str:
        with pytest.raises(ObjectiveError) as caught:
            make(command=list(command), score=REGEX_SCORE, **more)
        return str(caught.value)

    python("")
    assert "[objective] command: there is no program 'pyton' on PATH" in refusal("pyton", "train")
    assert "put its interpreter before it" in refusal("train.py")
    assert f"there is no program {tmp_path / 'absent.sh'}" in refusal("./absent.sh")
    assert "train.py is not executable: make it so" in refusal("./train.py")
    assert "cwd: there is no folder" in refusal("sh", cwd="absent")
    assert "no program 'sh' on PATH" in refusal("sh", env={"PATH": str(tmp_path)})


def test_a_program_that_cannot_be_started_fails_its_trial(tmp_path):
    tool = Path("tool")
    tool.write_text("not a program")
    tool.chmod(0o755)
    assert "cannot start './tool': " in failure(make(command=["./tool"], score=REGEX_SCORE))
    program = make(command=["sh"], score=REGEX_SCORE, cwd="{trial_dir}/absent")
    assert "absent: No such file or directory" in failure(program)


def test_without_a_folder_of_the_trial_nothing_is_run(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert "HPO_TRIAL_DIR is not set" in failure(make(command=["sh"], score=REGEX_SCORE))


@pytest.mark.parametrize(
    ("code", "messages"),
    [
        (
            "print('fine so far'); raise ValueError('alpha is too small')",
            ["ended with exit code 1", "fine so far", "ValueError: alpha is too small"],
        ),
        ("sys.exit(137)", ["exit code 137 (128 + SIGKILL)", "there was no output"]),
        ("os.kill(os.getpid(), 9)", ["was killed by SIGKILL, as the system does when memory"]),
        ("os.kill(os.getpid(), 40)", ["was killed by signal 40"]),
        ("print('x' * 9000); sys.exit(3)", ["exit code 3", "…"]),
        ("print('api_key=abcdefgh\\x1b[1m'); sys.exit(3)", ["api_key=***"]),
        ("print('rmsee=1')", [r"no line of the output matches regex 'rmse=(\S+)'", "rmsee=1"]),
        ("print('rmse=nan')", [r"regex 'rmse=(\S+)': 'score': must be finite, is nan"]),
        ("print('rmse=****')", ["must be a number, is '****'"]),
        ("print('x' * 99999, 'rmse=1')", ["1 of more than 10,000 characters were not searched"]),
    ],
)
def test_a_reason_says_how_a_program_failed(code, messages):
    reason = failure(make(command=python(code), score=REGEX_SCORE))
    for message in messages:
        assert message in reason
    assert len(reason) < 1000
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (None, ["result.json: the program did not write it in the trial's folder", "other.txt"]),
        ('{"mse": 1}', ["result.json: there is no 'rmse'; did you mean 'mse'?"]),
        ('{"a": {"b": [1, 2]}}', ["valid: a.b"]),
        ("[]", ["there is no 'rmse'; it has []"]),
        ("", ["result.json: not valid JSON", "it has nothing"]),
        ('{"rmse": 1', ["not valid JSON", '{"rmse": 1']),
        ("[" * 100_000, ["not valid JSON"]),
        ("\\udcff", ["not valid JSON"]),
        ('{"rmse": NaN}', ["result.json, rmse: 'score': must be finite, is nan"]),
        ('{"rmse": 1e999}', ["must be finite, is inf"]),
        ('{"rmse": null}', ["result.json, rmse: 'score': must be a number, is None"]),
        ('{"rmse": "0.5"}', ["must be a number, is '0.5'"]),
        ('{"rmse": [1]}', ["must be a number, is [1]"]),
    ],
)
def test_a_score_file_without_a_score_is_told(folder, content, messages):
    (folder / "other.txt").touch()
    if content is not None:
        data = content.encode("utf-8", "surrogateescape") if "\\u" not in content else b"\xff"
        (folder / "result.json").write_bytes(data)
    reason = failure(make(command=["true"], score=JSON_SCORE))
    for message in messages:
        assert message in reason
    assert len(reason) < 1000


def test_a_score_file_that_is_no_file_is_not_waited_for(folder):
    os.mkfifo(folder / "result.json")
    assert "must be a file" in failure(make(command=["true"], score=JSON_SCORE))


class Reports(optuna.pruners.BasePruner):
    """Prunes at a step."""

    def __init__(self, at: float) -> None:
        self.at = at

    def prune(self, study, trial):
        return trial.last_step >= self.at


EPOCHS = """
for step in range(5):
    print(f"epoch {step} loss {1 / (step + 1)}\\repoch {step} loss 9", end="\\n")
print("epoch 5 loss nan", end="")
open(sys.argv[1] + "/result.json", "w").write('{"rmse": 0.5}')
"""


def test_what_is_reported_is_stored_once_a_step():
    program = make(command=python(EPOCHS, "{trial_dir}"), score=JSON_SCORE, report=REPORT)
    study = optuna.create_study()
    assert run(program, study) == 0.5
    reported = dict(study.trials[0].intermediate_values)
    assert math.isnan(reported.pop(5))
    assert reported == {step: 1 / (step + 1) for step in range(5)}


@pytest.mark.parametrize("ignores", [False, True], ids=["leaves", "ignores TERM"])
def test_a_pruned_program_is_ended(ignores):
    code = f"{NOTE}\nchild(start_new_session=True)\n"
    if ignores:
        code += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += 'for step in range(10**9):\n    print("epoch", step, "loss 1"); time.sleep(0.01)'
    program = make(command=python(code), score=JSON_SCORE, report=REPORT)
    study = optuna.create_study(pruner=Reports(3))
    with pytest.raises(optuna.TrialPruned, match="at step 3"):
        run(program, study)
    assert sorted(study.trials[0].intermediate_values) == [0, 1, 2, 3]
    assert not left_behind()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch 1 loss ***", r"report 'epoch 1 loss \*\*\*': value: must be a number"),
        (f"epoch {2**31} loss 1", "step must be an integer from 0 to 2147483647, is '2147483648'"),
    ],
)
def test_a_report_without_numbers_fails_the_trial(line, message):
    code = f"{NOTE}\nprint({line!r})\ntime.sleep(1000)"
    with pytest.raises(ObjectiveError, match=message):
        run(make(command=python(code), score=JSON_SCORE, report=REPORT))
    assert not left_behind()


@pytest.mark.parametrize(
    "code",
    [
        # 200 MB without a line end, binary, of half characters, and with lines ends alone.
        "for _ in range(200): sys.stdout.buffer.write(b'x' * 1_000_000)",
        "for _ in range(100): sys.stdout.buffer.write(os.urandom(100_000))",
        "sys.stdout.buffer.write(b'\\xe2\\x82' * 100_000)",
        "sys.stdout.buffer.write(b'\\n' * 5_000_000)",
    ],
)
def test_any_output_is_read_in_bounded_memory(code, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Path(os.devnull).open("w", encoding="ascii"))  # noqa: SIM115
    program = make(command=python(f"{code}\nprint('\\nrmse=1')"), score=REGEX_SCORE, report=REPORT)
    before = psutil.Process().memory_info().rss
    assert run(program) == 1.0
    assert psutil.Process().memory_info().rss - before < 50_000_000
    sys.stdout.close()


def test_a_program_may_close_its_output_and_go_on():
    code = (
        "print('rmse=1', flush=True); os.close(1); os.close(2); time.sleep(0.3); open('end', 'w')"
    )
    assert run(make(command=python(code), score=REGEX_SCORE)) == 1.0
    assert Path("end").exists()


@pytest.mark.parametrize(
    "child",
    [
        "child()",
        "child(start_new_session=True)",
        "child('import signal, time; signal.signal(15, 1); time.sleep(1000)', process_group=0)",
        "child('while True: print(5)')",
    ],
)
def test_what_keeps_the_output_open_is_ended_with_the_program(child, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Path(os.devnull).open("w"))  # noqa: SIM115
    code = f"{NOTE}\nprint('rmse=1')\n{child}"
    assert run(make(command=python(code), score=REGEX_SCORE)) == 1.0
    assert not left_behind()
    sys.stdout.close()


def test_what_is_printed_behind_a_program_is_waited_for():
    code = "import time; time.sleep(0.5); print('rmse=2')"
    program = make(
        command=python(f"subprocess.Popen([sys.executable, '-c', {code!r}])"), score=REGEX_SCORE
    )
    assert run(program) == 2.0


@pytest.mark.parametrize("ignores", [False, True], ids=["leaves", "ignores TERM"])
@pytest.mark.parametrize("signals", [1, 2])
def test_a_request_to_leave_ends_the_program_whatever_it_is_at(ignores, signals):
    code = f"{NOTE}\nchild()\nchild(start_new_session=True)\n"
    if ignores:
        code += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    program = make(command=python(f"{code}open('ready', 'w')\ntime.sleep(1000)"), score=REGEX_SCORE)

    def send() -> None:
        wait_until(Path("ready").exists)
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGUSR2)
            threading.Event().wait(0.1)

    stop = StopSignal()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop.install()
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(StopRequested, match="SIGUSR2"), stop.interruptible():
            run(program)
        # A second signal may come after that.
        sender.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not left_behind()


def test_a_request_to_leave_while_a_program_is_started_ends_it(monkeypatch):
    """The exception comes when the program runs, and nobody knows of it yet."""
    import subprocess

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            wait_until(Path("ready").exists)
            assert self.stdout is not None
            self.stdout.close()
            self.returncode = 0
            raise StopRequested("SIGTERM")

    program = make(
        command=python(f"{NOTE}\nchild()\nopen('ready', 'w')\ntime.sleep(1000)"), score=REGEX_SCORE
    )
    monkeypatch.setattr("hpo.system.programs.subprocess.Popen", Interrupted)
    with pytest.raises(StopRequested):
        run(program)
    assert not left_behind()


def test_programs_of_others_are_left_alone():
    import subprocess

    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            assert run(make(command=["echo", "rmse=1"], score=REGEX_SCORE)) == 1.0
            assert other.poll() is None
        finally:
            other.kill()


def test_a_full_disk_is_waited_for(monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    write = Mock(side_effect=[full, None, full])
    monkeypatch.setattr("hpo.objectives.programs.program.replace_file", write)
    program = make(command=python("print('rmse=1')"), score=REGEX_SCORE)
    assert run(program) == 1.0
    monkeypatch.setattr("hpo.objectives.programs.program.DISK_PATIENCE_S", 0.0)
    assert failure(program) == "parameters cannot be written: No space left on device"

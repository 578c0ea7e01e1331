"""Programs in study files: what is refused of a command, its scores and its reports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpo.errors import SpecError
from hpo.spec.loading import canonical, load, validate
from hpo.spec.objectives import ProgramSpec
from hpo.spec.placeholders import fill, names_in, quoted_names
from hpo.spec.sections import StudySpec
from hpo.spec.writing import write_toml

VALID = """
trials = 10
[objective]
command = ["python", "train.py", "--lr", "{lr}", "--out", "{trial_dir}"]
score = { json = "result.json", key = "metrics.rmse" }
[space]
lr = { type = "float", low = 1e-5, high = 1e-1, log = true }
"base.alpha" = { type = "int", low = 1, high = 3 }
"""
SCORE = '{ json = "result.json", key = "metrics.rmse" }'
COMMAND = '["python", "train.py", "--lr", "{lr}", "--out", "{trial_dir}"]'
TWO = """[{ regex = 'a=(\\S+)' }, { regex = 'b=(\\S+)' }]"""


def read(tmp_path, old: str = "", new: str = "") -> StudySpec:
    assert old in VALID
    path = tmp_path / "mine.toml"
    path.write_text(VALID.replace(old, new, 1) if old else VALID)
    return load(path)


def test_a_program_needs_nothing_else(tmp_path):
    spec = read(tmp_path)
    program = spec.objective
    assert isinstance(program, ProgramSpec)
    assert program.command[0] == "python"
    assert program.all_directions == ("minimize",)
    assert [score.label for score in program.score] == ["metrics.rmse"]
    assert spec.pruned_by is None
    assert spec.named_modules == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        (f"score = {SCORE}", f"score = {TWO}\ndirections = ['minimize', 'maximize']"),
        ("score =", "cwd = '{trial_dir}'\nenv = { OMP_NUM_THREADS = '2' }\nscore ="),
        ("score =", "direction = 'maximize'\nscore ="),
        ("score =", "report = { regex = '(?P<step>.) (?P<value>.)' }\nscore ="),
        (
            f"command = {COMMAND}",
            'shell = true\ncommand = "python train.py {lr} > {trial_dir}/log"',
        ),
    ],
)
def test_a_program_reads_back_as_it_was(tmp_path, old, new):
    spec = read(tmp_path, old, new)
    assert validate(json.loads(canonical(spec)), "stored") == spec
    (tmp_path / "again.toml").write_text(write_toml(spec))
    assert load(tmp_path / "again.toml") == spec


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("command", "comand", r"objective\.comand: unknown key; did you mean 'command'"),
        ("score", "scor", r"objective\.scor: unknown key; did you mean 'score'"),
        ("score", "name = 'x'\nscore", r"objective\.name: unknown key"),
        ("{lr}", "{lrr}", r"\[objective\] command: unknown placeholder '\{lrr\}'; did you mean"),
        ("{lr}", "{}", r"unknown placeholder '\{\}'; valid: base\.alpha, lr, number, seed, trial"),
        ("{lr}", "{lr", r"command: a single '\{' in '\{lr'; a brace itself is written \{\{ or"),
        ("{lr}", "lr}", r"a single '\}'"),
        ("score =", "cwd = '{trialdir}'\nscore =", r"cwd: unknown placeholder .* mean 'trial_dir'"),
        ("score =", "cwd = ''\nscore =", r"objective\.cwd: .*at least 1 character"),
        ("lr = {", "LR = { type = 'int', low = 1, high = 2 }\nlr = {", "both are the environment"),
        ("[space]", "[cv]\nscheme = 'kfold'\n[space]", r"\[cv\], \[estimator\] and \[fit\] belong"),
        (
            "[space]",
            "[table]\ndataset = 'transport'\nfamilies = ['ratios']\n[space]",
            r"\[table\] does not concern a function or a program",
        ),
        ("lr = {", "n = { type = 'staged', high = 20 }\nlr = {", "n: a staged dimension belongs"),
        (SCORE, "{}", r"objective\.score\.0: needs one of json \(a file, with key\) and regex"),
        (SCORE, "[]", r"objective\.score: .*at least 1 item"),
        (SCORE, "3", r"objective\.score: .*got 3"),
        (SCORE, "{ json = 'a.json' }", "json and key belong together"),
        (SCORE, "{ key = 'a' }", "needs one of json"),
        (SCORE, "{ json = 'a', key = 'a', regex = '(.)' }", "needs one of json"),
        (SCORE, "{ regex = '(.)', key = 'a' }", "json and key belong together"),
        (SCORE, "{ jsn = 'a', key = 'a' }", r"score\.0\.jsn: unknown key; did you mean 'json'"),
        (SCORE, "{ json = '/tmp/a', key = 'a' }", "a file within the trial's own folder"),
        (SCORE, "{ json = '../a', key = 'a' }", "a file within the trial's own folder"),
        (SCORE, "{ regex = 'a' }", "regex must have one group, which is the number, has 0"),
        (SCORE, "{ regex = '(a)(b)' }", "one group, which is the number, has 2"),
        (SCORE, "{ regex = '(a' }", r"regex '\(a' is not valid: missing \)"),
        (SCORE, TWO, "directions must be a list of 2, one for each score, has 0"),
        ("score =", "directions = ['minimize']\nscore =", "belongs to a list of several scores"),
        ("score =", "direction = 'minimise'\nscore =", "'minimise'; did you mean 'minimize'"),
        (
            f"score = {SCORE}",
            f"score = {TWO}\ndirections = ['minimize', 'minimize']\n"
            "report = { regex = '(?P<step>.) (?P<value>.)' }",
            "report belongs to one score",
        ),
        (
            f"score = {SCORE}",
            f"score = {TWO}\ndirections = ['minimize', 'minimize']\ndirection = 'maximize'",
            "direction belongs to one score",
        ),
        ("score =", "report = { regex = '(?P<step>.)' }\nscore =", r"needs the group \(\?P<value>"),
        ("score =", "env = { A = 3 }\nscore =", r"objective\.env\.A: .*valid string, got 3"),
        ("score =", "env = { 'A=B' = 'x' }\nscore =", "'A=B' is no name of an environment"),
        ("score =", "env = { HPO_X = 'x' }\nscore =", "HPO_X: names that begin with HPO_"),
        ("score =", "env = { API_KEY = 'x' }\nscore =", "API_KEY: a password or key does not bel"),
        ("score =", "shell = true\nscore =", "command must be one text with shell = true"),
        (COMMAND, '"x"', "without a shell"),
        (COMMAND, "[]", "must be a list"),
        (COMMAND, "[1]", r"got \[1\]"),
        ('"python"', '""', "must begin with a program"),
        (
            f"command = {COMMAND}",
            "shell = true\ncommand = 'cat \"{trial_dir}/x\"'",
            r"leave out the quotes around \{trial_dir\}.*within quotes, write \$HPO_TRIAL_DIR",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_program_is_named(tmp_path, old, new, message):
    with pytest.raises(SpecError, match=message) as caught:
        read(tmp_path, old, new)
    assert str(caught.value).startswith(str(tmp_path / "mine.toml"))


def test_a_placeholder_must_not_mean_two_things():
    raw: dict[str, Any] = {
        "name": "x",
        "trials": 3,
        "objective": {"command": ["a", "{seed}"], "score": {"regex": "(.)"}},
        "space": {"seed": {"type": "int", "low": 1, "high": 9}},
    }
    with pytest.raises(SpecError, match=r"'\{seed\}' is the trial's, and \[space\] has a para"):
        validate(raw, "x")


def test_placeholders_are_filled_and_braces_kept():
    text = "{a b}{{x}}{lr}{{{lr}}}"
    assert names_in(text) == ["a b", "lr", "lr"]
    assert fill(text, {"a b": "{lr}", "lr": "1"}) == "{lr}{x}1{1}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr = {", "seed = { type = 'int', low = 1, high = 2 }\nlr = {"),
        ('"{lr}", "--out"', '"{base.alpha}", "{number}-{seed}"'),
        ('"base.alpha"', '"α"'),
    ],
)
def test_any_parameter_can_be_one_of_a_program(tmp_path, old, new):
    assert isinstance(read(tmp_path, old, new).objective, ProgramSpec)


@pytest.mark.parametrize(
    ("command", "quoted"),
    [
        ("a {x} 'b' {y}", []),
        ("a '{x}' {y}", ["x"]),
        ('a "b{x}c" "{y}"', ["x", "y"]),
        ("a \\' {x} \\\" {y}", []),
        ("a '\\' {x}", []),
        ("""a "it's" {x} 'say "' {y}""", []),
        ("a # don't\n{x}", []),
        ("a#'{x}'", ["x"]),
        ("awk '{{print $1}}' {x}", []),
    ],
)
def test_placeholders_within_quotes_are_found(command, quoted):
    assert quoted_names(command) == quoted

"""Study files, CSV files, objectives, estimators and loaders that are broken, each in one way."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.support.bad_input.broken_modules import MODULES

ELEMENTS = ("Na", "K", "Rb", "Mg", "Ca", "Sr")
LINES = [f"Li{n}{element}O{n},{n + len(element)}" for element in ELEMENTS for n in (1, 2)]
CSV = "\n".join(["formula,target", *LINES]) + "\n"

STUDY = """
trials = 2
[table]
dataset = "csv"
path = "mine.csv"
families = ["ratios"]
[cv]
scheme = "kfold"
folds = 3
[estimator]
name = "ridge"
[space]
alpha = { type = "float", low = 0.001, high = 10.0, log = true }
"""
OWN_OBJECTIVE = """
trials = 2
[objective]
name = "MODULE:Objective"
[space]
alpha = { type = "float", low = 0.0, high = 10.0 }
"""
OBJECTIVE = """
class Objective:
    direction = "minimize"
    score_name = "parabola"
    parts = ("a", "b")
    splits_hash = ""

    def __init__(self, table, *, seed):
        pass

    def score_part(self, params, part):
        return {"score": (params["alpha"] - 1.0) ** 2}

    def combine(self, parts):
        return {"score": sum(part["score"] for part in parts)}
"""
OWN_TABLE = """
trials = 2
[table]
dataset = "own"
loader = "MODULE:load"
[cv]
scheme = "group_kfold"
folds = 3
[estimator]
name = "ridge"
[space]
alpha = { type = "float", low = 0.1, high = 10.0 }
"""
LOADER = """
import numpy as np
from features.table import Column, OwnRows, Target

def load(data_dir):
    x = np.arange(12.0)
    return OwnRows(
        ids=[f"row-{k}" for k in range(12)],
        groups=[f"group-{k % 4}" for k in range(12)],
        labels=["water"] * 12,
        X=np.column_stack([x, x**2]),
        y=x * 3.0,
        columns=[Column("x", "made", "m"), Column("square", "made")],
        target=Target("y", "m"),
    )
"""
OWN_ESTIMATOR = STUDY.replace('"ridge"', '"MODULE:Model"')
MODEL = """
from sklearn.linear_model import Ridge

class Model(Ridge):
    pass
"""


class Broken(NamedTuple):
    """A study that is refused: what is wrong, its files, and what the error says."""

    what: str
    says: str
    study: str | bytes | None = STUDY
    csv: str | bytes | None = CSV
    module: str | None = None


def study(what: str, says: str, old: str, new: str) -> Broken:
    """A study file with one thing changed."""
    assert STUDY.count(old) == 1, old
    return Broken(what, says, STUDY.replace(old, new))


def table(what: str, says: str, csv: str | bytes | None, *changes: tuple[str, str]) -> Broken:
    """A CSV file that is broken, or does not suit the study file."""
    text = STUDY
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return Broken(what, says, text, csv)


def objective(what: str, says: str, module: str | None, text: str = OWN_OBJECTIVE) -> Broken:
    """An objective of the user's own."""
    return Broken(what, says, text, None, module)


def loader(what: str, says: str, *changes: tuple[str, str], module: str = LOADER) -> Broken:
    """A table of the user's own."""
    for old, new in changes:
        assert module.count(old) == 1, old
        module = module.replace(old, new)
    return Broken(what, says, OWN_TABLE, None, module)


def changed(old: str, new: str) -> str:
    """The objective with one thing changed."""
    assert OBJECTIVE.count(old) == 1, old
    return OBJECTIVE.replace(old, new)


SCHEME = 'scheme = "kfold"\nfolds = 3'
SPACE = 'alpha = { type = "float", low = 0.001, high = 10.0, log = true }'
GATED = """name = "gated"
gate = ["no_such_column"]
base = { name = "ridge" }
second = { name = "ridge" }"""
ENSEMBLE = """name = "ensemble"
[estimator.members.one]
name = "ridge"
without = ["no_such_family"]
[estimator.members.two]
name = "ridge\""""
PATH = 'path = "mine.csv"'

CORPUS = [
    # The study file.
    Broken("no study file", "x.toml: cannot be read", None),
    Broken("no TOML", "x.toml: not valid TOML", "trials = = 3"),
    Broken("no text", "x.toml: not UTF-8 text", b"trials = 1\n\xff\xfe"),
    study("unknown key", r"cv\.foldz: unknown key; did you mean 'folds'", "folds", "foldz"),
    study("unknown section", r"tabel: unknown key; did you mean 'table'", "[table]", "[tabel]"),
    study("no budget", "trials: required and missing", "trials = 2", ""),
    study("budget of none", "trials: ", "trials = 2", "trials = 0"),
    study("budget without a space", "trials must be 1, got 2", SPACE, ""),
    study("unknown dataset", "table.dataset: unknown 'cvs'", '"csv"', '"cvs"'),
    study("unknown family", "unknown family 'rations'", '"ratios"', '"rations"'),
    study("family twice", "listed twice", '["ratios"]', '["ratios", "ratios"]'),
    study("family without CIFs", "needs CIF files", '["ratios"]', '["bonds"]'),
    study("CIFs without ids", "`cifs` needs `id`", PATH, f'{PATH}\ncifs = "cifs"'),
    study("unknown scheme", "cv.scheme: unknown 'kfolds'", '"kfold"', '"kfolds"'),
    study("one fold", r"cv\.folds: ", "folds = 3", "folds = 1"),
    study(
        "outer fold beyond",
        "outer must be below folds, 3, got 3",
        "folds = 3",
        SCHEME[17:] + "\nouter = 3",
    ),
    study("unknown estimator", "unknown 'rigde'; did you mean 'ridge'", '"ridge"', '"rigde"'),
    study("no such package", "cannot import 'no_such_package'", '"ridge"', '"no_such_package:X"'),
    study("no such class", "has no 'Rigde'", '"ridge"', '"sklearn.linear_model:Rigde"'),
    study(
        "fixed parameter unknown",
        "no parameter 'alhpa'; did you mean 'alpha'",
        '"ridge"',
        '"ridge"\nparams = { alhpa = 1.0 }',
    ),
    study(
        "fixed and searched", "fixed in .* and in", '"ridge"', '"ridge"\nparams = { alpha = 1.0 }'
    ),
    study("searched parameter unknown", "no parameter 'aplha'", "alpha =", "aplha ="),
    study(
        "end that is refused",
        r"refuses {'alpha': -1\.0}",
        SPACE,
        SPACE.replace("0.001", "-1.0").replace(", log = true", ""),
    ),
    study("ends reversed", r"space\.alpha", "low = 0.001", "low = 100.0"),
    study("no choices", r"space\.alpha", SPACE, 'alpha = { type = "categorical", choices = [] }'),
    study(
        "staged without a curve",
        "a staged dimension is a number of boosted",
        SPACE,
        f'{SPACE}\nmax_iter = {{ type = "staged", high = 20 }}',
    ),
    study(
        "no quantiles",
        "predicts no quantiles",
        "[space]",
        '[objective]\nname = "quantile"\nlevel = 0.5\n[space]',
    ),
    study(
        "no weights",
        "takes no weights of rows",
        '"ridge"\n[space]\n' + SPACE,
        '"k_neighbors"\n[fit]\ngroup_weight = 0.5\n[space]\n'
        'n_neighbors = { type = "int", low = 1, high = 3 }',
    ),
    study(
        "leak",
        "made from the target: 'sigma_is_coerced'",
        '["ratios"]',
        '["ratios", "sigma_is_coerced"]',
    ),
    study(
        "gate that is no column",
        r"gate: the table has no column 'no_such_column'",
        'name = "ridge"\n[space]\nalpha',
        f'{GATED}\n[space]\n"base.alpha"',
    ),
    study(
        "family of a member",
        "the table has no family 'no_such_family'",
        'name = "ridge"\n[space]\nalpha',
        f'{ENSEMBLE}\n[space]\n"one.alpha"',
    ),
    study(
        "parameter of no member",
        "'alpha' belongs to one of its models",
        'name = "ridge"',
        ENSEMBLE.replace('without = ["no_such_family"]\n', ""),
    ),
    # The data.
    table("no CSV", "there is no file .*mine.csv", None),
    table("empty CSV", "the file is empty", ""),
    table("header alone", "no row below the header", "formula,target\n"),
    table("spreadsheet", "a broken spreadsheet or archive", b"PK\x03\x04rest"),
    table("binary", "no text file", b"formula,target\n\x00\x01\x02"),
    table(
        "one column missing",
        "no column 'target' for the target; the nearest is 'tagret'",
        CSV.replace("target", "tagret"),
    ),
    table(
        "three columns missing",
        "no column 'formula' for the formula; .*no column 'paper' for the group; .*"
        "no column 'target' for the target; .*Columns: frmula, tagret",
        CSV.replace("formula,target", "frmula,tagret"),
        (PATH, f'{PATH}\ngroup = "paper"'),
    ),
    table(
        "column twice",
        "column 'target', the target, is there 2 times",
        "formula,target,target\nLiF,1,1\n",
    ),
    table("no formula", "none of its 12 rows can be used", re.sub(r"(?m)^Li", "Xx", CSV)),
    table("no numbers", "none of its 12 rows can be used", re.sub(r"(?m)\d+$", "high", CSV)),
    table(
        "no logarithm",
        "none of its 12 rows can be used",
        re.sub(r"(?m),(\d+)$", r",-\1", CSV),
        (PATH, f"{PATH}\nlog10 = true"),
    ),
    table(
        "fewer rows than folds", "12 folds need at least 12 rows", CSV, ("folds = 3", "folds = 12")
    ),
    table(
        "fewer groups than folds",
        "5 folds need at least 5 groups",
        "formula,target,paper\n"
        + "".join(f"{line},{line[3]}\n" for line in LINES if line[3] in "NK"),
        (SCHEME, 'scheme = "group_kfold"\nfolds = 5'),
        (PATH, f'{PATH}\ngroup = "paper"'),
    ),
    table(
        "groups all too large",
        "groups that may be validated on",
        "formula,target,paper\n" + "".join(f"{line},p\n" for line in LINES),
        (SCHEME, 'scheme = "test_like"\nfolds = 2\nmax_group_rows = 1'),
        (PATH, f'{PATH}\ngroup = "paper"'),
    ),
    table(
        "nothing to train on",
        "no row is a train row",
        "formula,target,part\n" + "".join(f"{line},test\n" for line in LINES),
        (PATH, f'{PATH}\nsplit = "part"'),
    ),
    table(
        "split of other words",
        "must be 'train' or 'test'",
        "formula,target,part\n" + "".join(f"{line},maybe\n" for line in LINES),
        (PATH, f'{PATH}\nsplit = "part"'),
    ),
    table(
        "target that never changes",
        "the target is 7 in all 10 training rows",
        re.sub(r"(?m)\d+$", "7", CSV),
    ),
    table(
        "values that cannot be ranked",
        "have one value, which cannot be ranked",
        re.sub(r"(?m)\d+$", "7", CSV).replace(",7", ",8", 3),
        ("[space]", '[objective]\nname = "spearman"\n[space]'),
    ),
    table(
        "inner folds after an outer one",
        "4 folds need at least 4 groups",
        "formula,target,paper\n" + "".join(f"{line},{k % 4}\n" for k, line in enumerate(LINES)),
        (SCHEME, 'scheme = "group_kfold"\nfolds = 4\nouter = 0'),
        (PATH, f'{PATH}\ngroup = "paper"\ntest_fraction = 0.0'),
    ),
    table(
        "no CIFs there",
        "no folder or archive",
        "id,formula,target\nx,LiF,1\ny,NaF,2\nz,KF,3\n",
        ('["ratios"]', '["bonds"]'),
        (PATH, f'{PATH}\ncifs = "cifs"\nid = "id"'),
    ),
    Broken("no folder of data", "obelix", STUDY.replace('"csv"', '"obelix"').replace(PATH, "")),
    # Objectives of one's own.
    objective("no module", "cannot import 'MODULE': ModuleNotFoundError", None),
    objective("no attribute", "module 'MODULE' has no 'Objective'", "X = 1\n"),
    objective("syntax error", r"MODULE\.py, line 1: not valid Python", "def broken(:\n"),
    objective(
        "module that raises",
        r"cannot import 'MODULE': ValueError: odd \(.*MODULE\.py, line 3",
        "\n\nraise ValueError('odd')\n",
    ),
    objective(
        "missing package",
        "cannot import 'MODULE': ModuleNotFoundError: .*'no_such_package'",
        "import no_such_package\n",
    ),
    objective(
        "missing file", "cannot import 'MODULE': FileNotFoundError", "open('no-such-file')\n"
    ),
    objective(
        "module with an exception of its own",
        "cannot import 'MODULE': Odd: much",
        "class Odd(BaseException): pass\nraise Odd('much')\n",
    ),
    objective(
        "sys.exit",
        r"cannot import 'MODULE': sys.exit\(0\) \(.*MODULE\.py, line 2",
        "import sys\nsys.exit(0)\n",
    ),
    objective(
        "exit with a text",
        r"cannot import 'MODULE': sys.exit\('no licence'\)",
        "raise SystemExit('no licence')\n",
    ),
    objective(
        "os._exit(0)",
        r"cannot import 'MODULE': it ends the process .*exit code 0; .*MODULE.py",
        "import os\nos._exit(0)\n",
    ),
    objective(
        "os._exit(3)",
        r"cannot import 'MODULE': it ends the process .*exit code 3; .*MODULE.py",
        "import os\nos._exit(3)\n",
    ),
    *(objective(*broken) for broken in MODULES),
    objective("abort", r"it ends the process .*killed by SIGABRT", "import os\nos.abort()\n"),
    objective("no function", "cannot be called as", "Objective = 3\n"),
    objective(
        "function of an Optuna trial",
        "cannot be called as .*'seed'",
        "def Objective(trial):\n    return trial.suggest_float('alpha', 0, 1)\n",
    ),
    objective(
        "unknown parameter",
        "cannot be called as .*'delay'",
        OBJECTIVE,
        OWN_OBJECTIVE.replace("[space]", "params = { delay = 1 }\n[space]"),
    ),
    objective(
        "constructor that raises",
        r"cannot be made: ZeroDivisionError: .*MODULE\.py, line 9\)",
        changed("        pass", "        1 / 0"),
    ),
    objective(
        "constructor that leaves",
        r"cannot be made: sys.exit\(0\)",
        changed("        pass", "        raise SystemExit(0)"),
    ),
    objective(
        "no objective",
        "lacks direction, score_name, parts, splits_hash, score_part, combine",
        "class Objective:\n    def __init__(self, table, *, seed):\n        pass\n",
    ),
    objective(
        "direction",
        "direction must be minimize or maximize, is 'down'",
        changed('"minimize"', '"down"'),
    ),
    objective(
        "score without a name", "score_name must be a text, is 3", changed('"parabola"', "3")
    ),
    objective(
        "no parts", r"parts must be one name or more, .* are \(\)", changed('("a", "b")', "()")
    ),
    objective("parts alike", "no two alike", changed('("a", "b")', '("a", "a")')),
    objective("parts are a text", "no two alike, are 'ab'", changed('("a", "b")', '"ab"')),
    objective(
        "scoring module that is not there",
        "scoring_modules: there is no 'no_such_package.module'",
        changed(
            "    splits_hash", '    scoring_modules = ["no_such_package.module"]\n    splits_hash'
        ),
    ),
    objective(
        "method that is none",
        "score_part must be a method",
        changed("    def score_part", "    score_part = 3\n\n    def other"),
    ),
    objective(
        "folds of its own",
        "belong to objectives penalised_cv",
        OBJECTIVE,
        OWN_OBJECTIVE + '[cv]\nscheme = "kfold"\n',
    ),
    # Estimators of one's own.
    Broken(
        "estimator whose module raises",
        "cannot import 'MODULE': RuntimeError: odd",
        OWN_ESTIMATOR,
        CSV,
        "raise RuntimeError('odd')\n",
    ),
    Broken(
        "estimator whose module ends all",
        "name: cannot import 'MODULE': it ends the process",
        OWN_ESTIMATOR,
        CSV,
        "import os\nos._exit(1)\n",
    ),
    Broken("estimator that is not called", "cannot be called", OWN_ESTIMATOR, CSV, "Model = 3\n"),
    Broken(
        "estimator that raises",
        "refuses {}: odd",
        OWN_ESTIMATOR,
        CSV,
        "class Model:\n    def __init__(self, alpha=1.0):\n        raise ValueError('odd')\n",
    ),
    Broken(
        "estimator without such a parameter",
        "has no parameter 'alpha': it takes none",
        OWN_ESTIMATOR,
        CSV,
        "class Model:\n    pass\n",
    ),
    # Tables of one's own.
    loader(
        "loader without module",
        "cannot import 'MODULE': ModuleNotFoundError: .*'no_such_package'",
        module="import no_such_package\n",
    ),
    loader(
        "loader whose module ends all", "it ends the process", module="import os\nos._exit(0)\n"
    ),
    loader("loader that is not there", "has no 'load'", ("def load(", "def read(")),
    loader("loader of other arguments", "cannot be called as", ("(data_dir)", "()")),
    loader(
        "loader that raises",
        r"failed with KeyError: 'x' \(.*MODULE.py, line 6",
        ("    x = np.arange(12.0)\n", "    {}['x']\n"),
    ),
    loader(
        "loader that leaves",
        r"failed with sys.exit\(4\)",
        ("    x = np.arange(12.0)\n", "    raise SystemExit(4)\n"),
    ),
    loader(
        "loader of nothing",
        "must return features.table.OwnRows",
        ("    return OwnRows(", "    return dict("),
    ),
    loader("rows of no table", "what it returned makes no table", ("y=x * 3.0", 'y=["high"] * 12')),
    loader("ids twice", "ids must be unique", ('f"row-{k}"', '"row"')),
    loader("lengths that differ", "must have one length", ('["water"] * 12', '["water"] * 11')),
    loader("column too few", r"X is \(12, 2\)", (', Column("square", "made")', "")),
    loader("infinite feature", "X must be finite or NaN", ("x**2]", "np.full(12, np.inf)]")),
    loader("target with gaps", "y must be finite", ("y=x * 3.0", "y=np.full(12, np.nan)")),
    loader(
        "own leak",
        "made from the target: 'square'",
        ('Column("square", "made")', 'Column("square", "made", derived_from_target=True)'),
    ),
    loader("groups too few", "3 folds need at least 3 groups", ("k % 4", "k % 2")),
]

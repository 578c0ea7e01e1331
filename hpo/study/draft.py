"""A first study file for somebody's own CSV file, from what the file holds."""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

import features.table
from features.table import CsvSpec, TableRows
from hpo.errors import HpoError, SpecError
from hpo.plugins import find_module
from hpo.spec.loading import validate
from hpo.spec.objectives import CLASS_SCORING
from hpo.study.creation import check
from hpo.study.record import Source
from hpo.system.atomic_files import is_stream, replace_file

TRIALS = 40
FAMILIES = ("magpie_statistics", "stoichiometry")
# Fewer rows than these are not held out, or not enough for anything.
MIN_HELD_OUT_OF, MIN_ROWS = 50, 6
FOLDS = 5
# From so many training rows on, boosting is faster and no worse than a forest.
MIN_BOOSTED = 1000


class Lines(NamedTuple):
    """Settings of a section, as TOML has them, and what is to be said of some."""

    values: dict[str, Any]
    comments: dict[str, str]


@dataclass(frozen=True)
class Draft:
    """A study file that is not written yet, and what was found in the CSV file.

    `target` is its column, or a list of several; `columns` say of each one its name, kind, role and
    why; `rows` and `skipped` are numbers.
    """

    text: str
    target: str | list[str]
    task: str
    rows: int
    skipped: int
    columns: tuple[dict[str, Any], ...]


def name_study(stem: str) -> str:
    """Return the nearest to a file's stem that a study may be called."""
    bare = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("_.-")[:100]
    return bare or "study"


def draft(path: Path, output: Path, targets: Sequence[str] = ()) -> Draft:
    """Return a study file that `hpo run` takes as it is.

    Parameters
    ----------
    path
        The CSV file.
    output
        Where the study file will be: what is named in it is relative to its folder.
    targets
        The columns of the targets; one is guessed without them.

    Raises
    ------
    FeaturesError, HpoError
        The file makes no study, and why.
    """
    outline = features.table.outline_csv(path, targets)
    columns = {column.name: {**vars(column)} for column in outline.columns}
    table: dict[str, Any] = {"dataset": "csv", "path": _relative(path, output.parent)}
    table |= outline.settings
    if "formula" in table:
        table["families"] = [*FAMILIES]
    rows = _rows(table, columns, output.parent)
    if "split" not in table:
        table["test_fraction"] = 0.2 if len(rows.ids) >= MIN_HELD_OUT_OF else 0.0
        rows = _rows(table, columns, output.parent)
    n_train = int(rows.is_train.sum())
    if n_train < MIN_ROWS:
        raise SpecError(
            f"{path}: {len(rows.ids)} of its {outline.n_rows} rows can be used, and {n_train} "
            f"trained on; a study needs {MIN_ROWS}"
        )
    text = _write(path, output, table, columns, rows, outline.more_targets)
    name = name_study(output.stem)
    spec = validate({"name": name, **tomllib.loads(text)}, str(output))
    check(spec, Source(str(output.resolve()), (), None), "")
    return Draft(
        text,
        table["target"],
        table.get("task", "regression"),
        len(rows.ids),
        len(rows.skipped),
        tuple(columns.values()),
    )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _rows(table: dict[str, Any], columns: dict[str, dict[str, Any]], folder: Path) -> TableRows:
    """Read the rows of a table; columns that are the target in another form are left out."""
    rows = _read(table, folder)
    made = {column.name for column in rows.columns if column.derived_from_target}
    for key in ("columns", "categorical"):
        for header in [*table.get(key, ())]:
            if header in made or any(name.startswith(f"{header}=") for name in made):
                columns[header] |= {"role": "left out", "why": "is the target in another form"}
                table[key].remove(header)
                if not table[key]:
                    del table[key]
    if not {"columns", "categorical", "families"} & table.keys():
        raise SpecError(
            f"{folder / table['path']}: no column can be a feature; those that are not left out "
            f"are the target in another form: {', '.join(sorted(made))}"
        )
    return _read(table, folder) if made else rows


def _read(table: Mapping[str, Any], folder: Path) -> TableRows:
    spec = TypeAdapter(CsvSpec).validate_python(dict(table))
    return features.table.read_rows(spec, data_dir=None, base_dir=folder)


def _write(
    path: Path,
    output: Path,
    table: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, Any]],
    rows: TableRows,
    more_targets: Sequence[str],
) -> str:
    cv, groups = _cv(table, rows)
    estimator, space = _estimator(int(rows.is_train.sum()), knows_bounds=rows.bounds is not None)
    name = name_study(output.stem)
    classes = rows.target.classes
    said = [
        f"# {path.name} as hpo init understood it: {len(rows.ids)} rows"
        + (f", and {len(rows.skipped)} that cannot be used" if rows.skipped else "")
        + (f", of classes {', '.join(classes)}" if classes else "")
        + ". Change what is not meant.",
        f"#   hpo run {_shell(output.name)} --workers 2   # then: hpo rank {name} CANDIDATES.csv",
    ]
    head = {} if name == output.stem else {"name": name}
    body = [
        *said,
        *_lines(Lines({**head, "trials": TRIALS}, {})),
        *_section("table", Lines(dict(table), _comments(table, columns, groups))),
        *_left_out(columns),
        *_more_targets(path, table, more_targets),
        *_section("cv", cv),
        *_section("estimator", estimator),
        *_section("objective", _objective(rows)),
        *_section("space", space),
    ]
    return "\n".join(body) + "\n"


def _cv(table: Mapping[str, Any], rows: TableRows) -> tuple[Lines, str]:
    """Return the folds, and what is to be said of the groups."""
    groups = np.array(rows.groups)[rows.is_train]
    n_groups, n_rows = len(np.unique(groups)), len(groups)
    shared = n_groups < n_rows
    said = f"{n_groups} groups of {n_rows} training rows"
    if "fold" in table:
        return Lines({"splitter": "PredefinedSplit"}, {"splitter": f"by {table['fold']!r}"}), said
    together = shared and n_groups >= 2 * FOLDS
    if rows.target.classes:
        counts = np.bincount(rows.y[rows.is_train].astype(int), minlength=len(rows.target.classes))
        rarest = rows.target.classes[int(np.argmin(counts))]
        if counts.min() < 2:
            raise SpecError(
                f"class {rarest!r} of {table['target']!r} has {counts.min()} training rows; it "
                "takes two or more to train on some and validate others"
            )
        folds = int(min(FOLDS, counts.min()))
        splitter = "StratifiedGroupKFold" if together else "StratifiedKFold"
        params = {"n_splits": folds, "shuffle": True}
        why = "classes as frequent in each fold" + (", groups together" if together else "")
        return Lines({"splitter": splitter, "params": params}, {"splitter": why}), said
    if together:
        why = f"no group is on both sides of a fold ({said})"
        return Lines({"scheme": "group_kfold", "folds": FOLDS}, {"scheme": why}), said
    folds = min(FOLDS, max(2, n_rows // 2))
    return Lines({"scheme": "kfold", "folds": folds}, {"scheme": "shuffled rows"}), said


def _objective(rows: TableRows) -> Lines:
    if rows.target.classes:
        said = "of probabilities; any scorer of scikit-learn"
        return Lines({"scoring": CLASS_SCORING}, {"scoring": said})
    if rows.bounds is not None:
        said = "of what is beyond the intervals; or mae, r2, spearman, concordance"
    elif rows.more_targets:
        said = "the mean over targets, in their standard deviations; or mae, r2, spearman"
    else:
        said = "or mae, r2, spearman; or scoring, by name"
    return Lines({"metric": "rmse"}, {"metric": said})


def _estimator(n_train: int, *, knows_bounds: bool) -> tuple[Lines, Lines]:
    """Return an estimator that takes gaps and needs no scaling, and what of it is searched."""
    if knows_bounds and find_module("xgboost") is not None:
        aft = {
            "learning_rate": {"type": "float", "low": 0.02, "high": 0.3, "log": True},
            "max_depth": {"type": "int", "low": 2, "high": 6},
            "n_estimators": {"type": "int", "low": 50, "high": 300, "step": 10},
            "aft_loss_distribution_scale": {
                "type": "float",
                "low": 0.1,
                "high": 2.0,
                "log": True,
            },
        }
        said = "what is not explained, in standard deviations of the target"
        return (
            Lines({"name": "xgboost_aft"}, {"name": "it is fitted to limits and ranges, too"}),
            Lines(aft, {"aft_loss_distribution_scale": said}),
        )
    estimator, space = _of_values(n_train)
    if knows_bounds:
        said = "it is fitted to limits as values; xgboost_aft (hpo[xgboost]) to intervals"
        estimator.comments["name"] = said
    return estimator, space


def _of_values(n_train: int) -> tuple[Lines, Lines]:
    if n_train >= MIN_BOOSTED:
        space = {
            "learning_rate": {"type": "float", "low": 0.01, "high": 0.2, "log": True},
            "max_leaf_nodes": {"type": "int", "low": 7, "high": 63},
            "max_iter": {"type": "int", "low": 50, "high": 300, "step": 10},
        }
        return Lines({"name": "hist_gradient_boosting"}, {}), Lines(space, {})
    largest = max(2, min(10, n_train // 10))
    space = {
        "min_samples_leaf": {"type": "int", "low": 1, "high": largest},
        "max_features": {"type": "float", "low": 0.1, "high": 1.0},
    }
    return Lines({"name": "extra_trees", "params": {"n_estimators": 200}}, {}), Lines(space, {})


def _comments(
    table: Mapping[str, Any], columns: Mapping[str, Mapping[str, Any]], groups: str
) -> dict[str, str]:
    named = ("formula", "target", "id", "group", "split", "weight", "fold")
    single = [key for key in named if isinstance(table.get(key), str)]
    said = {key: columns[table[key]]["why"] for key in single}
    said["families"] = "what is computed of formulas: hpo features list"
    said["log10"] = "it spans more than three decades"
    said["task"] = "its values are classes"
    said["censored"] = "limits (<5) and ranges (1..2) are intervals; or as_value"
    said["columns"] = "numbers"
    said["categorical"] = "a column of 0 and 1 for each category"
    said["test_fraction"] = "held out, and looked at once, at the end"
    if "group" in said:
        said["group"] += f": {groups}"
    return said


def _left_out(columns: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, column in columns.items():
        if column["role"] == "left out":
            yield f"# left out: {_toml(name)} {column['why']}"


def _more_targets(
    path: Path, table: Mapping[str, Any], more_targets: Sequence[str]
) -> Iterator[str]:
    """Say how columns that seem to be properties, too, are predicted together with the target."""
    if more_targets and "task" not in table and "censored" not in table:
        named = [f"--target {_shell(name)}" for name in (*more_targets, table["target"])]
        yield f"# several targets at once: hpo init {_shell(path.name)} {' '.join(named)}"


def _section(name: str, lines: Lines) -> Iterable[str]:
    return ["", f"[{name}]", *_lines(lines)]


def _lines(lines: Lines) -> Iterator[str]:
    for key, value in lines.values.items():
        comment = lines.comments.get(key, "")
        yield f"{key} = {_toml(value)}" + (f"   # {_one_line(comment)}" if comment else "")


def _one_line(text: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML's basic strings, numbers and booleans are JSON's, but for this one sign.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _shell(name: str) -> str:
    return _one_line(shlex.quote(name))


def occupied(path: Path) -> SpecError:
    """Return the error about a file that is there, and stays."""
    return SpecError(f"{path}: is there already, and stays; name another one (--output)")


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet, or to a stream.

    Raises
    ------
    SpecError
        It is there.
    HpoError
        It cannot be written.
    """
    try:
        if is_stream(path):
            replace_file(path, text)
            return
        with path.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError as exc:
        raise occupied(path) from exc
    except OSError as exc:
        raise HpoError(f"{path}: cannot be written: {exc.strerror}") from exc

"""What the columns of a CSV file may be: a first guess at a table, with the reasons for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from features.chemistry.formulas import parse_formula
from features.datasets.sources import read_source
from features.errors import DatasetError
from features.families.own_columns import MAX_CATEGORIES, number_column
from features.families.registry import RESERVED_NAMES
from features.intake.csv_parsing import CsvFile, parse_csv
from features.intake.labels import MAX_CLASSES
from features.intake.numbers import is_interval, is_missing, is_number, parse_interval
from features.records import CONTROL

Kind = Literal["number", "text", "formula", "empty", "constant"]
Role = Literal[
    "target", "formula", "group", "id", "split", "fold", "weight", "number", "category", "left out"
]

# Of the different texts of a column, so many are tried as formulas, and this share must be some.
N_TRIED, FORMULA_SHARE = 200, 0.9
N_SHOWN = 10
MIN_ROWS_PER_CATEGORY = 3
# A target above 0 that spans more than this is taken as its logarithm.
LOG_SPAN = 1e3

_FORMULAS = re.compile(
    r"(reduced_|chemical_|pretty_)?(formula|composition)(_pretty|_reduced)?|material"
)
_GROUPS = re.compile(
    r"(.*_)?(doi|reference|ref|paper|source|publication|citation|article)s?(_\d+)?"
)
_INDEX = re.compile(r"|x|id|.*_id|index|no|nr|row|row_?names?|number|unnamed_0|#")
_FOLDS = re.compile(r"(cv_?|test_?)?fold")
_TARGETS = re.compile(r"target|label|class|output|response|y")
_PROPERTIES = re.compile(
    r".*(conductivity|sigma|band_?gap|(^|_)gap|hardness|modulus|energy|seebeck|(^|_)zt|yield|"
    r"critical_temp|(^|_)tc($|_)|strength|capacity|density|activity|efficiency|property|(^|_)e_?g($|_)|"
    r"voltage|resistivity|mobility|lifetime|toughness|permittivity|dielectric|magneti[sz]ation|melting).*"
)
# What is set or noted when something is made or measured, rather than found out.
_CONDITIONS = re.compile(
    r"(t|p|temp|temperature|pressure|time|duration|year|rate|atmosphere|thickness)(_.*)?|"
    r".*(sinter|anneal|calcin|synthesis|process|measurement|_temp|_temperature|_time|_pressure).*"
)


@dataclass(frozen=True)
class OutlinedColumn:
    """A column of a file: what it holds, what it is taken for, and why."""

    name: str
    kind: Kind
    n_missing: int
    n_different: int
    n_intervals: int = 0  # limits and ranges, such as <1e-10
    role: Role = "left out"
    why: str = ""


@dataclass(frozen=True)
class CsvOutline:
    """A file, its columns, and the settings of a `[table]` that take them for what they seem.

    `more_targets` are columns that are features, and may be meant as targets, too.
    """

    name: str
    n_rows: int
    columns: tuple[OutlinedColumn, ...]
    settings: dict[str, Any]
    remarks: tuple[str, ...]
    more_targets: tuple[str, ...] = ()

    def role(self, name: str) -> OutlinedColumn:
        """Return the column of this name."""
        return next(column for column in self.columns if column.name == name)


def outline_csv(path: Path, targets: Sequence[str] = ()) -> CsvOutline:
    """Look at a CSV file.

    Parameters
    ----------
    path
        The file.
    targets
        The columns of the targets; one is guessed without them.

    Raises
    ------
    DatasetError
        The file cannot be read, has no column of such a name, or none that can be a target, or none
        beside them that can be a feature.
    """
    csv = parse_csv(path.name, read_source(path, "file").data)
    csv = csv.naming(dict.fromkeys(targets, "target"))
    if all(map(is_number, csv.columns)):
        raise DatasetError(
            f"{csv.name}: its first line has numbers alone ({csv.listed()}): write a header above"
        )
    kinds = {name: _look(csv, name) for name in dict.fromkeys(csv.columns)}
    roles = _roles(csv, kinds)
    chosen = _targets(csv, kinds, roles, targets)
    roles |= {name: ("target", why) for name, why in chosen.items()}
    for name, column in kinds.items():
        if roles[name][0] == "number" and 2 * column.n_intervals > len(csv.records):
            roles[name] = ("left out", "holds limits or ranges, which a target alone may be")
    columns = tuple(
        OutlinedColumn(**{**vars(column), "role": roles[name][0], "why": roles[name][1]})
        for name, column in kinds.items()
    )
    also = [c for c in columns if c.role == "number" and _PROPERTIES.fullmatch(_plain(c.name))]
    more = tuple(c.name for c in also if not targets and not _CONDITIONS.fullmatch(_plain(c.name)))
    found = CsvOutline(csv.name, len(csv.records), columns, {}, csv.remarks, more)
    found.settings.update(_settings(csv, found, [*chosen]))
    if not {"formula", "number", "category"} & {column.role for column in columns}:
        others = [f"{c.name!r} {c.why}" for c in columns if c.name not in chosen]
        raise DatasetError(
            f"{csv.name}: beside the target {', '.join(map(repr, chosen))} no column can be a "
            f"feature: {'; '.join(others or ['there is none'])}"
        )
    return found


def _plain(name: str) -> str:
    """Return a header without its unit, in one spelling."""
    unit = number_column(name).unit
    bare = name[: name.rfind(unit) - 1] if unit else name
    return re.sub(r"[\W_]+", "_", bare.lower()).strip("_")


def _look(csv: CsvFile, name: str) -> OutlinedColumn:
    texts = csv.values(name)
    given = [text for text in texts if not is_missing(text)]
    different = set(given)
    kind: Kind = "text"
    if not given:
        kind = "empty"
    elif len(different) == 1:
        kind = "constant"
    elif sum(is_number(text) or is_interval(text) for text in given) > len(given) / 2:
        kind = "number"
    elif _are_formulas(sorted(different)):
        kind = "formula"
    n_intervals = sum(map(is_interval, given)) if kind == "number" else 0
    return OutlinedColumn(name, kind, len(texts) - len(given), len(different), n_intervals)


def _are_formulas(texts: Sequence[str]) -> bool:
    """Return whether texts are formulas, most of them of more than one element."""
    tried = texts[:: max(1, len(texts) // N_TRIED)]
    sizes = []
    for text in tried:
        try:
            sizes.append(len(parse_formula(text)))
        except ValueError:
            continue
    return len(sizes) >= FORMULA_SHARE * len(tried) and sum(n > 1 for n in sizes) > len(tried) / 2


def _roles(csv: CsvFile, kinds: dict[str, OutlinedColumn]) -> dict[str, tuple[Role, str]]:
    """Return what each column is taken for, but for the target, and why."""
    n_rows = len(csv.records)
    formula = _formula(kinds)
    roles: dict[str, tuple[Role, str]] = {}
    taken: set[Role] = set()
    for name, column in kinds.items():
        role, why = _role(csv, column, name == formula, n_rows)
        if role in ("group", "split", "fold", "weight", "id") and role in taken:
            role, why = "left out", f"another column is the {role}"
        taken.add(role)
        roles[name] = (role, why)
    return roles


def _formula(kinds: dict[str, OutlinedColumn]) -> str | None:
    """Return the column of formulas: one that is called so, or else one that holds them."""
    held = [name for name, column in kinds.items() if column.kind == "formula"]
    called = [name for name in held if _FORMULAS.fullmatch(_plain(name))]
    return next(iter([*called, *held]), None)


def _role(csv: CsvFile, column: OutlinedColumn, is_formula: bool, n_rows: int) -> tuple[Role, str]:
    name = column.name
    if is_formula:
        return "formula", "its texts are formulas"
    if column.kind == "empty":
        return "left out", "is empty"
    if column.kind == "constant":
        return "left out", "has one value alone"
    if column.n_missing > n_rows / 2:
        return "left out", f"has no value in {column.n_missing} of {n_rows} rows"
    if csv.columns.count(name) > 1 or not name or CONTROL.search(name):
        return "left out", "has no name of its own"
    by_name = _role_by_name(csv, column, n_rows)
    if by_name is not None:
        return by_name
    if name in RESERVED_NAMES:
        return "left out", "has a name that the table uses itself; rename it"
    if column.kind == "number":
        return "number", ""
    if column.n_different * MIN_ROWS_PER_CATEGORY > n_rows or column.n_different > MAX_CATEGORIES:
        return "left out", f"has {column.n_different} different texts in {n_rows} rows"
    return "category", f"{column.n_different} categories"


def _role_by_name(csv: CsvFile, column: OutlinedColumn, n_rows: int) -> tuple[Role, str] | None:
    """Return what a column is if its name says so, and its values do not contradict."""
    plain, unique = _plain(column.name), column.n_different == n_rows
    if {text.lower() for text in csv.values(column.name)} == {"train", "test"}:
        return "split", "its texts are train and test"
    if _INDEX.fullmatch(plain) and unique and _names_rows(csv, column):
        return ("id", "names each row") if "id" in plain.split("_") else ("left out", "counts rows")
    if _FOLDS.fullmatch(plain) and 2 <= column.n_different <= max(2, n_rows // 2):
        return "fold", "is called so"
    if plain == "sample_weight" and column.kind == "number":
        return "weight", "is called so"
    if _GROUPS.fullmatch(plain) and column.n_missing == 0 and column.n_different > 2:
        return ("left out", "names each row") if unique else ("group", "rows of one source")
    if _GROUPS.fullmatch(plain):
        return "left out", "is called a source"
    if plain.endswith("_id"):
        return "left out", "is called an identifier"
    if column.kind == "formula":
        return "left out", "another column is the formula"
    return None


def _names_rows(csv: CsvFile, column: OutlinedColumn) -> bool:
    """Return whether values are texts or whole numbers, which may be names."""
    return column.kind == "text" or all(text.isdecimal() for text in csv.values(column.name))


def _targets(
    csv: CsvFile,
    kinds: dict[str, OutlinedColumn],
    roles: dict[str, tuple[Role, str]],
    named: Iterable[str],
) -> dict[str, str]:
    """Return the columns that are to be predicted, and why those."""
    found = dict.fromkeys(named, "it was named")
    for name in found:
        if kinds[name].kind in ("empty", "constant"):
            raise DatasetError(f"{csv.name}: target {name!r} {roles[name][1]}")
        if len(found) > 1 and kinds[name].kind != "number":
            raise DatasetError(
                f"{csv.name}: several targets are numbers, and {name!r} holds texts; name it alone"
            )
    return found or dict([_guess_target(csv, kinds, roles)])


def _guess_target(
    csv: CsvFile, kinds: dict[str, OutlinedColumn], roles: dict[str, tuple[Role, str]]
) -> tuple[str, str]:
    able = [name for name, (role, _) in roles.items() if role in ("number", "category")]
    able += [name for name in kinds if name == "y" and kinds[name].kind == "number"]
    if not able:
        others = "; ".join(f"{name!r} {why}" for name, (_, why) in list(roles.items())[:N_SHOWN])
        raise DatasetError(
            f"{csv.name}: no column can be the target, which takes numbers, or texts of 2 to "
            f"{MAX_CLASSES} classes: {others}"
        )
    for pattern, why in ((_TARGETS, "it is called so"), (_PROPERTIES, "its name is a property's")):
        found = [name for name in able if pattern.fullmatch(_plain(name))]
        if found:
            return found[-1], f"{why}" + (" (the last such column)" if len(found) > 1 else "")
    numbers = [name for name in able if roles[name][0] == "number"]
    if limits := [name for name in numbers if kinds[name].n_intervals]:
        return limits[-1], "some of it are limits or ranges, as of what is measured"
    found_out = [name for name in numbers if not _CONDITIONS.fullmatch(_plain(name))]
    full = [name for name in found_out if kinds[name].n_missing == 0]
    for found, which in (
        (full, " without gaps that is no condition"),
        (found_out, ""),
        (numbers, ""),
    ):
        if found:
            return found[-1], f"it is the last column of numbers{which if found != numbers else ''}"
    classes = [name for name in able if kinds[name].n_different <= MAX_CLASSES]
    return (classes or able)[-1], "it is the last column of classes"


def _settings(csv: CsvFile, found: CsvOutline, targets: Sequence[str]) -> dict[str, Any]:
    by_role: dict[str, list[str]] = {}
    for column in found.columns:
        by_role.setdefault(column.role, []).append(column.name)
    single = ("formula", "id", "group", "split", "weight", "fold")
    settings: dict[str, Any] = {role: by_role[role][0] for role in single if role in by_role}
    settings["target"] = targets[0] if len(targets) == 1 else [*targets]
    column = found.role(targets[0])
    if len(targets) > 1:
        units = [number_column(target).unit for target in targets]
        decades = [_spans_decades(csv, target) for target in targets]
        settings |= {"target_unit": units} if any(units) else {}
        settings |= {"log10": decades} if any(decades) else {}
    elif column.kind != "number" or column.n_different == 2:
        settings["task"] = "classification"
    else:
        unit = number_column(targets[0]).unit
        settings |= {"target_unit": unit} if unit else {}
        settings |= {"log10": True} if _spans_decades(csv, targets[0]) else {}
        settings |= {"censored": "interval"} if column.n_intervals else {}
    lists = {"columns": by_role.get("number"), "categorical": by_role.get("category")}
    return settings | {key: names for key, names in lists.items() if names}


def _spans_decades(csv: CsvFile, target: str) -> bool:
    values = list(_values(csv, target))
    return bool(values) and min(values) > 0 and max(values) > LOG_SPAN * min(values)


def _values(csv: CsvFile, column: str) -> Iterator[float]:
    style = csv.style(column)
    for text in set(csv.values(column)):
        try:
            yield parse_interval(text, log10=False, style=style)[0]
        except ValueError:
            continue

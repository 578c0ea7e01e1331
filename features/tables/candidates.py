"""Materials that nobody has measured: read from a CSV file, featurised as a table's rows are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.chemistry.charge_neutrality import are_neutral
from features.chemistry.elements import ELEMENTS
from features.chemistry.formulas import Compositions
from features.datasets.cif_files import MAX_CIF_BYTES
from features.datasets.csv import cell_columns
from features.datasets.row_parsing import read_cell
from features.datasets.sources import reading, scan_source
from features.errors import DatasetError, TableError
from features.families.formula.composition import fraction_matrix
from features.families.own_columns import COLUMNS, categories_of, read_categories, read_numbers
from features.families.registry import TRANSFER, FamilyInfo
from features.intake.csv_parsing import CsvFile
from features.intake.foreign_files import expand_home, read_bounded
from features.intake.formulas import Formula, read_formula
from features.intake.numbers import NumberStyle
from features.intake.text import quote
from features.records import FeatureTable, Target
from features.rows import Block, Log, Rows
from features.specs import CellColumns, CsvSpec, TransportSpec
from features.tables.build import Spec, compute_block
from features.tables.candidate_lines import Candidates
from features.tables.store import PIECE_ROWS
from features.tables.structure_gate import check_structures
from features.tables.transfer import Borrowed, borrow, without_borrowed

# Headers that formulas and paths of CIFs stand below, whatever their case, if none is named.
FORMULA_HEADERS = (
    "formula",
    "composition",
    "reduced_formula",
    "reduced composition",
    "chemical_formula",
    "pretty_formula",
    "formula_pretty",
)
CIF_HEADERS = ("cif", "cif_path", "cif_file")
_CIF_TEXT = re.compile(r"(?:^|\n)\s*(?:data_|_cell_length_a\s)")

# Rows of a table that are computed again, and how far values of the same code may be apart.
N_COMPARED = 50
TOLERANCE = 1e-9


def load_candidates(
    path: Path,
    spec: Spec,
    *,
    formula: str | None,
    log: Log,
    table: FeatureTable | None = None,
    piece_lines: int | None = None,
) -> Iterator[Candidates]:
    """Read a file of candidates, and featurise so many lines at a time, all of them if None.

    See `features.table.read_candidates`.
    """
    csv = scan_source(path, "candidates")
    csv = csv.naming(dict.fromkeys(_own_headers(spec), "feature"))
    for remark in csv.remarks:
        log(f"{csv.name}: {remark}")
    families = spec.all_families
    needs = {need for family in families for need in family.needs}
    column = _formula_column(csv, spec, formula, needed="formula" in needs)
    position = csv.position(column, "formula") if column else -1
    with reading(path, "candidates"):
        own = _styles(csv, spec.columns, log) if isinstance(spec, CsvSpec) else {}
    n_lines = len(csv.records) + len(csv.malformed)
    lines = merge(
        ((record.line, record.fields, "") for record in csv.records),
        ((line, (), reason) for line, reason in csv.malformed),
        key=itemgetter(0),
    )
    of = _Of(path, spec, table, csv, families, column, own, log)
    if not piece_lines or needs & {"cell", "cif"}:
        piece_lines = n_lines  # what no candidate has is looked for in all of them
    n_read = n_unreadable = 0
    while n_read < n_lines:
        with reading(path, "candidates"):
            piece = list(islice(lines, piece_lines))
        candidates = _featurise(of, piece, position, needs)
        n_read += len(piece)
        n_unreadable += len(piece) - len(candidates.usable)
        part = "" if n_read == len(piece) == n_lines else f"{n_read} of "
        all_lines = "1 candidate" if n_lines == 1 else f"{n_lines} candidates"
        log(f"{csv.name}: {part}{all_lines}, {n_unreadable} of them unreadable")
        yield candidates


@dataclass(frozen=True, eq=False)
class _Of:
    """A file of candidates, and what is computed for them."""

    path: Path
    spec: Spec
    table: FeatureTable | None
    csv: CsvFile
    families: Sequence[FamilyInfo]
    formula_column: str
    own: Mapping[str, NumberStyle]
    log: Log


def _featurise(
    of: _Of, lines: Sequence[tuple[int, tuple[str, ...], str]], position: int, needs: Set[str]
) -> Candidates:
    """Return some lines of a file with their features."""
    spec, csv, log, families = of.spec, of.csv, of.log, of.families
    column = of.formula_column
    formulas = [fields[position] if fields and column else "" for _, fields, _ in lines]
    reasons = [reason for *_, reason in lines]
    read = _parse_all(formulas, reasons) if column else [Formula("", {})] * len(lines)
    cifs = _read_cifs(csv, of.path.parent, lines, reasons) if "cif" in needs else {}
    usable = [row for row, reason in enumerate(reasons) if not reason]
    cell = _read_cells(csv, spec, [lines[row][1] for row in usable], log) if "cell" in needs else {}
    rows = _bare_rows(
        csv.name,
        [lines[row][0] for row in usable],
        [formulas[row] for row in usable],
        [read[row].amounts for row in usable],
        cell=cell,
        cifs=tuple(cifs.get(row) for row in usable),
    )
    if "cif" in needs:
        assert not isinstance(spec, TransportSpec)  # which offers no structures
        rows = check_structures(rows, spec.failed_structures, log)
    own = _read_own(of, [lines[row][1] for row in usable])
    X, blocks = _compute(families, rows, log)
    lacking = {f.name: _lacking(f, blocks[f.name], rows) for f in families}
    remarks = {
        (remark.row, name): remark.reason
        for name, block in blocks.items()
        for remark in block.remarks
        if remark.row is not None
    }
    remarks |= {
        (row, "formula"): read[position].remark
        for row, position in enumerate(usable)
        if read[position].remark
    }
    for row, reason in rows.structure_remarks.items():
        remarks[row, "cif"] = reason
        if rows.cifs[row] is None:
            remarks |= {(row, f.name): reason for f in families if "cif" in f.needs}
    if spec.transfer:
        borrowed = _borrow(X, spec, of.table)
        X = borrowed.X
        borrowed.tell(log)
        for name, reasons_of in borrowed.reasons.items():
            for row, reason in reasons_of.items():
                lacking[name][row] = False  # as good as the training rows that borrow
                remarks[row, name] = reason
    if own is not None:
        X = np.hstack([X, own.values])
        lacking[COLUMNS] = np.asarray(np.any(np.isnan(own.values), axis=1))
        remarks |= {(row, COLUMNS): "; ".join(said) for row, said in own.missing.items()}
    fractions = fraction_matrix(rows, ELEMENTS, "H to Lr")[0]
    fractions[rows.amounts.counts == 0] = np.nan
    return Candidates(
        columns=csv.columns,
        formula_column=column,
        lines=tuple(line for line, *_ in lines),
        fields=tuple(fields for _, fields, _ in lines),
        formulas=tuple(formulas),
        reasons=tuple(reasons),
        usable=np.array(usable, dtype=np.int64),
        X=X,
        fractions=fractions,
        lacking=lacking,
        remarks=remarks,
        unknown={} if own is None else {row: "; ".join(w) for row, w in own.unknown.items()},
        neutral=are_neutral(rows.amounts),
    )


@dataclass(frozen=True, eq=False)
class _Own:
    """The user's own columns of candidates: their values, and what is to be said by row."""

    values: NDArray[np.float64]
    missing: Mapping[int, list[str]]
    unknown: Mapping[int, list[str]]


def _own_headers(spec: Spec) -> tuple[str, ...]:
    return (*spec.columns, *spec.categorical) if isinstance(spec, CsvSpec) else ()


def _read_own(of: _Of, records: Sequence[tuple[str, ...]]) -> _Own | None:
    """Read the columns of a table that are those of its file; categories are the table's."""
    spec, csv, table = of.spec, of.csv, of.table
    if not isinstance(spec, CsvSpec) or not _own_headers(spec):
        return None
    if spec.categorical and table is None:
        raise TableError("categories of candidates are those of a table; give that table")
    blocks: list[NDArray[np.float64]] = []
    missing: dict[int, list[str]] = {}
    unknown: dict[int, list[str]] = {}
    texts_of = [*zip(*records, strict=True)] if records else [()] * len(csv.columns)
    for header in _own_headers(spec):
        texts = texts_of[csv.position(header, "feature")]
        if header in spec.columns:
            cells = read_numbers(header, texts, of.own[header])
            blocks.append(cells.values[:, None])
        else:
            assert table is not None
            values, cells = read_categories(header, texts, categories_of(table.columns, header))
            blocks.append(values)
        for row in cells.missing.tolist():
            missing.setdefault(row, []).append(f"{header} is missing")
        for row, reason in cells.unread.items():
            (missing if header in spec.columns else unknown).setdefault(row, []).append(reason)
    return _Own(np.hstack(blocks), missing, unknown)


def _styles(csv: CsvFile, columns: Sequence[str], log: Log) -> dict[str, NumberStyle]:
    """Return how the numbers of columns are written, and say what had to be guessed."""
    styles = csv.styles(columns)
    for column, style in styles.items():
        if style.remark:
            log(f"{csv.name}: column {column!r}: {style.remark}")
    return styles


def atomic_fractions(formulas: Sequence[str]) -> NDArray[np.float64]:
    """Return the fractions of H to Lr; see `features.table.atomic_fractions`."""
    amounts = [read_formula(text).amounts for text in formulas]
    rows = _bare_rows("", range(len(formulas)), formulas, amounts)
    return fraction_matrix(rows, ELEMENTS, "H to Lr")[0]


def changed_families(table: FeatureTable, spec: Spec) -> list[str]:
    """Compare a table with what its families give now; see `features.table`."""
    train = np.flatnonzero(table.is_train)
    sample = train[np.unique(np.linspace(0, len(train) - 1, N_COMPARED).astype(np.int64))]
    formulas = table.formulas[sample].tolist()
    amounts = [read_formula(text).amounts if text else {} for text in formulas]
    rows = _bare_rows("", range(len(formulas)), formulas, amounts)
    changed = []
    for family in spec.all_families:
        name = family.name
        columns = np.flatnonzero([column.family == name for column in table.columns])
        named = tuple(table.columns[index] for index in columns)
        same = named == family.columns
        if same and family.needs == ("formula",):
            now = compute_block(family, rows, _silent).values
            before = table.X[np.ix_(sample, columns)]
            same = np.allclose(now, before, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        if not same:
            changed.append(name)
    if spec.transfer and not changed and not _borrows_alike(table, spec):
        changed.append(TRANSFER)
    return changed


def _borrow(
    X: NDArray[np.float64],
    spec: Spec,
    table: FeatureTable | None,
    groups: NDArray[np.str_] | None = None,
) -> Borrowed:
    """Let rows borrow from the training rows of the finished table; candidates are in no group."""
    if table is None or table.columns[: len(spec.family_columns)] != spec.family_columns:
        raise TableError(
            f"candidates borrow {', '.join(spec.transfer)} from training rows of the table that "
            "the model was fitted on; give that table"
        )
    train = table.train
    ids = train.ids.tolist()
    return borrow(X, spec, train.X, ids, groups=groups, donor_groups=train.groups)


def _borrows_alike(table: FeatureTable, spec: Spec) -> bool:
    """Return whether a table's rows would borrow the same again."""
    if table.columns[: len(spec.family_columns)] != spec.family_columns:
        return False
    own = without_borrowed(table.X, spec)
    return all(
        np.array_equal(_borrow(own, spec, table, groups).X, borrowed, equal_nan=True)
        for groups, borrowed in ((None, table.X), (table.groups, table.X_new))
    )


def _silent(line: str) -> None:
    """Drop a line of progress."""


def _formula_column(csv: CsvFile, spec: Spec, named: str | None, *, needed: bool) -> str:
    """Return the column of formulas: the named one, the study's own, or one of the usual.

    "" if there is none, and no family needs one.
    """
    if named is not None:
        return csv.find((named,)) or named
    own = (spec.formula,) if isinstance(spec, CsvSpec) and spec.formula else ()
    wanted = tuple(dict.fromkeys((*own, *FORMULA_HEADERS)))
    found = csv.find(wanted)
    if found is None and not needed:
        return ""
    if found is None:
        raise DatasetError(
            f"{csv.name}: none of its columns is called {', '.join(wanted)}; name the one with the "
            f"formulas (--formula COLUMN). Columns: {csv.listed()}"
        )
    return found


def _parse_all(formulas: Sequence[str], reasons: list[str]) -> list[Formula]:
    """Parse each different formula once; where it cannot be, its reason is put into `reasons`."""
    known: dict[str, Formula | str] = {}
    read: list[Formula] = []
    for row, text in enumerate(formulas):
        if not reasons[row] and text not in known:
            try:
                known[text] = read_formula(text)
            except ValueError as exc:
                known[text] = str(exc)
        found = known.get(text, "") if not reasons[row] else ""
        if isinstance(found, str):
            reasons[row] = reasons[row] or found
            found = Formula(text, {})
        read.append(found)
    return read


def _read_cifs(
    csv: CsvFile,
    folder: Path,
    lines: Sequence[tuple[int, tuple[str, ...], str]],
    reasons: list[str],
) -> dict[int, bytes]:
    """Return the CIF of each line that has or names one, by the line's position.

    A name is relative to the file's folder; some tables have the CIF itself in the cell.
    """
    column = csv.find(CIF_HEADERS)
    if column is None:
        return {}
    position = csv.position(column, "CIF")
    cifs: dict[int, bytes] = {}
    for row, (_, fields, _) in enumerate(lines):
        if reasons[row] or not fields[position]:
            continue
        if _CIF_TEXT.search(fields[position]):
            cifs[row] = fields[position].encode(errors="replace")
            continue
        try:
            cifs[row] = read_bounded(folder / expand_home(Path(fields[position])), MAX_CIF_BYTES)
        except OSError as exc:
            reasons[row] = f"CIF {quote(fields[position])}: cannot be read ({exc.strerror})"
    return cifs


def _read_cells(
    csv: CsvFile, spec: Spec, records: Sequence[tuple[str, ...]], log: Log
) -> dict[str, NDArray[np.float64]]:
    named = spec.cell_columns if isinstance(spec, CsvSpec) else CellColumns()
    columns = {n: c for n, c in cell_columns(named, csv).items() if csv.find((c,)) is not None}
    csv = csv.naming({column: f"cell's {name}" for name, column in columns.items()})
    styles = _styles(csv, tuple(columns.values()), log)
    read = [read_cell(dict(zip(csv.columns, f, strict=True)), columns, styles)[0] for f in records]
    return {name: np.array([values[name] for values in read]) for name in columns}


def _bare_rows(
    source: str,
    lines: Sequence[int],
    formulas: Sequence[str],
    amounts: Sequence[Mapping[str, float]],
    *,
    cell: Mapping[str, NDArray[np.float64]] | None = None,
    cifs: tuple[bytes | None, ...] = (),
) -> Rows:
    """Return rows without a measurement."""
    n_rows = len(formulas)
    return Rows(
        ids=tuple(f"row-{line}" for line in lines),
        sources=(source,) * n_rows,
        lines=tuple(lines),
        formulas=tuple(formulas),
        amounts=Compositions.of(amounts),
        y=np.full(n_rows, np.nan),
        is_coerced=np.zeros(n_rows, dtype=bool),
        groups=("",) * n_rows,
        is_train=np.zeros(n_rows, dtype=bool),
        target=Target(""),
        cell=cell or {},
        cifs=cifs,
    )


def _compute(
    families: Sequence[FamilyInfo], rows: Rows, log: Log
) -> tuple[NDArray[np.float64], dict[str, Block]]:
    """Return the columns of all families in one array, and a view of it for each of them."""
    X = np.empty((len(rows), sum(family.n_columns for family in families)))
    blocks, stop = {}, 0
    for family in families:
        start, stop = stop, stop + family.n_columns
        own, remarks = X[:, start:stop], []
        step = PIECE_ROWS if family.is_quick else max(len(rows), 1)
        for first in range(0, len(rows), step):
            piece = rows if step >= len(rows) else rows.formulas_of(first, first + step)
            block = compute_block(family, piece, log, may_be_empty=True)
            own[first : first + step] = block.values
            remarks += [remark.after(first) for remark in block.remarks]
        blocks[family.name] = Block(own, tuple(remarks))
    return X, blocks


def _lacking(family: FamilyInfo, block: Block, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows the family could not be computed for in full."""
    lacking: NDArray[np.bool_] = np.any(np.isnan(block.values), axis=1)
    for remark in block.remarks:
        if remark.row is not None:
            lacking[remark.row] = True
        elif "cell" in family.needs:
            lacking[:] = True  # a column is missing, and so for every row
    if "cif" in family.needs:
        lacking |= np.array([cif is None for cif in rows.cifs], dtype=bool)
    return lacking

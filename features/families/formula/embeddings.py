"""Element embeddings, averaged over the atoms of a formula.

The vectors are those that the `elementembeddings` package carries. Its data files are read as
they lie, because importing the package imports numba and umap, which takes seconds.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import DatasetError, FamilyError
from features.families.formula.composition import fraction_matrix
from features.intake.csv_parsing import parse_csv
from features.rows import Block, Log, Rows


def magpie(rows: Rows, _log: Log) -> Block:
    """Average 22 tabulated properties of the elements.

    The table is Magpie's: Ward et al., npj Comput. Mater. 2016,
    doi:10.1038/npjcompumats.2016.28.
    """
    return _mean_over_atoms(rows, "Magpie", "magpie.csv")


def mat2vec(rows: Rows, _log: Log) -> Block:
    """Average word embeddings of the elements from abstracts on materials.

    Tshitoyan et al., Nature 2019, doi:10.1038/s41586-019-1335-8.
    """
    return _mean_over_atoms(rows, "Mat2Vec", "mat2vec.csv")


def megnet16(rows: Rows, _log: Log) -> Block:
    """Average the element vectors that MEGNet learned on formation energies.

    Chen et al., Chem. Mater. 2019, doi:10.1021/acs.chemmater.9b01294.
    """
    return _mean_over_atoms(rows, "MEGNet16", "megnet16.json")


def _mean_over_atoms(rows: Rows, name: str, file_name: str) -> Block:
    vectors = _read_vectors(file_name)
    symbols = tuple(vectors)
    fractions, remarks = fraction_matrix(rows, symbols, f"the {name} table")
    table = np.array([vectors[symbol] for symbol in symbols])
    values = np.zeros((len(rows), table.shape[1]))
    # Element by element: a matrix product would add in an order that depends on the machine and
    # on the number of rows. Most rows lack most elements, whose zeros need not be added.
    for index in range(len(symbols)):
        with_it = np.flatnonzero(fractions[:, index])  # NaN is not zero
        values[with_it] += fractions[with_it, index : index + 1] * table[index]
    return Block(values, remarks)


def _read_vectors(file_name: str) -> dict[str, NDArray[np.float64]]:
    spec = find_spec("elementembeddings")
    if spec is None or spec.origin is None:
        raise FamilyError("element embeddings: `elementembeddings` is not installed; install it")
    path = Path(spec.origin).parent / "data" / "element_representations" / file_name
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            vectors = json.loads(text)
            vectors.pop("Null", None)  # a padding vector, no element
        else:
            records = parse_csv(file_name, text.encode()).records
            vectors = {symbol: list(map(float, values)) for _, (symbol, *values) in records}
        return {symbol: np.array(vector, dtype=float) for symbol, vector in vectors.items()}
    except (OSError, ValueError, DatasetError) as exc:
        raise FamilyError(
            f"element embeddings: {file_name} of `elementembeddings` cannot be read ({exc}); "
            "install elementembeddings 0.8 again"
        ) from exc

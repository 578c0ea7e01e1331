"""CSV files of every kind: read as they are meant, refused with a reason, or read with a remark."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DatasetError
from features.intake.csv_parsing import MAX_FIELD, parse_csv
from features.intake.numbers import parse_number
from features.intake.text import normal_form
from tests.support.intake.csv_files import FILES, File, judge


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.kind)
def test_every_kind_of_file_becomes_what_it_has_to(file: File) -> None:
    _, wrong = judge(file)
    assert not wrong


def test_every_kind_can_be_read_or_refused_or_remarked() -> None:
    assert {judge(file)[0] for file in FILES} == {"read", "refused", "remarked"}


# What programs write ---------------------------------------------------------------------------

NUMBERS: dict[str, Callable[[float], str]] = {
    "points": repr,
    "commas": lambda value: repr(value).replace(".", ","),
    "three decimals": lambda value: f"{value:.3f}",
    "three decimals, commas": lambda value: f"{value:.3f}".replace(".", ","),
    "thousands of the English": lambda value: f"{value:,.3f}",
    "thousands of the Germans": lambda value: f"{value:,.3f}".translate({44: 46, 46: 44}),
    "thousands of the French": lambda value: f"{value:,.3f}".translate({44: 0x202F, 46: 44}),
    "thousands of the Swiss": lambda value: f"{value:,.3f}".replace(",", "’"),
    "powers of ten": lambda value: f"{value:.6e}".replace("e", "×10^"),
    "whole": lambda value: f"{value:,.0f}",
    "whole, of the Germans": lambda value: f"{value:,.0f}".replace(",", "."),
}
QUOTING = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp1252")
ENDS = ("\n", "\r\n", "\r")
DIALECTS = tuple(product(",;\t|", QUOTING, ENCODINGS, ENDS, NUMBERS))

values = st.one_of(
    st.integers(-5000, 5_000_000).map(lambda number: number / 1000),
    st.sampled_from([0.5, 2.5, 1234.56, 2500.0, 1e-5, -3.0, 1e6]),
)
notes = st.text("ab,;|\t\"'\n #·é5.", max_size=8).map(str.strip)
tables = st.lists(st.tuples(notes, values), min_size=1, max_size=6)


def written(table: list[tuple[str, float]], dialect: tuple[str, int, str, str, str]) -> bytes:
    separator, quoting, encoding, end, number = dialect
    stream = io.StringIO(newline="")
    out = csv.writer(stream, delimiter=separator, quoting=cast("Any", quoting), lineterminator=end)
    out.writerow(["formula", "note", "y (S/cm, dry)"])
    for at, (note, value) in enumerate(table):
        out.writerow([f"Li{at + 1}Cl", note, NUMBERS[number](value)])
    return stream.getvalue().encode(encoding, errors="replace")


@settings(max_examples=400, deadline=None)
@given(tables, st.sampled_from(DIALECTS))
def test_no_dialect_changes_a_value_without_a_word(table, dialect) -> None:
    _, _, encoding, _, number = dialect
    try:
        read = parse_csv("x.csv", written(table, dialect))
        read = read.naming({"formula": "formula", "note": "note", "y (S/cm, dry)": "target"})
    except DatasetError:
        return
    lost = {line for line, _ in read.malformed}
    assert len(read.records) + len(lost) >= len(table) or lost
    style = read.style("y (S/cm, dry)")
    wanted = {f"Li{at + 1}Cl": row for at, row in enumerate(table)}
    for formula, note, text in zip(
        read.values("formula"), read.values("note"), read.values("y (S/cm, dry)"), strict=True
    ):
        written_note, value = wanted[formula]
        assert note == written_note.encode(encoding, errors="replace").decode(encoding)
        try:
            found = parse_number(text, "y", style)
        except ValueError:
            continue
        meant = float(f"{value:.0f}") if "whole" in number else value
        # Three decimals are all that these writers keep.
        assert found == pytest.approx(meant, rel=1e-6, abs=6e-4) or "may be" in style.remark


def test_nothing_but_errors_that_say_so_comes_of_broken_files() -> None:
    rng = random.Random(20)
    for file in FILES:
        if len(file.bytes) > 5000:
            continue
        for _ in range(15):
            data = bytearray(file.bytes)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(data) + 1)
                sign = rng.choice(b'",;\t|\n\r#\0\xff\xc3=\x1a.5')
                data[at : at + rng.randint(0, 2)] = bytes([sign]) * rng.randint(0, 3)
            assert len(message_of(partial(read_all, bytes(data)))) < 2000


def read_all(data: bytes) -> None:
    """Read a file and all its numbers."""
    read = parse_csv("x.csv", data)
    for column in set(read.columns):
        style = read.style(column)
        for text in read.values(column):
            assert len(message_of(partial(parse_number, text, "y", style))) < 1000


def message_of(act: Callable[[], object]) -> str:
    try:
        act()
    except (DatasetError, ValueError) as exc:
        return str(exc)
    return ""


def test_a_field_that_is_too_long_is_called_so(monkeypatch) -> None:
    monkeypatch.setattr("features.intake.csv_parsing.MAX_FIELD", 1_000_000)
    limit = csv.field_size_limit()
    read = parse_csv("x.csv", f"f,n\na,{'x' * 1_000_001}\nb,c\n".encode())
    assert read.malformed == ((2, "a field has more than 1 million characters"),)
    assert read.values("f") == ["b"]
    assert csv.field_size_limit() == limit < MAX_FIELD


def test_memory_that_is_not_there_is_no_stack_trace(monkeypatch) -> None:
    def none_left(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("features.intake.csv_parsing.decode", none_left)
    with pytest.raises(DatasetError, match="more memory than there is"):
        parse_csv("x.csv", b"f\n1\n")


@pytest.mark.parametrize("at", range(8))
def test_a_quotation_mark_costs_its_own_row_alone(at: int) -> None:
    rows = [f"Li{row},{row}" for row in range(8)]
    rows[at] = '"' + rows[at]
    read = parse_csv("x.csv", "\n".join(["formula,y", *rows]).encode())
    assert [line for line, _ in read.malformed] == [at + 2]
    assert len(read.records) == 7


def test_names_alike() -> None:
    alike = ["Sigma (S/cm)", "sigma(s/cm) ", "ＳIGMA\u00a0(S/cm)", "sigma\u200b (S/cm)"]
    assert len({normal_form(name) for name in alike}) == 1
    assert normal_form("a_b") != normal_form("ab")

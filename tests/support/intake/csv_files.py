"""Small CSV files of every kind that people have, and what reading each has to give."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from features.errors import DatasetError
from features.intake.csv_parsing import CsvFile, parse_csv
from features.intake.numbers import parse_number


@dataclass(frozen=True)
class File:
    """A file, and what it has to be read as.

    `columns` maps the columns that are asked for to their fields, as texts or numbers; None for a
    field that has to be refused. `skipped` are the lines that are no records, `remark` what has to
    be said of the file, `refused` the reason why nothing of it is read: patterns.
    """

    kind: str
    data: str | bytes
    columns: dict[str, list[Any]] | None = None
    skipped: Sequence[int] = ()
    remark: str = ""
    refused: str = ""

    @property
    def bytes(self) -> bytes:
        """The file's content."""
        return self.data.encode() if isinstance(self.data, str) else self.data


USUAL: dict[str, list[Any]] = {"formula": ["Li2O", "LiF"], "y": [1.5, -2.0]}


def zipped(*names: str) -> bytes:
    """Return an archive with empty files of these names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return stream.getvalue()


def _usual(kind: str, data: str | bytes, **more: Any) -> File:
    return File(kind, data, USUAL, **more)


_QUOTED = 'quoted "{0}"'
_BASE = "formula,y\nLi2O,1.5\nLiF,-2\n"
_LONG = "x" * 200_000
_READ = [
    _usual("plain", _BASE),
    _usual("plain, no last line end", _BASE.rstrip()),
    _usual("CRLF", _BASE.replace("\n", "\r\n")),
    _usual("CR", _BASE.replace("\n", "\r")),
    _usual("blank lines", "\n\n" + _BASE.replace("\n", "\n\n")),
    # Quotes
    _usual("QUOTE_ALL of pandas", '"formula","y"\n"Li2O","1.5"\n"LiF","-2"\n'),
    _usual("QUOTE_NONNUMERIC of pandas", '"formula","y"\n"Li2O",1.5\n"LiF",-2.0\n'),
    _usual("pandas with its index", ",formula,y\n0,Li2O,1.5\n1,LiF,-2.0\n"),
    _usual("write.csv of R", '"","formula","y"\n"1","Li2O",1.5\n"2","LiF",-2\n'),
    _usual(
        "write.table of R",
        '"formula" "y"\n"1" "Li2O" 1.5\n"2" "LiF" -2\n',
        remark="names of the rows",
    ),
    _usual("write.table of R, without names", '"formula" "y"\n"Li2O" 1.5\n"LiF" -2\n'),
    _usual("columns of one width", "formula    y\nLi2O     1.5\nLiF     -2.0\n"),
    _usual("savetxt of NumPy, its header", "# formula y\nLi2O 1.5\nLiF -2\n", remark="comment"),
    _usual("DOS, with its last sign", _BASE + "\x1a", skipped=(4,)),
    _usual("write.csv of R, row.names=FALSE", '"formula","y"\n"Li2O",1.5\n"LiF",-2\n'),
    _usual("write.csv2 of R", '"";"formula";"y"\n"1";"Li2O";1,5\n"2";"LiF";-2\n'),
    _usual(
        "write.table of R, sep tab",
        '"formula"\t"y"\n"1"\t"Li2O"\t1.5\n"2"\t"LiF"\t-2\n',
        remark="names of the rows",
    ),
    _usual(
        "write.table of R, sep comma, no quotes",
        "formula,y\n1,Li2O,1.5\n2,LiF,-2\n",
        remark="names of the rows",
    ),
    _usual("quoted header, plain body", '"formula";"y"\nLi2O;1.5\nLiF;-2\n'),
    _usual("plain header, quoted body", 'formula,y\n"Li2O","1.5"\n"LiF","-2"\n'),
    _usual("blanks before quotes", 'formula, "y"\n"Li2O", "1.5"\n"LiF", "-2"\n'),
    _usual("quoted first field alone", '"formula, reduced",formula,y\n1,Li2O,1.5\n2,LiF,-2\n'),
    File(
        "literal quotes",
        'formula,y\n"""(Li2S)0.5""",1\n',
        {"formula": ['"(Li2S)0.5"'], "y": [1.0]},
    ),
    File("quotes within", 'formula,note\nLi2O,"5"" wafer, cut"\n', {"note": ['5" wafer, cut']}),
    File("line breaks within", 'formula,note\nLi2O,"a\nb,c\r\nd"\n', {"note": ["a\nb,c\r\nd"]}),
    File(
        "a quotation mark that nothing closes",
        'formula,y\nLi2O,1\n"LiF,2\nLiCl,3\n',
        {"formula": ["Li2O", "LiCl"], "y": [1.0, 3.0]},
        skipped=[3],
    ),
    File(
        "text behind a quotation",
        'formula,y\nLi2O,1\n"LiF"x,2\nLiCl,3\n',
        {"formula": ["Li2O", "LiCl"]},
        skipped=[3],
    ),
    # Separators
    _usual("semicolons", _BASE.replace(",", ";")),
    _usual("tabs", _BASE.replace(",", "\t")),
    _usual("bars", _BASE.replace(",", "|")),
    _usual("sep=; of Excel", "sep=;\n" + _BASE.replace(",", ";")),
    _usual("blanks around separators", _BASE.replace(",", " , ")),
    File(
        "commas in the units of a header over semicolons",
        "formula;sigma (S/cm, 25 C, dry);y (a, b, c)\nLi2O;1,5;2,5\nLiF;-2;3\n",
        {"sigma (S/cm, 25 C, dry)": [1.5, -2.0], "y (a, b, c)": [2.5, 3.0]},
    ),
    File(
        "semicolons in a header over commas",
        "formula,sigma (S/cm; 25 C; dry),y\nLi2O,1.5,2.5\nLiF,-2,3\n",
        {"sigma (S/cm; 25 C; dry)": [1.5, -2.0], "y": [2.5, 3.0]},
    ),
    File(
        "commas in texts over semicolons",
        "formula;note;y\nLi2O;a, b, c;1,5\nLiF;d, e, f;-2\n",
        {"note": ["a, b, c", "d, e, f"], "y": [1.5, -2.0]},
    ),
    File(
        "bars in texts over commas",
        "formula,doi,y\nLi2O,10.1/a|10.1/b,1.5\nLiF,10.1/c|10.1/d,-2\n",
        {"doi": ["10.1/a|10.1/b", "10.1/c|10.1/d"], "y": [1.5, -2.0]},
    ),
    File("one column", "formula\nLi2O\nLiF\n", {"formula": ["Li2O", "LiF"]}),
    File("one column with commas", "formula\nLi1,3Al0,3\n", {"formula": ["Li1,3Al0,3"]}),
    _usual("a separator at the end of each line", "formula,y,\nLi2O,1.5,\nLiF,-2,\n"),
    _usual("a separator at the end of each record", "formula,y\nLi2O,1.5,\nLiF,-2,\n"),
    _usual("a separator at the end of the header", "formula,y,\nLi2O,1.5\nLiF,-2\n"),
    _usual("empty last columns", "formula,y,,,\nLi2O,1.5,,,\nLiF,-2,,,\n"),
    File(
        "rows of other lengths",
        "formula,y\nLi2O,1.5\nLiF\nLiCl,2,3\nLiBr,4\n",
        {"formula": ["Li2O", "LiBr"], "y": [1.5, 4.0]},
        skipped=[3, 4],
    ),
    # Decimal signs, by the whole column
    _usual("decimal commas", "formula;y\nLi2O;1,5\nLiF;-2\n", remark="decimal commas"),
    File(
        "1.234,56 beside 2.500",
        "formula;y\nLi2O;1.234,56\nLiF;2.500\n",
        {"y": [1234.56, 2500.0]},
        remark="decimal commas",
    ),
    File(
        "1,234.5 beside 2,500", 'f,y\na,"1,234.5"\nb,"2,500"\nc,7\n', {"y": [1234.5, 2500.0, 7.0]}
    ),
    File("a decimal comma in quotes", 'f,y\na,"1,5"\nb,"0,500"\n', {"y": [1.5, 0.5]}),
    File("blanks between thousands", "f;y\na;1 234,5\nb;12 345 678\n", {"y": [1234.5, 12345678.0]}),
    File("narrow blanks between thousands", "f\ty\na\t1\u202f234.5\n", {"y": [1234.5]}),
    File("NBSP between thousands", "f\ty\na\t1\u00a0234.5\n", {"y": [1234.5]}),
    File(
        "apostrophes between thousands", "f,y\na,1'234.5\nb,1’234’567\n", {"y": [1234.5, 1234567.0]}
    ),
    File(
        "each column its own sign",
        "f;x;y\na;1,5;1.5\nb;2,25;2.25\n",
        {"x": [1.5, 2.25], "y": [1.5, 2.25]},
        remark="decimal commas",
    ),
    File(
        "two readings, told by another column",
        "f;x;y\na;0,5;2.500\nb;1,5;3.125\n",
        {"x": [0.5, 1.5], "y": [2500.0, 3125.0]},
        remark="'2.500' may be 2.5 or 2500",
    ),
    File(
        "two readings, points between commas",
        "f,a\nx,5.143\ny,4.026\n",
        {"a": [5.143, 4.026]},
        remark="'5.143' may be 5.143 or 5143",
    ),
    File(
        "two readings, commas between semicolons",
        "f;a\nx;5,143\ny;4,026\n",
        {"a": [5.143, 4.026]},
        remark="'5,143' may be 5143 or 5.143",
    ),
    File("two readings, points between semicolons", "f;y\na;2.500\nb;3.125\n", {"y": [None, None]}),
    File("two readings, commas between commas", 'f,y\na,"2,500"\nb,"3,125"\n', {"y": [None, None]}),
    File(
        "both signs in one column",
        "f;y\na;1.5\nb;2.5\nc;1,5\nd;2.500\n",
        {"y": [1.5, 2.5, None, None]},
        remark="2 of its numbers have decimal points, as '1.5', and 1 commas",
    ),
    File("as many points as commas", "f;y\na;1.5\nb;1,5\n", {"y": [None, None]}),
    File("signs of minus", "f,y\na,−1.5\nb,–2\nc,-3\n", {"y": [-1.5, -2.0, -3.0]}),
    File(
        "powers of ten",
        "f,y\na,1.5×10⁻⁴\nb,2*10^-3\nc,10^-5\nd,3 x 10-2\n",
        {"y": [1.5e-4, 2e-3, 1e-5, 3e-2]},
    ),
    File("exponents of Fortran", "f,y\na,1.5D-04\nb,2.0d+03\n", {"y": [1.5e-4, 2e3]}),
    File("wide digits", "f,y\na,１．５\n", {"y": [1.5]}),
    File(
        "what is no number",
        "f,y\na,1.5\nb,high\nc,\nd,1_0\ne,1e999\nf,nan\ng,∞\nh,1.5(2)\ni,1.5±0.1\nj,5%\nk,1²\n",
        {"y": [1.5, *[None] * 10]},
    ),
    # Lines that are no rows
    _usual("a comment", "# from a furnace, 2019\n# two lines\n" + _BASE),
    _usual("a comment with a quotation mark", '# 5" wafers\n' + _BASE),
    _usual("savetxt of NumPy", "# formula,y\nLi2O,1.5\nLiF,-2\n", remark="comment above its rows"),
    _usual("a header behind #", "#formula,y\nLi2O,1.5\nLiF,-2\n", remark="comment above its rows"),
    File("ids behind #", "id,formula\n#1,Li2O\n#2,LiF\n", {"id": ["#1", "#2"]}),
    File(
        "a row that is a comment",
        "formula,y\nLi2O,1.5\n#LiCl,3\nLiF,-2\n",
        USUAL,
        skipped=[3],
    ),
    File("errors of Excel", "id,y\n#N/A,1\nb,#DIV/0!\nc,2\n", {"y": [1.0, None, 2.0]}),
    File("a title", "Table S1. Conductivities\n\n" + _BASE, USUAL, skipped=[1]),
    File("a title of Excel", "Table S1,\n" + _BASE, USUAL, skipped=[1]),
    File(
        "a row of units",
        "formula,y\n-,S/cm\nLi2O,1.5\nLiF,-2\n",
        {"formula": ["-", "Li2O", "LiF"], "y": [None, 1.5, -2.0]},
    ),
    # Names of columns
    File("case", "Formula,Y\nLi2O,1.5\n", {"formula": ["Li2O"], "y": [1.5]}, remark="taken for"),
    File("blanks", "f, sigma  S / cm\na,1\n", {"sigma S/cm": [1.0]}, remark="taken for"),
    File("NBSP", "f,sigma\u00a0S\na,1\n", {"sigma S": [1.0]}, remark="taken for"),
    File("micro and mu", "f,\u00b5 (V)\na,1\n", {"\u03bc (V)": [1.0]}, remark="taken for"),
    File(
        "composed letters",
        "f,Gr\u00f6\u00dfe\na,1\n",
        {"Gro\u0308\u00dfe": [1.0]},
        remark="taken for",
    ),
    File("the exact one first", "y,Y\n1,2\n", {"Y": [2.0], "y": [1.0]}),
    File("two that are alike", "y,Y\n1,2\n", {" y": []}, refused="may be 'y' and 'Y'"),
    File("twice", "y,y\n1,2\n", {"y": []}, refused="is there 2 times"),
    File("twice, not asked for", "z,z,y\n1,2,3\n", {"y": [3.0]}),
    File("none", "formulla,y\nLi2O,1\n", {"formula": []}, refused="nearest is 'formulla'"),
    File("no header", "Li2O,1.5\nLiF,2\n", {"formula": []}, refused="is the header missing"),
    File("blanks, not all", "formula y\nLi2O 1\nLi F 2\n", {"y": []}, refused="by blanks"),
    File("a picture of a few bytes", b"\x89PNG\r\n\x1a\n", refused="a picture"),
    File("a few bytes", b"\x01\x02\x03", refused="no text file"),
    File("a LabVIEW file", b"TDSm" + bytes(40), refused="LabVIEW"),
    File(
        "many columns",
        ",".join(f"c{i}" for i in range(500)) + "\n" + "1," * 499 + "1\n",
        {"y": []},
        refused=r"and 470 more",
    ),
    # Encodings
    _usual("a mark of byte order", b"\xef\xbb\xbf" + _BASE.encode()),
    _usual("a mark and quotes", b'\xef\xbb\xbf"formula","y"\n"Li2O",1.5\n"LiF",-2\n'),
    _usual("UTF-16", _BASE.encode("utf-16")),
    _usual("UTF-16, big end first", b"\xfe\xff" + _BASE.encode("utf-16-be")),
    _usual("UTF-16 without a mark", _BASE.encode("utf-16-le")),
    _usual("UTF-16, big end first, without a mark", _BASE.encode("utf-16-be")),
    _usual("UTF-32", _BASE.encode("utf-32")),
    File("Windows-1252", "f,n\na,Müller · 5 µm\n".encode("cp1252"), {"n": ["Müller · 5 µm"]}),
    File("bytes that Windows-1252 has not", b"f,n\na,x\x81y\n", {"n": ["x\x81y"]}),
    File(
        "one line of another encoding",
        "f,n\nLi₂O,é\n".encode() + "b,Müller\n".encode("cp1252"),
        {"f": ["Li₂O", "b"], "n": ["é", "Müller"]},
        remark="were read as Windows-1252",
    ),
    File("a NUL", b"f,y\na,1\nb\0,2\nc,3\n", {"y": [1.0, 3.0]}, skipped=[3]),
    File(
        "a tail of NULs",
        b"f,y\n" + b"a,1\n" * 50 + b"\0" * 20 + b"\n",
        {"y": [1.0] * 50},
        skipped=[52],
    ),
    # Sizes
    File("a long field", f"f,n\na,{_LONG}\n", {"n": [_LONG]}),
    File("a long field in quotes", f'f,n,y\na,"{_LONG}\nb",1\nc,d,2\n', {"y": [1.0, 2.0]}),
    # Nothing
    File("no byte", b"", refused="is empty"),
    File("blank lines alone", "\n \n\n", refused="is empty"),
    File("separators alone", ",,,\n", refused="is empty"),
    File("a header alone", "formula,y\n", refused="no row below the header"),
    File("comments alone", "# nothing\n", refused="no row below the header|is empty"),
    File("two separators alike", "a;b|c,\n1;2|3,\n", refused="may be separated by"),
    # Other kinds of files
    File("xlsx", zipped("xl/workbook.xml"), refused=r"an Excel workbook \(.xlsx\)"),
    File("xlsb", zipped("xl/workbook.bin"), refused=r"an Excel workbook \(.xlsb\)"),
    File("ods", zipped("mimetype", "content.xml"), refused="OpenDocument"),
    File("Numbers", zipped("Index/Document.iwa"), refused="Numbers"),
    File("zip", zipped("my.csv"), refused="a zip archive.*unpack it"),
    File("broken zip", b"PK\x03\x04rest", refused="a broken spreadsheet or archive"),
    File("xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), refused="Excel workbook"),
    File("parquet", b"PAR1" + bytes(100), refused="Parquet"),
    File("feather", b"ARROW1" + bytes(100), refused="Feather"),
    File("gzip", b"\x1f\x8b\x08" + bytes(100), refused="gzip, .*unpack it"),
    File("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100), refused="HDF5"),
    File("PDF", b"%PDF-1.7\n", refused="PDF"),
    File("JSON", b'[{"formula": "Li2O", "y": 1.5}]', refused="JSON"),
    File("HTML", b"<!DOCTYPE html>\n<html><body>404</body></html>", refused="HTML"),
    File("a CIF", b"data_LiF\n_cell_length_a 4.03\n", refused="a CIF"),
    File("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\n", refused="LFS"),
    File("anything", bytes(range(256)) * 10, refused="no text file"),
]
FILES = tuple(_READ)


def read_cells(csv: CsvFile, column: str, wanted: Sequence[Any]) -> list[Any]:
    """Return a column's fields as texts, or as numbers where these are wanted; None if refused."""
    texts, style = csv.values(column), csv.style(column)
    if not any(isinstance(value, float) or value is None for value in wanted):
        return texts
    found: list[Any] = []
    for text in texts:
        try:
            found.append(parse_number(text, column, style))
        except ValueError:
            found.append(None)
    return found


def judge(file: File) -> tuple[str, str]:
    """Return what became of a file (read, remarked or refused), and what is wrong with that."""
    columns = file.columns or {}
    try:
        csv = parse_csv("x.csv", file.bytes)
        csv = csv.naming(dict.fromkeys(columns, "column"))
    except DatasetError as exc:
        if file.refused and re.search(file.refused, str(exc)) and len(str(exc)) < 2000:
            return "refused", ""
        return "refused", f"refused by {exc}"
    said = "; ".join([*csv.remarks, *(csv.style(column).remark for column in columns)])
    outcome = "remarked" if said.strip("; ") else "read"
    if file.refused:
        return outcome, "not refused"
    for column, wanted in columns.items():
        found = read_cells(csv, column, wanted)
        if found != wanted:
            return outcome, f"{column}: {str(found)[:200]}"
    if [line for line, _ in csv.malformed] != list(file.skipped):
        return outcome, f"skipped {csv.malformed}"
    return outcome, "" if re.search(file.remark, said) else f"remarks: {said}"

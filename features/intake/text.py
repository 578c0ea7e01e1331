"""From bytes to text: encodings told apart line by line, and files that are no text named."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
import zipfile
from typing import NamedTuple

from features.errors import DatasetError

# A text of somebody else's is quoted in a message up to so many characters.
MOST_QUOTED = 80

_MARKS = (
    # UTF-32 first: its mark of byte order begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_KINDS = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "a Feather file"),
    (b"\x1f\x8b", "a file compressed by gzip"),
    (b"BZh", "a file compressed by bzip2"),
    (b"\xfd7zXZ\x00", "a file compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "a file compressed by zstd"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"GIF8", "a picture (GIF)"),
    (b"II*\0", "a picture (TIFF)"),
    (b"MM\0*", "a picture (TIFF)"),
    (b"CPY", "an Origin project"),
    (b"TDSm", "a LabVIEW file (.tdms)"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file (.mat)"),
    (b"CDF\x01", "a NetCDF file"),
    (b"$FL2", "an SPSS file (.sav)"),
    (b"<stata_dta>", "a Stata file (.dta)"),
    (b"RDX", "a file of R (.RData)"),
    (b"\x80\x04\x95", "a pickle of Python's"),
    (b"\x80\x05\x95", "a pickle of Python's"),
    (b"%PDF", "a PDF document"),
    (b"{\\rtf", "a document of a word processor"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched (git lfs pull)"),
)
# By a name in the archive.
_ZIPPED = (
    ("xl/workbook.xml", "an Excel workbook (.xlsx)"),
    ("xl/workbook.bin", "an Excel workbook (.xlsb)"),
    ("content.xml", "an OpenDocument spreadsheet (.ods)"),
    ("Index/", "a Numbers spreadsheet"),
)
_BEGINNINGS = (
    (re.compile(rb"<(!doctype|html|\?xml)", re.IGNORECASE), "an HTML or XML page"),
    (re.compile(rb"(\{\s*\"|\[\s*[\[{])"), "a JSON file"),
    (re.compile(rb"data_\S*\s+(loop_|_)"), "a CIF"),
)
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|$)")
_MANY_NULS = 0.2
_NO_TEXT = "this is no text file; save it as CSV in UTF-8"


class Text(NamedTuple):
    """A file's text, how it was encoded, and what had to be done to read it."""

    text: str
    encoding: str
    remarks: tuple[str, ...] = ()


def quote(text: str) -> str:
    """Return a text as a message quotes it: one line, of bounded length."""
    if len(text) <= MOST_QUOTED:
        return repr(text)
    return f"{text[:MOST_QUOTED]!r}… ({len(text)} characters)"


def normal_form(name: str) -> str:
    """Return what names share that differ in case, blanks, or Unicode's forms alone."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(
        "-" if unicodedata.category(sign) == "Pd" else sign
        for sign in plain
        if not sign.isspace() and unicodedata.category(sign) not in ("Cf", "Cc")
    )


_DOI = re.compile(r"(?:https?://)?(?:(?:dx\.)?doi\.org/|doi:?)(?=10\.)")


def fold_name(text: str) -> str:
    """Return what spellings of a name share: its normal form, of a DOI without its prefix."""
    return _DOI.sub("", normal_form(text), count=1)


def decode(name: str, data: bytes) -> Text:
    """Decode the bytes of the file called `name`.

    UTF-8, UTF-16 and UTF-32; lines that are no UTF-8 are taken for Windows-1252.

    Raises
    ------
    DatasetError
        Naming what the file is, if it is no text.
    """
    _refuse_other_kinds(name, data)
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return Text(data.decode(encoding).removeprefix("\ufeff"), encoding)
            except UnicodeDecodeError as exc:
                if encoding != "utf-8-sig":
                    raise DatasetError(
                        f"{name}: it begins as {encoding.upper()} and is broken at byte "
                        f"{exc.start}; save it as CSV in UTF-8"
                    ) from exc
                data = data.removeprefix(mark)
    if b"\0" in data:
        wide = _wide_encoding(data)
        if wide is not None:
            return Text(data.decode(wide), wide)
        if data.count(b"\0") > _MANY_NULS * len(data) or _has_other_controls(data):
            raise DatasetError(f"{name}: {_NO_TEXT}")
    elif _has_other_controls(data.rstrip(b"\x1a")):  # with which files of DOS end
        raise DatasetError(f"{name}: {_NO_TEXT}")
    try:
        return Text(data.decode("utf-8"), "utf-8-sig")
    except UnicodeDecodeError:
        return _decode_lines(data)


def _decode_lines(data: bytes) -> Text:
    """Decode line by line: rows of a file may come from programs with different encodings."""
    lines, other, unicode = [], 0, 0
    for line in _LINE.findall(data):
        if line.isascii():
            lines.append(line.decode("ascii"))
            continue
        try:
            lines.append(line.decode("utf-8"))
            unicode += 1
        except UnicodeDecodeError:
            other += 1
            try:
                lines.append(line.decode("cp1252"))
            except UnicodeDecodeError:
                lines.append(line.decode("latin-1"))
    if not unicode:
        return Text("".join(lines), "cp1252")
    told = f"{other} of its lines are no UTF-8 and were read as Windows-1252, {unicode} as UTF-8"
    return Text("".join(lines), "utf-8 and cp1252", (told,))


def _wide_encoding(data: bytes) -> str | None:
    """Return the encoding of a text whose every other byte is NUL, as UTF-16 has it."""
    half = len(data) // 2
    even, odd = data[0:4096:2].count(0), data[1:4096:2].count(0)
    most = min(half, 2048)
    for nuls, none, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if nuls > 0.7 * most and none < 0.1 * most and len(data) % 2 == 0:
            try:
                data.decode(encoding)
            except UnicodeDecodeError:
                continue
            return encoding
    return None


def _has_other_controls(data: bytes) -> bool:
    """Whether there are control characters that no text file has, beside NUL."""
    sample = data[:65536]
    controls = sum(sample.count(code) for code in (*range(1, 7), *range(14, 27), *range(28, 32)))
    return controls > 0.01 * len(sample)


def _refuse_other_kinds(name: str, data: bytes) -> None:
    kind = next((kind for mark, kind in _KINDS if data.startswith(mark)), None)
    if data.startswith(b"PK\x03\x04"):
        kind = _kind_of_archive(data)
    start = data.removeprefix(codecs.BOM_UTF8).lstrip()[:4096]
    kind = kind or next((kind for pattern, kind in _BEGINNINGS if pattern.match(start)), None)
    if kind is not None:
        todo = "unpack it" if "compressed" in kind or "archive" in kind else "save it as CSV"
        raise DatasetError(f"{name}: this is {kind}, and no CSV file; {todo}")


def _kind_of_archive(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return "a broken spreadsheet or archive"
    found = (kind for part, kind in _ZIPPED if any(name.startswith(part) for name in names))
    return next(found, "a zip archive")

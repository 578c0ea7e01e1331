"""From bytes to text: encodings told apart line by line, and files that are no text named."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from features.errors import DatasetError
from features.intake.foreign_files import Content, blocks_of

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
_SAMPLED = 65536  # bytes
_MANY_NULS = 0.2
_NO_TEXT = "this is no text file; save it as CSV in UTF-8"


@dataclass(frozen=True)
class Text:
    """The text of a file, how it was encoded, and what had to be done to read it.

    Attributes
    ----------
    content
        It in UTF-8, behind `skipped` bytes.
    has_nul
        Whether there is a NUL character in it.
    """

    content: Content
    encoding: str
    remarks: tuple[str, ...] = ()
    skipped: int = 0
    has_nul: bool = False

    def lines(self) -> Iterator[str]:
        """Yield its lines with their ends, of whichever kind."""
        with self._open() as stream:
            yield from stream

    def head(self, n_characters: int) -> str:
        """Return its first characters."""
        with self._open() as stream:
            return stream.read(n_characters)

    def _open(self) -> TextIO:
        stream = self.content.open()
        stream.read(self.skipped)
        # newline="": line ends stay as they are, also within quotes.
        return io.TextIOWrapper(stream, "utf-8", newline="")


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


def decode(name: str, content: Content) -> Text:
    """Find out how the file called `name` is encoded, a block of it in memory at a time.

    UTF-8, UTF-16 and UTF-32; lines that are no UTF-8 are taken for Windows-1252.

    Raises
    ------
    DatasetError
        Naming what the file is, if it is no text.
    """
    head = _refuse_other_kinds(name, content)
    skipped = 0
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            broken = _find_broken(content, encoding)
            if broken is None:
                return _as_utf8(content, encoding)
            if encoding != "utf-8-sig":
                raise DatasetError(
                    f"{name}: it begins as {encoding.upper()} and is broken at byte "
                    f"{broken}; save it as CSV in UTF-8"
                )
            skipped = len(mark)
            break
    n_nuls, size = _count_nuls(content, skipped)
    if n_nuls:
        wide = _wide_encoding(content, head[skipped:], size, skipped)
        if wide is not None:
            return _as_utf8(content, wide, skipped)
        if n_nuls > _MANY_NULS * size or _has_other_controls(head[skipped:]):
            raise DatasetError(f"{name}: {_NO_TEXT}")
    elif _has_other_controls(head[skipped:].rstrip(b"\x1a")):  # with which files of DOS end
        raise DatasetError(f"{name}: {_NO_TEXT}")
    if _find_broken(content, "utf-8", skipped) is None:
        return Text(content, "utf-8-sig", skipped=skipped, has_nul=n_nuls > 0)
    return _decode_lines(content, skipped)


def _find_broken(content: Content, encoding: str, skipped: int = 0) -> int | None:
    """Return the first byte that an encoding has not; None if there is none."""
    decoder = codecs.getincrementaldecoder(encoding)()
    fed = left = 0
    try:
        for block in blocks_of(content.open(), skipped):
            left = len(decoder.getstate()[0])
            decoder.decode(block)
            fed += len(block)
        left = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as exc:
        return fed - left + exc.start
    return None


def _as_utf8(content: Content, encoding: str, skipped: int = 0) -> Text:
    """Return a text without its marks of byte order."""
    if encoding != "utf-8-sig":
        content = content.rewritten(_encoded(content, encoding, skipped))
    with content.open() as stream:
        start = stream.read(2 * len(codecs.BOM_UTF8))
    skipped = 0
    for _ in range(2 if encoding == "utf-8-sig" else 1):
        if start.startswith(codecs.BOM_UTF8, skipped):
            skipped += len(codecs.BOM_UTF8)
    return Text(content, encoding, skipped=skipped, has_nul=_count_nuls(content)[0] > 0)


def _encoded(content: Content, encoding: str, skipped: int) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    for block in blocks_of(content.open(), skipped):
        yield decoder.decode(block).encode()


def _count_nuls(content: Content, skipped: int = 0) -> tuple[int, int]:
    """Return how many bytes are NUL, and how many there are."""
    n_nuls = size = 0
    for block in blocks_of(content.open(), skipped):
        n_nuls += block.count(0)
        size += len(block)
    return n_nuls, size


def _decode_lines(content: Content, skipped: int) -> Text:
    """Decode line by line: rows of a file may come from programs with different encodings."""
    counts = {"utf-8": 0, "other": 0}

    def decoded() -> Iterator[bytes]:
        stream = content.open()
        stream.read(skipped)
        # Latin-1 has a character for every byte.
        for text in io.TextIOWrapper(stream, "latin-1", newline=""):
            line = text.encode("latin-1")
            if not line.isascii():
                try:
                    line.decode("utf-8")
                    counts["utf-8"] += 1
                except UnicodeDecodeError:
                    counts["other"] += 1
                    try:
                        line = line.decode("cp1252").encode()
                    except UnicodeDecodeError:
                        line = text.encode()
            yield line

    content = content.rewritten(decoded())
    has_nul = _count_nuls(content)[0] > 0
    if not counts["utf-8"]:
        return Text(content, "cp1252", has_nul=has_nul)
    told = (
        f"{counts['other']} of its lines are no UTF-8 and were read as Windows-1252, "
        f"{counts['utf-8']} as UTF-8"
    )
    return Text(content, "utf-8 and cp1252", (told,), has_nul=has_nul)


def _wide_encoding(content: Content, head: bytes, size: int, skipped: int) -> str | None:
    """Return the encoding of a text whose every other byte is NUL, as UTF-16 has it."""
    even, odd = head[0:4096:2].count(0), head[1:4096:2].count(0)
    most = min(size // 2, 2048)
    for nuls, none, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if (
            nuls > 0.7 * most
            and none < 0.1 * most
            and size % 2 == 0
            and _find_broken(content, encoding, skipped) is None
        ):
            return encoding
    return None


def _has_other_controls(data: bytes) -> bool:
    """Whether there are control characters that no text file has, beside NUL."""
    sample = data[:_SAMPLED]
    controls = sum(sample.count(code) for code in (*range(1, 7), *range(14, 27), *range(28, 32)))
    return controls > 0.01 * len(sample)


def _refuse_other_kinds(name: str, content: Content) -> bytes:
    """Return a file's first bytes, unless they say that it is no CSV file."""
    with content.open() as stream:
        data = stream.read(2 * _SAMPLED)
        start = data.removeprefix(codecs.BOM_UTF8).lstrip()
        while len(start) < _SAMPLED and (more := stream.read(_SAMPLED)):
            start = (start + more).lstrip()
    kind = next((kind for mark, kind in _KINDS if data.startswith(mark)), None)
    if data.startswith(b"PK\x03\x04"):
        kind = _kind_of_archive(content)
    start = start[:4096]
    kind = kind or next((kind for pattern, kind in _BEGINNINGS if pattern.match(start)), None)
    if kind is not None:
        todo = "unpack it" if "compressed" in kind or "archive" in kind else "save it as CSV"
        raise DatasetError(f"{name}: this is {kind}, and no CSV file; {todo}")
    return data


def _kind_of_archive(content: Content) -> str:
    try:
        with content.open() as stream, zipfile.ZipFile(io.BytesIO(stream.read())) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return "a broken spreadsheet or archive"
    found = (kind for part, kind in _ZIPPED if any(name.startswith(part) for name in names))
    return next(found, "a zip archive")

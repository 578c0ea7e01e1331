"""Files that are read a block at a time are read as those that are in memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from features.datasets.sources import scan_source
from features.errors import DatasetError
from features.intake.csv_parsing import CsvFile, parse_csv
from tests.support.intake.csv_files import FILES

SHORT = [file for file in FILES if len(file.bytes) < 10_000]


def seen(csv: CsvFile) -> tuple[object, ...]:
    """All that a file says, its records read twice."""
    records = [*csv.records]
    assert [*csv.records] == records
    assert len(csv.records) == len(records)
    told = (csv.columns, csv.malformed, csv.encoding, csv.separator, csv.remarks)
    return records, *told, csv.styles(csv.columns)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_blocks_of_any_size_give_what_the_whole_gives(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.csv"
    for file in SHORT:
        path.write_bytes(file.bytes)
        results = []
        for is_streamed in (False, True):
            with monkeypatch.context() as patch:
                if is_streamed:
                    patch.setattr("features.intake.csv_parsing._BLOCK_RECORDS", size)
                    patch.setattr("features.intake.foreign_files._BLOCK", size)
                try:
                    csv = scan_source(path, "x") if is_streamed else parse_csv("x.csv", file.bytes)
                    results.append(seen(csv))
                except DatasetError as exc:
                    results.append((str(exc),))
        assert results[0] == results[1], file.kind


def test_a_pipe_is_read_more_than_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    kept = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(pipe, os.O_WRONLY)
    os.write(writing, "f;y\na;1,5\nb;Müller\n".encode("cp1252"))
    os.close(writing)
    csv = scan_source(pipe, "x")
    os.close(kept)
    assert csv.values("f") == csv.values("f") == ["a", "b"]
    assert (csv.values("y")[1], csv.encoding) == ("Müller", "cp1252")


def test_a_file_that_is_written_to_meanwhile_is_not_read_on(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("f,y\na,1\n")
    csv = scan_source(path, "x")
    path.write_text("f,y\na,1\nb,2\n")
    with pytest.raises(OSError, match="was written to while it was read"):
        list(csv.records)


def test_memory_does_not_grow_with_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.intake.csv_parsing._BLOCK_RECORDS", 64)
    monkeypatch.setattr("features.intake.dialect._SAMPLED_CHARACTERS", 10_000)
    monkeypatch.setattr("features.intake.foreign_files._BLOCK", 65_536)
    path = tmp_path / "x.csv"
    path.write_text("f,y\n" + "".join(f"{'x' * 1000}{row},{row}\n" for row in range(3000)))
    tracemalloc.start()
    try:
        csv = scan_source(path, "x")
        assert sum(1 for _ in csv.records) == 3000
        assert csv.style("y").decimal == "."
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 3

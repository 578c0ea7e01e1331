"""Input that nobody means well: words for command lines, files of every kind, TOML."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Sequence
from pathlib import Path

DEEP = 3000
LONG = "x" * 300

# Whatever an option, a name or a path may be given as.
WORDS = (
    "", "-", "--", "---", ".", "..", "/", "//", "~", "~nouser", "~nouser/x", "-1", "0", "1",
    "1e999",
    "nan", "inf", "-inf", "1.5", "0x10", "1_000", "²", "١", "9" * 19, "9" * 400, "9" * 5000,
    str(2**31), str(2**63), str(2**64), LONG, "x/" * 3000, "a\nb", "a\tb", "\r", "\x1b[31m", "\x7f",
    "\u202e", "é", "🙂", "\udce9", "a\0b", "%s", "%(x)s", "{x}", "$HOME", "`id`", "'", '"', "\\",
    "*",
    "=", "a=b", "key=", "=value", "None", "true", "null", "{}", "[]", "[" * DEEP, "{" * DEEP,
    "../../x", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:////",
    "sqlite:////dev/zero",
    "sqlite:///" + LONG, "sqlite:///" + "x/" * 3000, "sqlite:///folder", "sqlite:///pipe",
    "sqlite:///text.toml", "sqlite:///\udce9", "sqlite:///a\0b", "sqlite:///no/folder/hpo.db",
    "sqlite:///hpo.db?mode=x", "sqlite:///hpo.db?timeout=x", "sqlite+nodriver:///x", "mysql://x/y",
    "postgresql://", "postgresql://u:sec@ret@127.0.0.1:1/x", "postgresql://127.0.0.1:99999999/x",
    "postgresql://127.0.0.1:x/x", "postgresql://[::1/x", "://", "http://x", "@", "@@", "@folder",
    "@pipe", "@/dev/zero", "/dev/zero", "/dev/null", "/dev/full", "/dev/stdin", "folder", "folder/",
    "file/below", "pipe", "socket", "loop", "dangling", "text.toml", "sound.toml", "noread.toml",
    "bom.toml", "crlf.toml", "latin.toml", "binary.toml", "huge.toml", "empty", "hpo.db", "bad.db",
    "mine.csv", "bad.csv", "clusters.toml", "tables", "--help", "--version", "--storage", "--json",
)  # fmt: skip

# For `--set` and `--slurm`, beside the words.
SETTINGS = (
    "trials=0", "trials=-1", "trials=1e3", "trials=inf", f"trials={2**63}", "trials=" + "9" * 5000,
    "trials=0x" + "f" * 6000, "trials={}", "seed=" + str(2**31), "name=" + LONG, "name=a/b",
    "name=..",
    "name=\x1b", 'name="a\\u0000b"', "space={}", "space=1", "space.alpha=1", "space.alpha.low=nan",
    "space.alpha.type=1", "space.alpha.high=1e400", "cv=[]", "cv.folds=" + str(2**63 - 1),
    "cv.scheme=x",
    "estimator=1", "estimator.name=1", "estimator.name=a:b", "estimator.params={a={}}", "table=[]",
    "table.dataset=x", "table.path=/dev/zero", "table.path=pipe", "table.path=folder",
    "table.path=",
    "table.path=~nouser", "table.path=" + LONG, 'table.path="a\\u0000"', "table.families=[]",
    "table.families=ratios", "table.families=['magpie_statistics','x']", "table.formula=x",
    "table.target=" + LONG, "table.seed=-1", f"table.seed={2**63 - 1}", "table.test_fraction=nan",
    "table.test_fraction=0.99", "table.cifs=/dev/zero", "objective=x", "objective.name=a:b",
    "objective.name=os:_exit", "objective.name=quantile", "objective.params=1",
    "fit.group_weight=nan",
    "lease_s=inf", "lease_s=nan", "lease_s=1e308", "checkpoint_s=inf", "pruning=1", "pruning={}",
    "sampler.name=x", "sampler.max_history=" + str(2**63 - 1), "description=" + "\x1b[31m", "x=1",
    "a" + ".a" * DEEP + "=1", "a=" + "[" * DEEP + "]" * DEEP,
    "a=" + "{a=" * DEEP + "1" + "}" * DEEP,
    "a+=1", "a-=1", "space+=1", "description-=x", "allow_target_derived+=1",
    "allow_target_derived-=1",
    ".=1", "..=1", "a..b=1", "=", "+=", "-=1", "partition=\n", "time_limit=0", "time_limit=3:00",
    "time_limit=" + "9" * 400, "memory_gb=1e308", "memory_gb=nan", "nice=" + "9" * 30, "extra=1",
    "extra.x=1", "extra.a.b=1", "extra.mem=1", "setup=[1]", "cpus=0", "max_array=x", "srun=1",
)  # fmt: skip

SOUND = """
trials = 4
seed = 3
description = "text"
[table]
dataset = "csv"
path = "mine.csv"
families = ["ratios"]
[cv]
scheme = "kfold"
folds = 2
[estimator]
name = "ridge"
[estimator.params]
fit_intercept = true
[space]
alpha = { type = "float", low = 0.001, high = 10.0, log = true }
[pruning]
percentile = 50.0
"""
CSV = "formula,target\n" + "".join(f"Li{n}{e}O{n},{n}.5\n" for e in ("Na", "K") for n in (1, 2, 3))

# Pieces that a mutation of TOML puts in.
TOML_PIECES = (
    "[", "]", "{", "}", '"', "'", '"""', "=", ".", ",", "#", "\n", "\\", "\\u0000", "\\ud800", "\0",
    "\x1b", "nan", "-inf", "1e400", "-1", "0", "9" * 19, "9" * 5000, "0x" + "f" * 5000, "true",
    "[]",
    "{}", "[[]]", "[" * DEEP, "[" * DEEP + "]" * DEEP, "x" + ".x" * DEEP + " = 1",
    "[x" + ".x" * DEEP + "]",
    "{x=" * 200 + "1" + "}" * 200, '"' + "x" * 100_000 + '"', "1979-05-27T07:32:00Z", "07:32:00",
    "\n[[table]]\n", "\n[cluster]\n", "\nname = ''\n", "é", "\udce9", "\ufeff", "\r", "[table",
    "=x",
)  # fmt: skip


def fill_folder(folder: Path) -> None:
    """Put files of every kind into a folder, under the names that WORDS has."""
    (folder / "folder").mkdir()
    (folder / "tables").mkdir()
    (folder / "file").write_text("x")
    (folder / "empty").touch()
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "sound.toml").write_text(SOUND)
    (folder / "text.toml").write_text("neither = this nor that")
    (folder / "noread.toml").write_text(SOUND)
    (folder / "noread.toml").chmod(0)
    (folder / "bom.toml").write_bytes(b"\xef\xbb\xbf" + SOUND.encode())
    (folder / "crlf.toml").write_bytes(SOUND.replace("\n", "\r\n").encode())
    (folder / "latin.toml").write_bytes(SOUND.replace("text", "é").encode("latin-1"))
    (folder / "binary.toml").write_bytes(bytes(range(256)))
    with (folder / "huge.toml").open("wb") as stream:
        stream.truncate(1 << 40)
    (folder / "bad.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    (folder / "mine.csv").write_text(CSV)
    (folder / "bad.csv").write_bytes(b'formula,target\n"Li2O,1\n\xff\xfe,,,\n')
    (folder / "clusters.toml").write_text('[default]\nmemory_gb = 1\n[x]\npartition = "p"\n')


def mutate(text: str, rng: random.Random, pieces: Sequence[str] = TOML_PIECES) -> bytes:
    """Return a text with up to three changes: lines lost, moved or doubled, pieces put in."""
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(rng.randrange(len(lines)), lines[at])
            case 2:
                key, equals, _ = lines[at].partition("=")
                lines[at] = f"{key}{equals} {rng.choice(pieces)}"
            case 3:
                where = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:where] + rng.choice(pieces) + lines[at][where:]
            case 4:
                lines.insert(at, rng.choice(pieces))
            case _:
                lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        text = "\n".join(lines) or "\n"
    data = text.encode("utf-8", "surrogateescape" if rng.random() < 0.5 else "replace")
    if rng.random() < 0.1:
        where = rng.randrange(len(data))
        data = data[:where] + bytes([rng.randrange(256)]) + data[where + 1 :]
    return data

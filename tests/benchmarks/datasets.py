"""Where benchmarks find what they measure on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add `--data`, the folder of OBELiX, which must be given here or as HPO_DATA."""
    given = os.environ.get("HPO_DATA")
    parser.add_argument(
        "--data",
        # Runs have working directories of their own.
        type=lambda text: Path(text).resolve(),
        metavar="DIR",
        default=given,
        required=not given,
        help="the folder of OBELiX (default: HPO_DATA)",
    )

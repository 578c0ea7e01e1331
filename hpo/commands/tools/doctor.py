"""`hpo doctor`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from hpo.commands.common import add_json, add_shared, print_line
from hpo.doctor.checks import diagnose
from hpo.doctor.result import CheckResult
from hpo.errors import HpoError
from hpo.storage.urls import resolve_url


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_json(parser)
    add_shared(parser, "storage", "tables", "reports", "logs")


def run(options: argparse.Namespace) -> int:
    """Print what was found, and return 2 if there is a problem."""
    folders = {
        "working": Path.cwd(),
        "logs": Path(options.logs),
        "tables": Path(options.tables),
        "reports": Path(options.reports),
    }
    findings = diagnose(resolve_url(options.storage), folders)
    if options.json:
        print_line(json.dumps([finding.as_dict() for finding in findings], indent=1))
    else:
        for line in _lines(findings):
            print_line(line)
    return HpoError.exit_code if any(f.verdict == "problem" for f in findings) else 0


def _lines(findings: Sequence[CheckResult]) -> list[str]:
    names = max(len(finding.name) for finding in findings)
    verdicts = max(len(finding.verdict) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.name:{names}}  {finding.verdict:{verdicts}}  {finding.found}")
        if finding.remedy:
            lines.append(f"{'':{names}}  {'':{verdicts}}  → {finding.remedy}")
    counts = {
        verdict: sum(finding.verdict == verdict for finding in findings)
        for verdict in ("ok", "warning", "problem", "not checked")
    }
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    return [*lines, f"{len(findings)} checks: {said}"]

"""What the doctor asks SLURM."""

from __future__ import annotations

import re
import shutil

from hpo.finding import Finding, Reply, ask

LIMIT_S = 3.0
_NO_NEED = "local workers (hpo run) do not need SLURM; for jobs, "


def check_slurm() -> list[Finding]:
    """Return whether SLURM is there and answers, and those of its settings that matter to us."""
    missing = [name for name in ("sbatch", "squeue", "scontrol") if shutil.which(name) is None]
    if "sbatch" in missing:
        found = "not installed: no sbatch on PATH"
        return [Finding("slurm", "not checked", found, "only needed for jobs on a cluster")]
    if missing:
        found = f"sbatch is on PATH, but not {', '.join(missing)}"
        return [Finding("slurm", "warning", found, _NO_NEED + "ask the site for these commands")]
    ping = ask(["scontrol", "ping"], LIMIT_S)
    if ping.code != 0 or "is UP" not in ping.out:
        found = f"installed, but the controller does not answer: {_complaint(ping)}"
        remedy = _NO_NEED + "try again later, or ask the site whether slurmctld is up"
        return [Finding("slurm", "warning", found, remedy)]
    version = _version()
    config = ask(["scontrol", "show", "config"], LIMIT_S)
    if config.code != 0:
        found = f"{version}, the controller is up, its settings cannot be read: "
        return [Finding("slurm", "warning", found + _complaint(config), "try again later")]
    return [Finding("slurm", "ok", f"{version}, the controller is up; {_settings(config.out)}")]


def _version() -> str:
    if shutil.which("sinfo") is None:
        return "version unknown (no sinfo)"
    return ask(["sinfo", "--version"], LIMIT_S).out.strip() or "version unknown"


def _complaint(reply: Reply) -> str:
    if reply.code is None:
        return f"no answer within {LIMIT_S:g} s"
    # A controller that is down is announced above a banner, other errors end with their cause.
    lines = (reply.err.strip() or reply.out.strip()).splitlines()
    down = [line.strip() for line in lines if "is DOWN" in line]
    if down:
        return down[0]
    return lines[-1].strip() if lines else f"exit code {reply.code}"


def _settings(config: str) -> str:
    values = dict(re.findall(r"(?m)^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", config))
    shown = [
        f"{key} {values[key]}"
        for key in ("MaxArraySize", "PreemptMode", "KillWait", "JobRequeue")
        if key in values
    ]
    accounting = values.get("AccountingStorageType", "")
    # Without it sacct is a program that can only refuse.
    answers = accounting not in ("", "(null)", "accounting_storage/none")
    if answers and shutil.which("sacct") is not None:
        shown.append("sacct available")
    else:
        shown.append("no sacct (not needed)")
    return ", ".join(shown)

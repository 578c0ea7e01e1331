"""`hpo wandb`."""

from __future__ import annotations

import argparse
import netrc
import os
import signal
from pathlib import Path
from urllib.parse import urlparse

from hpo.commands.common import (
    INTERRUPTED,
    add_shared,
    open_storage,
    print_line,
    say,
    storage_hint,
)
from hpo.errors import HpoError
from hpo.records import Access
from hpo.study.record import find
from hpo.tracking.replay import Outcome, Replay, RunTarget

_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--watch", action="store_true", help="go on until the budget is finished and logged"
    )
    parser.add_argument(
        "--interval", type=_seconds, default=5.0, metavar="S", help="how often to look (default: 5)"
    )
    parser.add_argument("--project", help="default: WANDB_PROJECT, or hpo")
    parser.add_argument("--entity", help="default: WANDB_ENTITY, or the account's own")
    parser.add_argument(
        "--mode",
        choices=("online", "offline"),
        help="default: WANDB_MODE, or online if there is an API key",
    )
    parser.add_argument(
        "--anew", action="store_true", help="begin another run, and log all trials again"
    )
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    add_shared(parser, "storage", "reports")


def run(options: argparse.Namespace) -> int:
    """Log what is finished and not yet logged."""
    mode, why = _mode(options.mode)
    if mode == "disabled":
        say("WANDB_MODE=disabled: nothing is logged")
        return 0
    record = find(open_storage(options, Access.WORK), options.name)
    target = RunTarget(
        mode=mode,
        project=options.project or os.environ.get("WANDB_PROJECT") or None,
        entity=options.entity or os.environ.get("WANDB_ENTITY") or None,
        anew=options.anew,
        reports_dir=Path(options.reports),
    )
    stop: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: stop.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    replay = Replay(record, target, say=say, stopped=lambda: bool(stop), parent_pid=options.parent)
    try:
        outcome: Outcome = replay.run(watch=options.watch, interval_s=options.interval)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    print_line(f"{record.name}: {outcome.logged} trials logged now, {outcome.total} in all")
    if outcome.folder is not None and mode == "offline":
        say(f"{why}; upload with: wandb sync {_shown(outcome.folder)}")
    if stop:
        say(f"stopped, nothing is lost; go on with: hpo wandb {record.name}{storage_hint(options)}")
        return INTERRUPTED
    return 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 60.0:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0.05 to 60, got '{text}'")
    return value


def _mode(chosen: str | None) -> tuple[str, str]:
    """Return online, offline or disabled, and why."""
    if chosen is not None:
        mode, why = chosen, f"--mode {chosen}"
    elif named := os.environ.get("WANDB_MODE"):
        mode, why = _MODES.get(named, named), f"WANDB_MODE={named}"
        if mode not in ("online", "offline", "disabled"):
            raise HpoError(f"WANDB_MODE: must be online, offline or disabled, got '{named}'")
    elif _has_key():
        mode, why = "online", "there is an API key"
    else:
        mode, why = "offline", "offline, for want of an API key (WANDB_API_KEY)"
    if mode == "online" and not _has_key():
        raise HpoError(
            f"{why}: needs an API key; set WANDB_API_KEY or call: wandb login "
            "(without a network: --mode offline)"
        )
    return mode, why


def _has_key() -> bool:
    if any(os.environ.get(name) for name in _KEYS):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _shown(folder: Path) -> str:
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)

"""Weights & Biases' own library: its settings, its silence, and its errors in our words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import wandb

from hpo.errors import HpoError

INIT_TIMEOUT_S = 15.0
FINISH_TIMEOUT_S = 60.0


def settings() -> wandb.Settings:
    """Return settings under which nothing but the study is logged, and nothing waits for ever."""
    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_TIMEOUT_S),
        login_timeout=INIT_TIMEOUT_S,
        quiet=True,
        save_code=False,
        show_info=False,
        show_warnings=False,
        silent=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        # Short, so that a process that is killed leaves little to be logged again.
        x_transaction_log_flush_interval=1.0,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the library keep what it says to people to itself: this command says it."""
    with Path(os.devnull).open("w", encoding="utf-8") as sink, contextlib.redirect_stderr(sink):
        yield


@contextlib.contextmanager
def explained(mode: str) -> Iterator[None]:
    """Turn what the library raises into one message."""
    try:
        yield
    except (wandb.Error, TimeoutError, OSError) as exc:
        reason = " ".join(str(exc).split())
        host = os.environ.get("WANDB_BASE_URL", "")
        at = f" at {host}" if host else ""
        hint = "log without a network: --mode offline" if mode == "online" else "see WANDB_DIR"
        raise HpoError(
            f"Weights & Biases{at} cannot be used: {reason} (nothing is lost; {hint})"
        ) from exc


def give_up_service() -> None:
    """End the library's own process here, where it is quiet, rather than when Python ends."""
    with contextlib.suppress(Exception), quiet():
        wandb.teardown()

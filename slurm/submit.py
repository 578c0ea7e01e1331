"""Submits copies of a callable, and what a copy may ask and do from inside its job."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal as signals
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from slurm.calls import call, missing_program, one_line, says_no_answer
from slurm.cluster import ClusterSpec
from slurm.errors import SlurmError, SubmitError, UnreachableError
from slurm.queue import versions_and_limits
from slurm.scheduler import Job
from slurm.script import python_of, sbatch_options, setup_lines

# scancel takes its jobs as arguments; more at once would outgrow a command line.
IDS_PER_CALL = 500
# How often a job asks when it ends.
END_ATTEMPTS = 3

# Variables that sbatch puts above the script, where their names are not SBATCH_OPTION.
_VARIABLES = {
    "time": ("SBATCH_TIMELIMIT",),
    "array": ("SBATCH_ARRAY_INX",),
    "mem": ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"),
    "requeue": ("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE"),
    "no-requeue": ("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE"),
}


class _Copy:
    """A copy of the callable, out of the hands of submitit's signal handlers.

    These would ignore SIGTERM and count preemptions as time-outs. Until the callable has handlers
    of its own, SIGTERM ends it as usual and SIGUSR2, which only warns it, is ignored.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run

    def __call__(self) -> None:
        signals.signal(signals.SIGTERM, signals.SIG_DFL)
        signals.signal(signals.SIGCONT, signals.SIG_DFL)
        signals.signal(signals.SIGUSR2, signals.SIG_IGN)
        self.run()


def submit(
    cluster: ClusterSpec,
    run: Callable[[], Any],
    n: int,
    *,
    name: str,
    comment: str,
    folder: Path,
) -> list[str]:
    """Submit `n` copies of a callable as job arrays, and return their job ids.

    A copy finds its callable by import: what it is defined in must be importable on the node. It
    gets SIGUSR2 `leave_before_s` before the time limit, and SIGTERM when it is preempted, requeued
    or cancelled; it has to install handlers of its own.

    Parameters
    ----------
    run
        Called without arguments; what it returns is lost. Its pickle may hold a secret: nobody else
        can read the folder.
    comment
        One's own id for these jobs. SLURM's job ids may be used again after a controller has lost
        its state, so jobs should be known by this.
    folder
        New or empty: one for each submission, since an old file could be taken for a new job's. It
        gets the scripts, the pickles and a log for every job.

    Raises
    ------
    SubmitError
        If sbatch refuses, with its own words; `job_ids` are those submitted before it did.
    UnreachableError
        If SLURM is not installed here or cannot be asked. A controller that was slow to answer may
        have accepted jobs all the same: `list_jobs(comment)` tells.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    for what, text in (("name", name), ("comment", comment)):
        if not text.isprintable() or not text:
            raise ValueError(f"{what} must be one line of text, got {text!r}")
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise UnreachableError(missing_program(program))
    largest = cluster.max_array or (versions_and_limits().max_array if n > 1 else 1)
    _make_private(folder)
    job_ids: list[str] = []
    while len(job_ids) < n:
        size = min(largest, n - len(job_ids))
        job_ids += _submit_array(cluster, run, size, name, comment, folder, job_ids)
    return job_ids


def requeue_self() -> None:
    """Put the job in which this process runs back into the queue; SLURM then ends it.

    It gets SIGTERM at once and SIGKILL a little later, and begins again when its turn comes, with
    the same job id and one restart more.

    Raises
    ------
    SlurmError
        Outside a job, or if SLURM refuses, as it does for a job submitted with `--no-requeue`.
    """
    job_id = _own_id()
    if job_id is None:
        raise SlurmError("requeue: not inside a SLURM job: SLURM_JOB_ID is not set")
    call("scontrol", "requeue", job_id)


def cancel(job_ids: Sequence[str], pending_only: bool = False, signal: str | None = None) -> None:
    """Cancel jobs, or send them a signal such as `USR2`; jobs that are gone already are no error.

    A signal reaches what srun started in a job, not the batch script itself.

    Raises
    ------
    UnreachableError
        If SLURM cannot be asked.
    SlurmError
        If SLURM refuses, as it does for jobs of somebody else.
    """
    options = ["--state=PENDING"] if pending_only else []
    options += [f"--signal={signal}"] if signal else []
    for start in range(0, len(job_ids), IDS_PER_CALL):
        try:
            call("scancel", *options, *job_ids[start : start + IDS_PER_CALL])
        except UnreachableError:
            raise
        except SlurmError as exc:
            if not _says_only_gone(str(exc)):
                raise


def current_job() -> Job | None:
    """Return the job in which this process runs, or None outside a job.

    Where the environment does not say when it ends, squeue is asked a few times; if it cannot
    answer from the node, the end stays unknown.
    """
    job_id = _own_id()
    if job_id is None:
        return None
    environment = os.environ
    return Job(
        job_id=job_id,
        raw_id=environment["SLURM_JOB_ID"],
        restarts=int(environment.get("SLURM_RESTART_COUNT", "0")),
        node=environment.get("SLURMD_NODENAME"),
        partition=environment.get("SLURM_JOB_PARTITION"),
        end_unix_s=_find_end(job_id),
    )


def _own_id() -> str | None:
    # The last job of an array bears the array's own id: as SLURM_JOB_ID alone it would mean all.
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID") or None


def _find_end(job_id: str) -> float | None:
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    if told.isdigit():
        return float(told)
    for attempt in range(END_ATTEMPTS):
        # A controller that is busy knows a moment later that the job has begun.
        time.sleep(attempt)
        with contextlib.suppress(SlurmError, ValueError):
            text = call(
                "squeue", "--noheader", f"--jobs={job_id}", "--Format=EndTime", timeout_s=30
            )
            # Of jobs with a limit: a date, or N/A until the controller knows that it has begun.
            if text.strip() == "NONE":
                return None
            return datetime.fromisoformat(text.strip()).timestamp()
    return None


def _submit_array(
    cluster: ClusterSpec,
    run: Callable[[], Any],
    n: int,
    name: str,
    comment: str,
    folder: Path,
    before: Sequence[str],
) -> list[str]:
    """Submit `n` jobs in one go; `before` is what the same submission has in the queue."""
    # Whoever sends nothing, as a worker in its job, does without it.
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    # A step would hold the CPUs that the objective's own srun needs, and hand its variables on.
    by_shell = cluster.nodes_per_trial > 1
    python = f"exec {python_of(cluster)}" if by_shell else python_of(cluster)
    executor = SlurmExecutor(folder, max_num_timeout=0, python=python)
    options = sbatch_options(cluster, name, comment, exec_by_shell=by_shell)
    executor.update_parameters(
        # Everything is said in `options`; what has a default of submitit's own is taken back.
        time=None,
        wckey=None,
        job_name=None,
        array_parallelism=cluster.throttle or n,
        setup=setup_lines(cluster) or None,
        use_srun=not by_shell,
        # From 22.05 on, srun no longer takes this over from the job around it.
        srun_args=[f"--cpus-per-task={cluster.cpus_per_job}", *cluster.srun],
        stderr_to_stdout=True,
        additional_parameters=options,
    )
    try:
        with _without_variables({*options, "array"}), contextlib.redirect_stderr(io.StringIO()):
            jobs = executor.submit_array([_Copy(run)] * n)
    except (FailedJobError, FailedSubmissionError) as exc:
        _remove_unsent(folder)
        words = one_line(str(exc), "sbatch")
        if says_no_answer(words):
            raise UnreachableError(f"SLURM cannot be asked: sbatch: {words}") from exc
        already = f" ({len(before)} jobs were submitted before it)" if before else ""
        raise SubmitError(
            f"cluster {cluster.name}: sbatch refused {n} jobs: {words}{already}", before
        ) from exc
    for file in folder.iterdir():
        if not file.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # a job that has begun may rename its own
                file.chmod(0o600)
    return [job.job_id for job in jobs]


@contextlib.contextmanager
def _without_variables(options: set[str]) -> Iterator[None]:
    """Hide variables that would override these options, or that describe a job around this one."""
    hidden = {"SBATCH_WAIT"}
    for option in options:
        hidden.update(_VARIABLES.get(option, (f"SBATCH_{option.upper().replace('-', '_')}",)))
    if "SLURM_JOB_ID" in os.environ:
        own = re.compile(r"SLURM_(?!CONF$)|SLURMD_|SRUN_|SUBMITIT_")
        hidden.update(key for key in os.environ if own.match(key))
    before = {key: os.environ.pop(key) for key in hidden if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(
            f"{folder} must be empty: job ids can come again, its files would be mixed"
        )
    folder.chmod(0o700)


def _remove_unsent(folder: Path) -> None:
    """Remove the pickles that no job will read."""
    for file in folder.iterdir():
        if re.fullmatch(r"[0-9a-f]{32}\.pkl", file.name):
            file.unlink()


def _says_only_gone(message: str) -> bool:
    """Whether scancel complains of nothing but jobs that are over or unknown."""
    parts = message.removeprefix("scancel: ").split("; ")
    gone = re.compile(r"invalid job id|already completing or completed", re.IGNORECASE)
    return all(gone.search(part) for part in parts)

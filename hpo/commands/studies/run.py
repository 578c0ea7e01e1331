"""`hpo run`.

A worker gets ready while the study is begun: what takes long to import waits until then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from features.table import FeaturesError
from hpo.commands.common import (
    INTERRUPTED,
    add_shared,
    open_storage,
    print_line,
    say,
    storage_hint,
)
from hpo.commands.results.status import summary
from hpo.commands.studies.study_options import (
    add_study_options,
    add_worker_options,
    begin_study,
    read_sound_studies,
    read_study,
)
from hpo.errors import HpoError, SpecError, StorageError
from hpo.records import Access
from hpo.storage.events import EventKind
from hpo.system.early_imports import EarlyImports
from hpo.system.resources import allowed_cpus
from hpo.wording import count_of

# How long before the expected end of a run its report is prepared. Imports take a few seconds of a
# core that workers may use as well, and the memory is taken from then on.
REPORT_LEAD_S = 20.0
# The page, and beside it what is imported only where it is needed.
REPORT_MODULES = (
    "hpo.report.study_page",
    "scipy.stats",
    "optuna.importance",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
)

if TYPE_CHECKING:
    from hpo.launch.placement import Share
    from hpo.launch.processes import WorkerSource
    from hpo.records import Counts
    from hpo.spec.sections import StudySpec
    from hpo.study.record import Source, StudyRecord
    from hpo.study.snapshot import StudySnapshot
    from hpo.study.status import Status


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_study_options(parser)
    add_worker_options(parser)
    add_shared(parser, "reports")


def run(options: argparse.Namespace) -> int:
    """Build the table of a study file, run the study, write its report; or so for a folder."""
    if options.study.is_dir():
        return _run_folder(options)
    spec, source = read_study(options)
    return run_study(options, spec, source, None)


def _run_folder(options: argparse.Namespace) -> int:
    """Run every study file of a folder, one after another, and compare them.

    All are checked before the first is run: a mistake in the last one should not come to light
    hours later.
    """
    from hpo.commands.results.compare import print_comparison
    from hpo.study.record import find

    if options.name is not None:
        raise SpecError(f"--name {options.name}: the studies of a folder have their files' names")
    studies, n_wrong = read_sound_studies(options, [options.study])
    if n_wrong:
        raise SpecError(
            f"{options.study}: {count_of(n_wrong, 'study file')} not valid, none was run"
        )
    worst, done = 0, []
    for _, spec, source, trials, _ in studies:
        one = argparse.Namespace(**{**vars(options), "trials": trials})
        try:
            code = run_study(one, spec, source, None, again=False)
        except (HpoError, FeaturesError) as exc:
            # The others do not depend on it.
            say(f"error: {exc}")
            code = getattr(exc, "exit_code", HpoError.exit_code)
        if code == INTERRUPTED:
            return INTERRUPTED
        worst = max(worst, code)
        if code == 0:
            done.append(spec.name)
    storage = open_storage(options, Access.WORK)
    records = [find(storage, name) for name in done]
    print_comparison(records, reports_dir=Path(options.reports))
    return worst


def run_study(
    options: argparse.Namespace,
    spec: StudySpec,
    source: Source,
    stored_table: Path | None,
    *,
    again: bool = True,
    by_hand: bool = False,
) -> int:
    """Run a study; what is finished is reported `again`, or only where its report is missing.

    `by_hand` says that `--trials` sets the budget as `hpo budget` does.
    """
    from hpo.launch.placement import share_of
    from hpo.launch.processes import worker_source

    asked = by_hand and options.trials is not None
    reported = None if asked else _find_reported(options, spec, source, stored_table)
    if reported is not None:
        _say_finished(spec.name, reported.counts, again=again)
        return _show(options, reported) if again else 0
    # The first worker gets ready while the study is begun.
    share = share_of(spec.resources, options.cpus_per_worker, options.gpus_per_worker)
    with worker_source(spec, share.cpus) as processes:
        record = begin_study(options, spec, source, stored_table, by_hand=by_hand)
        counts = record.ledger.counts()
        if not counts.done:
            if record.ledger.events(EventKind.RESUMED):
                say(
                    f"going on with study '{record.name}': "
                    f"{counts.finished} of {counts.budget} finished"
                )
            return _work(options, record, processes, share)
    again = again or not _page(options, record).is_file()
    _say_finished(record.name, counts, again=again)
    return _finish(options, record) if again else 0


def _say_finished(name: str, counts: Counts, *, again: bool) -> None:
    told = f": {counts}; nothing to do (more: hpo resume {name} --trials N)"
    say(f"study '{name}' is finished{told if again else ''}")


def _page(options: argparse.Namespace, record: StudyRecord) -> Path:
    from hpo.study.report_folder import report_folder

    return report_folder(record, Path(options.reports)) / "report.html"


def _find_reported(
    options: argparse.Namespace, spec: StudySpec, source: Source, stored_table: Path | None
) -> StudySnapshot | None:
    """Return the study if it is finished, the same as ever, and its report shows all of it.

    That is found out without a worker, an estimator or a figure. None in all other cases, which
    `begin` tells apart.
    """
    from hpo.report.freshness import STAMP_NAME, is_current
    from hpo.study.creation import build_table, is_same
    from hpo.study.record import find, names
    from hpo.study.snapshot import take_snapshot

    stamp = Path(options.reports) / spec.name / STAMP_NAME
    if options.strict or options.accept or not stamp.is_file():
        return None
    try:
        storage = open_storage(options, Access.READ)
    except StorageError:
        return None
    if spec.name not in names(storage):
        return None
    record = find(storage, spec.name)
    snapshot = take_snapshot(record)
    counts = snapshot.counts
    if not counts.done or snapshot.status.stop is not None:
        return None
    if options.trials not in (None, counts.budget):
        return None
    if not is_current(snapshot, _page(options, record).parent):
        return None
    table = build_table(spec, source, Path(options.tables), say, stored_table)
    return snapshot if is_same(record, spec, table) else None


def _work(
    options: argparse.Namespace, record: StudyRecord, processes: WorkerSource, share: Share
) -> int:
    from hpo.launch.placement import make_places
    from hpo.launch.processes import worker_modules
    from hpo.launch.progress_line import Progress
    from hpo.launch.supervisor import Supervisor
    from hpo.study.status import take_status
    from hpo.worker.channel import WorkerOrder

    progress = Progress(record, sys.stderr)
    imports = EarlyImports([*worker_modules(record.spec), *REPORT_MODULES])

    def watch(status: Status) -> None:
        progress(status)
        if progress.left_s <= REPORT_LEAD_S:
            imports.begin()

    workers = options.workers or max(1, len(allowed_cpus()) // share.cpus)
    places = make_places(workers, share)
    logs = Path(options.logs) / record.name
    order = WorkerOrder(
        storage=record.storage.engine.url.render_as_string(hide_password=False),
        study=record.name,
        logs=str(logs.resolve()),
        launcher=os.getpid(),
    )
    launcher = Supervisor(record, order, places, processes, watch, progress.tell)
    trials = count_of(record.ledger.counts().budget, "trial")
    by = count_of(workers, "worker")
    say(f"study '{record.name}': {trials}, {by}, logs in {logs}")
    with _tracked(options, record, logs):
        try:
            finished = launcher.run()
        finally:
            progress.close()
        if finished:
            return _finish(options, record, imports)
    status = take_status(record)
    counts = status.counts
    if status.limit is not None and launcher.reason is None:
        say(f"ended: {status.limit}; {counts} finished")
        return _finish(options, record, imports)
    say(
        f"stopped: {counts} finished, nothing is lost; "
        f"go on with: hpo resume {record.name}{storage_hint(options)}"
    )
    return INTERRUPTED


def _tracked(
    options: argparse.Namespace, record: StudyRecord, logs: Path
) -> contextlib.AbstractContextManager[None]:
    """Log the study to Weights & Biases meanwhile, where there is a key for it."""
    if not os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "disabled":
        return contextlib.nullcontext()
    from hpo.tracking.background import tracked

    return tracked(record, logs, Path(options.reports), say)


def _finish(
    options: argparse.Namespace, record: StudyRecord, imports: EarlyImports | None = None
) -> int:
    if imports is not None:
        imports.wait()
    from hpo.report.study_page import write_report
    from hpo.study.snapshot import take_snapshot

    write_report(record, Path(options.reports))
    return _show(options, take_snapshot(record))


def _show(options: argparse.Namespace, snapshot: StudySnapshot) -> int:
    """Print what came out, and where the report is."""
    for line in summary(snapshot):
        print_line(line)
    print_line(f"report: {_page(options, snapshot.record)}")
    return 0

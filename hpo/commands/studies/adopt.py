"""`hpo adopt`."""

from __future__ import annotations

import argparse
from pathlib import Path

from optuna.trial import TrialState

from hpo.commands.common import open_storage, print_line, storage_hint
from hpo.commands.studies.study_options import add_file_options, add_trials, read_study
from hpo.records import Access
from hpo.study.lifecycle.adoption import adopt
from hpo.wording import count_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("storage", metavar="STORAGE", help="where the study is")
    parser.add_argument("name", metavar="NAME", help="the study that Optuna began")
    parser.add_argument(
        "study", type=Path, metavar="STUDY", help="its objective, as train.py:objective, or a file"
    )
    add_file_options(parser)
    add_trials(parser)
    parser.set_defaults(data=None)


def run(options: argparse.Namespace) -> int:
    """Let a study of Optuna's go on by hpo, with the trials that it has."""
    if options.trials is None:
        # As many as there are: more are asked for as of any study.
        options.trials = 1
    spec, source = read_study(options)
    # There must be something: our tables are made beside Optuna's, and nothing else.
    open_storage(options, Access.READ).engine.dispose()
    record, states = adopt(open_storage(options, Access.CREATE), spec, source)
    done = states[TrialState.COMPLETE] + states[TrialState.PRUNED]
    if done > spec.trials:
        record.ledger.set_budget(done)
    counts = record.ledger.counts()
    print_line(
        f"study '{record.name}': {counts.finished} of {count_of(counts.budget, 'trial')} finished"
    )
    if counts.free:
        print_line(f"  {count_of(counts.free, 'point')} enqueued, to be tried first")
    if failed := states[TrialState.FAIL]:
        print_line(f"  {count_of(failed, 'trial')} failed, which do not count")
    if running := states[TrialState.RUNNING]:
        print_line(
            f"  {count_of(running, 'trial')} RUNNING, left to whoever runs them; those of killed "
            "processes stay so for ever"
        )
    print_line(f"go on with: hpo resume {record.name} --trials N{storage_hint(options)}")
    return 0

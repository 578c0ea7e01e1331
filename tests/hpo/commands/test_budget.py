"""The budget is the user's: what was set by hand is never lowered by a run, and all is printed."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import pytest

from hpo.cli import main
from hpo.commands.common import INTERRUPTED
from hpo.commands.studies import run
from hpo.launch import processes
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.study.record import find
from tests.support.studies import write_study

STUDY = "sqlite:///hpo.db"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("STORAGE", "DATA", "TABLES", "REPORTS", "NAME", "TRIALS", "SEED", "CLUSTERS"):
        monkeypatch.delenv(f"HPO_{variable}", raising=False)
    Path("clusters.toml").write_text('[here]\npartition = "p"\n')


@pytest.fixture
def _without_workers(monkeypatch):
    """Begin studies, and leave the work to others."""
    monkeypatch.setattr(run, "_work", lambda *_: INTERRUPTED)
    monkeypatch.setattr(processes, "worker_source", lambda *_: contextlib.nullcontext())


def budget() -> int:
    storage = open_storage(STUDY, Access.READ)
    found = find(storage, "x").ledger.counts().budget
    storage.remove_session()
    storage.engine.dispose()
    return found


class Model:
    """What the budget should be: `by_hand` is what `hpo budget` or `hpo resume --trials` said."""

    def __init__(self) -> None:
        self.budget, self.by_hand, self.in_file, self.known = 0, 0, 10, 0

    def begin(self, asked: int | None, *, by_hand: bool = False) -> None:
        if not self.known:
            self.budget = asked or self.in_file
        elif asked is not None or self.in_file != self.known:
            wanted = asked or self.in_file
            if wanted >= self.by_hand:
                self.budget = wanted
                if by_hand and asked is not None:
                    self.by_hand = wanted
        self.known = self.in_file


class User:
    """Gives commands, and knows what should come of them."""

    def __init__(self, monkeypatch) -> None:
        self.model, self._monkeypatch = Model(), monkeypatch
        self.edit(10)

    def edit(self, trials: int) -> None:
        self.model.in_file = trials
        write_study(trials=trials)

    def run(self, asked: int | None) -> None:
        self.model.begin(asked)
        assert main(["run", "x.toml", *typed(asked)]) == INTERRUPTED

    def submit(self, asked: int | None) -> None:
        self.model.begin(asked)
        assert main(["submit", "x.toml", "--workers", "0", *typed(asked)]) == 0

    def submit_by_variable(self, asked: int | None) -> None:
        self.model.begin(asked)
        with self._monkeypatch.context() as patched:
            if asked is not None:
                patched.setenv("HPO_TRIALS", str(asked))
            assert main(["submit", "x.toml", "--workers", "0"]) == 0

    def resume(self, asked: int | None) -> None:
        self.model.begin(asked, by_hand=True)
        assert main(["resume", "x", *typed(asked)]) == INTERRUPTED

    def set_budget(self, asked: int | None) -> None:
        self.model.budget = self.model.by_hand = asked or 25
        assert main(["budget", "x", str(self.model.budget)]) == 0


def typed(asked: int | None) -> list[str]:
    return [] if asked is None else ["--trials", str(asked)]


@pytest.mark.slow
@pytest.mark.usefixtures("_without_workers")
@pytest.mark.parametrize("seed", range(12))
def test_a_budget_changes_as_its_user_says_in_any_order_of_commands(seed, capfd, monkeypatch):
    source, user = random.Random(seed), User(monkeypatch)
    model = user.model
    user.run(source.choice([None, 15]))
    begins = [user.run, user.submit, user.submit_by_variable, user.resume]
    for _ in range(12):
        if source.random() < 0.3:
            user.edit(source.choice([10, 20, 30]))
        before, by_hand = model.budget, model.by_hand
        asked = source.choice([None, None, source.randrange(2, 40)])
        command = source.choice([*begins, user.set_budget])
        capfd.readouterr()
        command(asked)
        said = "".join(capfd.readouterr())
        assert budget() == model.budget, (command, asked, said)
        changes = re.findall(r"budget (\d+) -> (\d+)", said)
        if before != model.budget or command == user.set_budget:
            assert changes == [(str(before), str(model.budget))]
        else:
            assert not changes
        if command in begins:
            assert model.budget >= by_hand
            if asked is not None and asked < by_hand:
                assert f"the budget stays {before}: a larger one than {asked} was" in said


def test_an_unchanged_file_leaves_what_was_raised_and_what_was_lowered(hpo):
    path = write_study(trials=2, delay_s=0.0)
    hpo("run", path, "--workers", "1")
    assert "study 'x': budget 2 -> 4; 2 finished" in hpo("budget", "x", "4").stdout
    done = hpo("run", path, "--workers", "1")
    assert "budget" not in done.stderr
    assert "x: finished, 4 of 4 trials" in done.stdout
    raised = hpo("resume", "x", "--trials", "5", "--workers", "1")
    assert "budget 4 -> 5" in raised.stderr
    kept = hpo("run", path, "--trials", "3")
    assert "the budget stays 5: a larger one than 3 was set by hand" in kept.stderr
    assert "lower it with: hpo budget x 3" in kept.stderr
    assert "budget 5 -> 3; 5 finished" in hpo("budget", "x", "3").stdout
    assert "budget" not in hpo("run", path).stderr
    # The number of trials in the file is the user's word when it changes.
    write_study(trials=6, delay_s=0.0)
    edited = hpo("run", path, "--workers", "1")
    assert "budget 3 -> 6" in edited.stderr
    assert "x: finished, 6 of 6 trials" in edited.stdout


def test_a_folder_run_asks_of_each_study_what_it_can_have(hpo):
    Path("many").mkdir()
    for name, trials in (("a", 2), ("b", 1)):
        text = Path(write_study(trials=trials, delay_s=0.0)).read_text()
        if name == "b":
            text = re.sub(r"params.*", "", text.partition("[space]")[0])
            text = text.replace("Parabola", "Constant")
        Path(f"many/{name}.toml").write_text(text)
    storage = ("--storage", STUDY)
    hpo("run", "many", "--trials", "3", "--workers", "1", *storage)
    hpo("budget", "a", "4")
    again = hpo("run", "many", "--trials", "3", "--workers", "1", *storage)
    assert "the budget stays 4" in again.stderr
    assert "a: finished, 4 of 4 trials" in again.stdout
    said = hpo("budget", "b", "5", code=2).stderr
    assert "study 'b': every trial of an empty [space] is the same: trials must be 1" in said

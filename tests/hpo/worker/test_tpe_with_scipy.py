"""TPE with SciPy's normal distribution draws what Optuna's own draws."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.samplers._tpe import _truncnorm

from hpo.worker.trial_cache import use_scipy_in_tpe

FUNCTIONS = ("_log_ndtr", "_ndtr")


@pytest.fixture
def plain(monkeypatch):
    """Return Optuna's module as it is, and have what replaces its functions undone."""
    source = spec_from_file_location("plain", _truncnorm.__file__)
    assert source is not None
    assert source.loader is not None
    module = module_from_spec(source)
    source.loader.exec_module(module)
    for name in FUNCTIONS:
        monkeypatch.setattr(_truncnorm, name, getattr(module, name))
    use_scipy_in_tpe.cache_clear()
    return module


def test_the_functions_are_equal_in_the_middle_and_in_the_tails(plain):
    use_scipy_in_tpe()
    x = np.concatenate([np.linspace(-40.0, 8.0, 4001), [-1e3, -20.0, 6.0, 0.0, -0.0]])
    for name, tolerance in zip(FUNCTIONS, (1e-11, 1e-15), strict=True):
        new, own = getattr(_truncnorm, name), getattr(plain, name)
        assert new is not own
        # Optuna's `_ndtr` has no digits left where it is below the last one of 1.
        np.testing.assert_allclose(new(x), own(x), rtol=tolerance, atol=1e-15)


@pytest.mark.parametrize("n_trials", [12, 100])
def test_draws_are_equal(plain, n_trials):
    def draw() -> list[dict[str, float]]:
        study = optuna.create_study(sampler=TPESampler(seed=3))
        for number in range(n_trials + 10):
            trial = study.ask()
            x = trial.suggest_float("x", 1e-6, 1.0, log=True)
            y = trial.suggest_float("y", -1.0, 1.0, step=0.25)
            n = trial.suggest_int("n", 1, 1000)
            kind = trial.suggest_categorical("kind", [0.0, 1.0])
            study.tell(trial, (np.log(x) + 3.0) ** 2 + y + n * (1 + kind) + number % 7)
        return [trial.params for trial in study.trials]

    own = draw()
    use_scipy_in_tpe()
    assert [list(params.values()) for params in draw()] == [
        pytest.approx(list(params.values()), rel=1e-9) for params in own
    ]

"""The networks of the catechol study: gradients, steps, batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from studies.catechol.network import Loss, Networks


@pytest.mark.parametrize("loss", [Loss((1.0, 1.0, 1.0)), Loss((2.0, 1.0, 0.5), balance=0.4)])
def test_the_gradient_is_that_of_finite_differences(loss):
    stream = np.random.default_rng(0)
    X, y = stream.normal(size=(7, 4)), stream.uniform(size=(7, 3))
    networks = Networks(4, [5, 3], 3, seeds=[1, 2], dtype=np.float64)
    for bias in networks.biases:
        bias += stream.normal(size=bias.shape)
    step = 1e-6
    for parameter, gradient in zip(
        networks.parameters, networks.gradients(X, y, loss), strict=True
    ):
        assert gradient.shape == parameter.shape
        for place in np.ndindex(parameter.shape):
            kept = parameter[place]
            ends = []
            for shift in (step, -step):
                parameter[place] = kept + shift
                ends.append(loss.value(networks.predict(X)[place[0]], y))
            parameter[place] = kept
            assert gradient[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


def test_a_batch_of_networks_is_each_of_them_alone():
    stream = np.random.default_rng(0)
    X, y = stream.normal(size=(40, 3)), stream.uniform(size=(40, 2))
    how: dict[str, Any] = {
        "epochs": 5,
        "batch_rows": 16,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "seed": 3,
    }

    def trained(seeds):
        networks = Networks(3, [8, 4], 2, seeds, dtype=np.float64)
        networks.train(X, y, Loss((1.0, 1.0)), **how)
        return networks.predict(X)

    together = trained([5, 6])
    np.testing.assert_allclose(together[1], trained([6])[0], rtol=1e-10)
    assert not np.allclose(together[0], together[1])
    np.testing.assert_array_equal(together, trained([5, 6]))


def test_a_step_is_that_of_adam_with_decoupled_decay_of_weights_alone():
    stream = np.random.default_rng(0)
    X, y = stream.normal(size=(20, 3)), stream.uniform(size=(20, 2))
    stepped, by_hand = (Networks(3, [4], 2, [0, 1], dtype=np.float64) for _ in range(2))
    for bias in (*stepped.biases, *by_hand.biases):
        bias += 0.3
    found = by_hand.gradients(X, y, Loss((1.0, 1.0)))
    for k, (parameter, gradient) in enumerate(zip(by_hand.parameters, found, strict=True)):
        if k < 2:
            parameter *= 1.0 - 0.01 * 0.2
        # Means of one step, both put right, are the gradient and its square.
        parameter -= 0.01 * gradient / np.abs(gradient)
    stepped.train(
        X, y, Loss((1.0, 1.0)),
        epochs=1, batch_rows=20, learning_rate=0.01, weight_decay=0.2, seed=0,
    )  # fmt: skip
    for one, other in zip(stepped.parameters, by_hand.parameters, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_networks_learn_what_there_is_to_learn():
    stream = np.random.default_rng(0)
    X = stream.normal(size=(300, 2))
    y = 1.0 / (1.0 + np.exp(-np.column_stack([X[:, 0] * X[:, 1], X[:, 0]])))
    networks = Networks(2, [16, 8], 2, seeds=[0])
    before = Loss((1.0, 1.0)).value(networks.predict(X)[0], y)
    networks.train(
        X, y, Loss((1.0, 1.0)),
        epochs=150, batch_rows=64, learning_rate=0.02, weight_decay=0.0, seed=0,
    )  # fmt: skip
    assert Loss((1.0, 1.0)).value(networks.predict(X)[0], y) < 0.02 * before


def test_weights_and_balance_do_what_they_say():
    predicted, y = np.array([[0.2, 0.5, 0.1]]), np.array([[0.4, 0.4, 0.1]])
    assert Loss((1.0, 1.0, 1.0)).value(predicted, y) == pytest.approx((0.04 + 0.01) / 3)
    assert Loss((2.0, 1.0, 1.0)).value(predicted, y) == pytest.approx((0.08 + 0.01) / 4)
    more = Loss((1.0, 1.0, 1.0), balance=0.5).value(predicted, y)
    assert more == pytest.approx(0.05 / 3 + 0.5 * 0.2**2)

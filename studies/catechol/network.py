"""Small neural networks in numpy, several trained at once.

A network of 1,000 weights on 1,000 rows needs no framework, and the one usually taken weighs
gigabytes. Networks that differ in nothing but their first weights are one batch here: every matrix
product is of all of them. Adam with decoupled weight decay: Kingma & Ba, arXiv:1412.6980;
Loshchilov & Hutter, arXiv:1711.05101.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Loss:
    """What a network is trained to make small, of yields between 0 and 1.

        mean over rows of  sum_t w_t (p_t - y_t)^2 / sum_t w_t  +  balance (sum_t p_t - 1)^2

    Attributes
    ----------
    weights
        w_t, one per target.
    balance
        The weight of the mass balance: 0 leaves it out. The measured yields do not add up to 1, so
        it pulls predictions away from them.
    """

    weights: tuple[float, ...]
    balance: float = 0.0

    def value(self, predicted: Floats, y: Floats) -> float:
        """Return the loss of predictions of shape (..., n_rows, n_targets)."""
        return float(
            np.mean(((predicted - y) ** 2) @ self._shares(predicted.dtype))
            + self.balance * np.mean((predicted.sum(axis=-1) - 1.0) ** 2)
        )

    def gradient(self, predicted: Floats, y: Floats) -> Floats:
        """Return the derivative of the mean over rows of each network's loss, by prediction."""
        slope = 2.0 * (predicted - y) * self._shares(predicted.dtype)
        if self.balance:
            slope += 2.0 * self.balance * (predicted.sum(axis=-1, keepdims=True) - 1.0)
        return np.asarray(slope / predicted.shape[-2], dtype=predicted.dtype)

    def _shares(self, dtype: np.dtype[np.floating]) -> Floats:
        weights = np.asarray(self.weights, dtype=dtype)
        return np.asarray(weights / weights.sum())


class Networks:
    """A batch of networks of the same shape: tanh in between, a logistic function at the end.

    Parameters
    ----------
    n_inputs, hidden, n_outputs
        Their shape; hidden layers from the first to the last.
    seeds
        One per network: its first weights are drawn from it alone, after Glorot & Bengio, PMLR 9,
        249 (2010).
    dtype
        Of all numbers.
    """

    def __init__(
        self,
        n_inputs: int,
        hidden: Sequence[int],
        n_outputs: int,
        seeds: Sequence[int],
        dtype: type[np.floating] = np.float32,
    ) -> None:
        sizes = [n_inputs, *hidden, n_outputs]
        drawn = [_draw(sizes, seed) for seed in seeds]
        self.weights = [
            np.stack([layers[k] for layers in drawn]).astype(dtype) for k in range(len(sizes) - 1)
        ]
        self.biases = [np.zeros((len(seeds), 1, size), dtype=dtype) for size in sizes[1:]]
        self.dtype = dtype

    @property
    def parameters(self) -> list[Floats]:
        """Every weight and bias, as arrays of shape (n_networks, ...)."""
        return [*self.weights, *self.biases]

    def predict(self, X: Floats) -> Floats:
        """Return predictions of shape (n_networks, n_rows, n_targets) for X (n_rows, n_inputs)."""
        return self._forward(X.astype(self.dtype))[-1]

    def gradients(self, X: Floats, y: Floats, loss: Loss) -> list[Floats]:
        """Return the derivative of each network's loss by `parameters`."""
        layers = self._forward(X)
        out = layers[-1]
        slope = loss.gradient(out, y) * out * (1.0 - out)
        ones = np.ones((1, len(X)), dtype=self.dtype)
        by_weight: list[Floats] = []
        by_bias: list[Floats] = []
        for k in range(len(self.weights) - 1, -1, -1):
            by_weight.append(np.matmul(np.swapaxes(layers[k], -1, -2), slope))
            # Not by `sum`, which takes half a step over rows of a few numbers.
            by_bias.append(np.matmul(ones, slope))
            if k:
                slope = np.matmul(slope, np.swapaxes(self.weights[k], -1, -2))
                slope *= 1.0 - layers[k] ** 2
        return [*by_weight[::-1], *by_bias[::-1]]

    def train(
        self,
        X: Floats,
        y: Floats,
        loss: Loss,
        *,
        epochs: int,
        batch_rows: int,
        learning_rate: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        """Train on rows X (n_rows, n_inputs) and y (n_rows, n_targets).

        The learning rate falls to 0 along half a cosine. Batches are drawn from `seed`, the same
        for all networks.
        """
        X, y = X.astype(self.dtype), y.astype(self.dtype)
        batches = max(1, round(len(X) / batch_rows))
        order = np.random.default_rng(seed)
        parameters = self._flatten()
        weights = parameters[: sum(weight.size for weight in self.weights)]
        mean, square = np.zeros_like(parameters), np.zeros_like(parameters)
        step = 0
        for _ in range(epochs):
            for rows in np.array_split(order.permutation(len(X)), batches):
                done = step / (epochs * batches)
                step += 1
                rate = 0.5 * learning_rate * (1.0 + math.cos(math.pi * done))
                scale = rate * math.sqrt(1.0 - BETA_2**step) / (1.0 - BETA_1**step)
                found = self.gradients(X[rows], y[rows], loss)
                gradient = np.concatenate([one.ravel() for one in found])
                mean += (1.0 - BETA_1) * (gradient - mean)
                square += (1.0 - BETA_2) * (gradient * gradient - square)
                weights -= rate * weight_decay * weights
                parameters -= scale * mean / (np.sqrt(square) + EPSILON)

    def _flatten(self) -> Floats:
        """Return all parameters in one array, of which weights and biases are parts from now on."""
        flat = np.concatenate([one.ravel() for one in self.parameters])
        ends = np.cumsum([one.size for one in self.parameters])
        parts = [
            part.reshape(one.shape)
            for part, one in zip(np.split(flat, ends[:-1]), self.parameters, strict=True)
        ]
        n_layers = len(self.weights)
        self.weights, self.biases = parts[:n_layers], parts[n_layers:]
        return flat

    def _forward(self, X: Floats) -> list[Floats]:
        """Return what goes into each layer, and what comes out of the last."""
        layers = [X]
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            into = np.matmul(layers[-1], weight) + bias
            last = k == len(self.weights) - 1
            layers.append(_logistic(into) if last else np.tanh(into))
        return layers


def _draw(sizes: Sequence[int], seed: int) -> list[Floats]:
    stream = np.random.default_rng(seed)
    return [
        stream.uniform(-1.0, 1.0, (into, out)) * math.sqrt(6.0 / (into + out))
        for into, out in itertools.pairwise(sizes)
    ]


def _logistic(x: Floats) -> Floats:
    # Through tanh, which overflows nowhere.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))

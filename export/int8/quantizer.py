"""What calibration finds out about a graph's linear layers: the part that all forms of INT8 share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from paritas.export.graph.weights_file import read_tensor
from paritas.export.int8.calibration import Activations, Calibration
from paritas.export.int8.input_quantization import InputQuantization
from paritas.export.int8.linear import Linear, linear_layers
from paritas.export.int8.weight_rounding import blocks, column_scales, outliers, round_weights


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer's integers."""

    weights: NDArray[np.int8]
    """(inputs, outputs); static inputs may have more rows, see `InputQuantization`."""
    scales: NDArray[np.float32]
    bias: NDArray[np.float32]
    outlier_places: NDArray[np.int32]
    """(outliers, 2): the inputs and outputs of weights that are more than their integers say."""
    outlier_weights: NDArray[np.float32]
    """What they are more, (outliers,)."""

    def dequantized(self) -> NDArray[np.float32]:
        """Return the weights as they are multiplied, float32, (inputs, outputs)."""
        exact = self.weights.astype(np.float32) * self.scales
        exact[tuple(self.outlier_places.T)] += self.outlier_weights
        return exact


class Quantizer:
    """Rounds the linear layers of one graph whose inputs are left to whatever multiplies them.

    `StaticQuantizer` rounds inputs too.
    """

    def __init__(self, model: onnx.ModelProto, directory: Path, calibration: Calibration) -> None:
        """Load the graph so that the inputs of its linear layers can be looked at.

        Args:
            model: FP32, its weights file in the directory.
            directory: the bundle's.
            calibration: the texts.

        Raises:
            ExportError: no linear layer, or a graph quantised already.
        """
        self.model, self.directory, self.calibration = model, directory, calibration
        self.layers = linear_layers(model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sources = list(dict.fromkeys(layer.source for layer in self.layers))
        self.activations = Activations(model, directory, self.sources)
        self.matrices: dict[str, Matrix] = {}
        """By layer."""
        self.quantizations: dict[str, InputQuantization] = {}
        """By source, how it is quantised; none where that is left to the operator."""

    def calibrate(self) -> None:
        """Round the weights, by what the inputs are like.

        Raises:
            ExportError: activations that are not finite.
        """
        moments, means = self._moments()
        for name in self.sources:
            self._round(name, moments.pop(name), *means[name])

    def as_multiplied(self, source: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a source's values, (tokens, channels), are when they are multiplied by `matrices`."""
        quantization = self.quantizations.get(source)
        return values if quantization is None else quantization.quantize(values)

    def _moments(self) -> tuple[dict[str, list[Any]], dict[str, tuple[Any, Any]]]:
        """Return of each source the second moments of what is multiplied, and the means before and after."""
        moments: dict[str, list[NDArray[np.float32]]] = {}
        sums: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        counts = Counter[str]()  # not the texts' tokens where a layer reads relative positions
        for name, values in self.activations.of(self.calibration.seen):
            rounded = self.as_multiplied(name, values)
            counts[name] += len(values)
            even = rounded if name in self.quantizations else _unit_length(rounded)
            parts = [even[:, rows].T @ even[:, rows] for rows in blocks(even.shape[1])]
            both = (values.sum(axis=0, dtype=np.float64), rounded.sum(axis=0, dtype=np.float64))
            if name not in moments:
                moments[name], sums[name] = parts, both
                continue
            for place, part in enumerate(parts):
                moments[name][place] += part
            sums[name] = (sums[name][0] + both[0], sums[name][1] + both[1])
        means = {
            name: (before / counts[name], after / counts[name]) for name, (before, after) in sums.items()
        }
        return moments, means

    def _round(
        self,
        source: str,
        moments: list[NDArray[np.float32]],
        before: NDArray[np.float64],
        after: NDArray[np.float64],
    ) -> None:
        """Round all matrices that read one source, side by side: they share the moments."""
        layers, quantization = self.readers(source), self.quantizations.get(source)
        exact = [self.constant(layer.weight) for layer in layers]
        joined = np.concatenate(exact, axis=1)
        places = outliers(joined) if quantization is None else np.empty((0, 2), np.int32)
        apart = joined[tuple(places.T)]
        joined[tuple(places.T)] = 0
        if quantization is not None:
            joined = quantization.extend(joined)
        scales = column_scales(joined)
        rounded = round_weights(joined, scales, moments, loudest_first=quantization is None)
        start = 0
        for layer, matrix in zip(layers, exact, strict=True):
            columns = slice(start, start + matrix.shape[1])
            start = columns.stop
            own = (places[:, 1] >= columns.start) & (places[:, 1] < columns.stop)
            exact_bias = (
                np.zeros(matrix.shape[1], np.float32) if layer.bias is None else self.constant(layer.bias)
            )
            new = Matrix(
                np.ascontiguousarray(rounded[:, columns]),
                scales[columns],
                exact_bias,
                places[own] - np.array([0, columns.start], np.int32),
                apart[own],
            )
            dequantized = new.dequantized().astype(np.float64)
            # What rounding shifts on average ...
            bias = exact_bias + before @ matrix - after @ dequantized
            if quantization is not None:  # ... and what the integer product takes for a column's zero.
                bias += quantization.constant(dequantized)
            self.matrices[layer.name] = replace(new, bias=bias.astype(np.float32))

    def readers(self, source: str) -> list[Linear]:
        """Return the layers that read a source."""
        return [layer for layer in self.layers if layer.source == source]

    def most_harmful(self, share: float) -> list[str]:
        """Return the layers furthest from FP32 on the held-out texts, up to a share of all weights."""
        error: dict[str, float] = {}
        size: dict[str, float] = {}
        for name, values in self.activations.of(self.calibration.held_out):
            for layer in self.readers(name):
                weights, matrix = self.constant(layer.weight), self.matrices[layer.name]
                exact = values @ weights
                ours = self.as_multiplied(name, values) @ matrix.dequantized()
                lost = float(np.square((exact - exact.mean(0)) - (ours - ours.mean(0))).sum())
                error[layer.name] = error.get(layer.name, 0) + lost
                size[layer.name] = size.get(layer.name, 0) + float(np.square(exact - exact.mean(0)).sum())
        worst = sorted(self.layers, key=lambda layer: -error[layer.name] / max(size[layer.name], 1e-30))
        weights_of = {layer.name: int(np.prod(self.constants[layer.weight].dims)) for layer in self.layers}
        room = share * sum(weights_of.values())
        chosen = []
        for layer in worst:
            if weights_of[layer.name] <= room:
                room -= weights_of[layer.name]
                chosen.append(layer.name)
        return chosen

    def constant(self, name: str) -> NDArray[np.float32]:
        """Return an initializer of the graph, float32."""
        return np.asarray(read_tensor(self.constants[name], self.directory))


def _unit_length(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return tokens scaled to length 1: a few loud ones then do not decide how weights are rounded for all.

    With that and the loudest channels first, 56 probes of all-mpnet-base-v2 have a cosine of 0.99974 on
    average and 0.9996 at worst. Without both it is 0.99934 and 0.980, with either alone 0.981 and 0.985 at
    worst. all-MiniLM-L6-v2 gains 0.00006 on average.
    """
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6))

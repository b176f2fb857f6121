"""INT8: an FP32 graph's linear layers as integer products, its word embeddings as 8-bit rows.

    x -> QuantizeLinear, constant scale -> MatMulIntegerToFloat(weights, scales, bias) -> x W + b

Calibration runs the FP32 graph twice over its texts. The first pass takes each channel's range, from which
each input's quantisation is chosen (input_quantization.py). The second takes the second moments by which the
weights are rounded (weight_rounding.py). What rounding still shifts on average goes into the bias.

Then the INT8 graph's vectors of texts held out are compared with FP32's. Where they are further off than half
of what the bound allows, the layers that hurt most stay FP32, as long as those are few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paritas.engine.bundle.manifest import Contract, Figures, Quantization
from paritas.export.certificate.certify import compare
from paritas.export.graph.nodes import CONTRIB, add_contrib, cast_node, copy_model, names_read, set_nodes
from paritas.export.graph.passes.quantize_before_moving import quantize_before_moving
from paritas.export.graph.passes.transpose_in_products import transpose_in_products
from paritas.export.graph.weights_file import WeightsFile, is_large, read_tensor, replace_initializers
from paritas.export.int8.calibration import Activations, Calibration, vectors
from paritas.export.int8.input_quantization import (
    ChannelStatistics,
    InputQuantization,
    choose_input_quantization,
)
from paritas.export.int8.linear import Linear, attention_values, linear_layers, rectified_outputs
from paritas.export.int8.weight_rounding import LARGEST, blocks, column_scales, round_weights
from paritas.registry import Bound

# Share of the linear layers' weights that may stay FP32, and the steps in which it is used up.
FP32_BUDGET = 0.10
_STEPS = 3


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A linear layer's integers."""

    weights: NDArray[np.int8]
    """(inputs + overflow columns, outputs)"""
    scales: NDArray[np.float32]
    bias: NDArray[np.float32]


def quantize(
    model: onnx.ModelProto,
    graph: Path,
    *,
    calibrated: onnx.ModelProto,
    fp32_graph: Path,
    weights: Path,
    calibration: Calibration,
    contract: Contract,
    bound: Bound,
    report: Callable[[str], None] = lambda _step: None,
) -> Quantization:
    """Write the INT8 graph of a model and its weights file; return how it was done.

    Args:
        model: the FP32 graph, its weights file beside `fp32_graph`.
        graph, weights: the files to write, in the same directory.
        calibrated: the graph whose activations are looked at: the model, or one of the same linear layers
            over the same weights that computes more tokens.
        fp32_graph: the FP32 graph's file.
        calibration: the texts.
        contract: how vectors are pooled.
        bound: what a certificate will ask for.
        report: called with a line of text at each step.

    Raises:
        ExportError: no linear layer, a graph quantised already, or activations that are not finite.
    """
    directory = graph.parent
    quantizer = _Quantizer(calibrated, directory, calibration)
    report(f"calibrating: {len(calibration.seen.lengths)} texts, {calibration.seen.lengths.sum()} tokens")
    quantizer.calibrate()
    expected = vectors(fp32_graph, calibration.held_out, contract)
    kept: list[str] = []
    for step in range(_STEPS + 1):
        with WeightsFile(weights) as file:
            graph.write_bytes(_Writer(quantizer, model, file, set(kept)).write().SerializeToString())
        figures = compare(vectors(graph, calibration.held_out, contract), expected)
        if _holds(figures, bound) or step == _STEPS:
            break
        kept = quantizer.most_harmful(FP32_BUDGET * (step + 1) / _STEPS)
        report(f"held-out cosine {figures.mean_cosine:.4f}; {len(kept)} layers stay FP32")
    return Quantization(
        calibration=calibration.name,
        calibration_sha256=calibration.sha256,
        texts=len(calibration.seen.lengths),
        tokens=int(calibration.seen.lengths.sum()),
        truncated=calibration.truncated,
        held_out=figures,
        layers=len(quantizer.layers),
        kept_fp32=kept,
        fp32_budget=FP32_BUDGET,
        overflow_columns=sum(quantization.columns for quantization in quantizer.quantizations.values()),
    )


def _holds(figures: Figures, bound: Bound) -> bool:
    """Say whether at most half of what the bound allows is lost: other texts than these come later."""
    wanted = ((figures.mean_cosine, bound.mean_cosine), (figures.min_cosine, bound.min_cosine))
    return all(least is None or 1 - found <= (1 - least) / 2 for found, least in wanted)


class _Quantizer:
    def __init__(self, model: onnx.ModelProto, directory: Path, calibration: Calibration) -> None:
        self.model, self.directory, self.calibration = model, directory, calibration
        self.layers = linear_layers(model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sources = list(dict.fromkeys(layer.source for layer in self.layers))
        self.rectified = rectified_outputs(model, self.layers)
        self.values = attention_values(model, self.layers)
        self.activations = Activations(model, directory, self.sources)
        self.quantizations: dict[str, InputQuantization] = {}
        self.matrices: dict[str, _Matrix] = {}

    def calibrate(self) -> None:
        """Choose how inputs are quantised, then round the weights."""
        seen: dict[str, ChannelStatistics] = {}
        for name, values in self.activations.of(self.calibration.seen):
            statistics = ChannelStatistics.of(values)
            seen[name] = seen[name].joined(statistics) if name in seen else statistics
        for name in self.sources:
            weights = np.concatenate([self.constant(layer.weight) for layer in self.readers(name)], axis=1)
            self.quantizations[name] = choose_input_quantization(
                seen[name], weights, rectified=name in self.rectified
            )
        moments, shifts = self._moments()
        for name in self.sources:
            self._round(name, moments.pop(name), *shifts[name])

    def _moments(self) -> tuple[dict[str, list[Any]], dict[str, tuple[Any, Any]]]:
        """Return of each source the second moments of its integers, and the means before and after."""
        moments: dict[str, list[NDArray[np.float32]]] = {}
        sums: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        counts = Counter[str]()  # not the texts' tokens where a layer reads relative positions
        for name, values in self.activations.of(self.calibration.seen):
            rounded = self.quantizations[name].quantize(values)
            counts[name] += len(values)
            parts = [rounded[:, rows].T @ rounded[:, rows] for rows in blocks(rounded.shape[1])]
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
        quantization = self.quantizations[source]
        layers = self.readers(source)
        exact = [self.constant(layer.weight) for layer in layers]
        joined = quantization.extend(np.concatenate(exact, axis=1))
        scales = column_scales(joined)
        rounded = round_weights(joined, scales, moments)
        start = 0
        for layer, matrix in zip(layers, exact, strict=True):
            columns = slice(start, start + matrix.shape[1])
            start = columns.stop
            step = scales[columns]
            dequantized = rounded[:, columns].astype(np.float64) * step
            bias = np.zeros(len(step)) if layer.bias is None else self.constant(layer.bias).astype(np.float64)
            # What rounding shifts on average ...
            bias = bias + before @ matrix - after @ dequantized
            # ... and what the integer product takes for a column's zero.
            bias += quantization.constant(dequantized)
            self.matrices[layer.name] = _Matrix(
                np.ascontiguousarray(rounded[:, columns]), step, bias.astype(np.float32)
            )

    def readers(self, source: str) -> list[Linear]:
        return [layer for layer in self.layers if layer.source == source]

    def quantization(self, layer: Linear) -> InputQuantization:
        """Return how a layer's input is quantised; the layer may be that of the graph to be written."""
        return self.quantizations[next(own.source for own in self.layers if own.name == layer.name)]

    def most_harmful(self, share: float) -> list[str]:
        """Return the layers furthest from FP32 on the held-out texts, up to a share of all weights."""
        error: dict[str, float] = {}
        size: dict[str, float] = {}
        for name, values in self.activations.of(self.calibration.held_out):
            for layer in self.readers(name):
                weights, matrix = self.constant(layer.weight), self.matrices[layer.name]
                exact = values @ weights
                steps = matrix.weights.astype(np.float32) * matrix.scales
                ours = self.quantizations[name].quantize(values) @ steps
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
        return np.asarray(read_tensor(self.constants[name], self.directory))


class _Writer:
    """Writes one INT8 graph; the layers of some names stay FP32."""

    def __init__(
        self, quantizer: _Quantizer, model: onnx.ModelProto, weights: WeightsFile, kept: set[str]
    ) -> None:
        self.quantizer, self.model, self.weights = quantizer, model, weights
        layers = linear_layers(model)
        self.layers = {layer.name: layer for layer in layers if layer.name not in kept}
        self.exact = {layer.name: layer for layer in layers if layer.name in kept}
        self.after = self._after()
        self.nodes: list[onnx.NodeProto] = []
        self.added: dict[str, onnx.TensorProto] = {}
        self.integers: dict[str, str] = {}
        """By source: the tensor of its integers."""

    def _after(self) -> dict[str, InputQuantization]:
        """Return, by layer, the quantisation further on that its output columns are fitted to.

        The values' columns take the factors of attention's context, and what a rectifier precedes gets more
        columns. For 150 to 495 tokens that saves 1 to 2 % of all-mpnet-base-v2's time, 2 to 5 % of
        all-MiniLM-L6-v2's.
        """
        quantized = {layer.source for layer in self.layers.values()}
        quantizations = {
            source: quantization
            for source, quantization in self.quantizer.quantizations.items()
            if source in quantized
        }
        values, rectified = self.quantizer.values, self.quantizer.rectified
        return {
            **{
                values[source]: quantization
                for source, quantization in quantizations.items()
                if source in values
            },
            **{
                rectified[source]: quantization
                for source, quantization in quantizations.items()
                if quantization.rectified
            },
        }

    def write(self) -> onnx.ModelProto:
        model = copy_model(self.model)
        exact = {name: layer for name, layer in self.exact.items() if name in self.after}
        adders = {layer.adder for layer in [*self.layers.values(), *exact.values()]} - {None}
        for node in model.graph.node:
            if node.name in self.layers:
                self._linear(self.layers[node.name])
            elif node.name in exact:
                self._exact(exact[node.name])
            elif node.op_type == "Gather" and self._is_table(node):
                self._rows(node)
            elif node.name not in adders:
                self.nodes.append(node)
        set_nodes(model, self.nodes)
        transpose_in_products(model)
        quantize_before_moving(model)
        read = {name for node in model.graph.node for name in names_read(node)}
        directory = self.quantizer.directory
        left = [self.weights.moved(t, directory) for t in model.graph.initializer if t.name in read]
        replace_initializers(model, [*left, *self.added.values()])
        del model.graph.value_info[:]
        add_contrib(model)
        return model

    def _linear(self, layer: Linear) -> None:
        matrix, quantization = self.quantizer.matrices[layer.name], self.quantizer.quantization(layer)
        integers = self._integers(layer.source, quantization)
        weights, scales, bias = matrix.weights, matrix.scales, matrix.bias
        if layer.name in self.after:
            places, factors, shifts = self.after[layer.name].for_layer_before()
            weights, scales = weights[:, places], scales[places] * factors
            bias = bias[places] * factors + shifts
        inputs = [
            integers,
            self._constant(f"{layer.name}.int8", np.ascontiguousarray(weights)),
            self._constant(f"{layer.source}.scale", np.asarray(quantization.scale)),
            self._constant(f"{layer.name}.scales", scales),
            self._constant(f"{layer.source}.zero_point", np.asarray(quantization.zero_point, np.uint8)),
            "",  # the weights' zero point is 0; onnxruntime's shift to unsigned ones wants no shared constant
            self._constant(f"{layer.name}.bias", bias),
        ]
        self._add("MatMulIntegerToFloat", inputs, layer.output, domain=CONTRIB)

    def _exact(self, layer: Linear) -> None:
        """Write a layer that stays FP32, its columns fitted to what reads them."""
        places, factors, shifts = self.after[layer.name].for_layer_before()
        weights = self.quantizer.constant(layer.weight)[:, places] * factors
        bias = shifts
        if layer.bias is not None:
            bias = bias + self.quantizer.constant(layer.bias)[places] * factors
        product = self._add(
            "MatMul", [layer.source, self._constant(f"{layer.name}.fitted", weights)], f"{layer.name}.product"
        )
        self._add("Add", [product, self._constant(f"{layer.name}.bias", bias)], layer.output)

    def _integers(self, source: str, quantization: InputQuantization) -> str:
        """Add (once) what makes a source's integers, and return their name."""
        if source in self.integers:
            return self.integers[source]
        scale = self._constant(f"{source}.scale", np.asarray(quantization.scale))
        zero_point = self._constant(f"{source}.zero_point", np.asarray(quantization.zero_point, np.uint8))
        even = source
        if quantization.has_factors and source not in self.quantizer.values:
            factors = self._constant(f"{source}.factors", quantization.factors)
            even = self._add("Mul", [source, factors], f"{source}.even")
        main = self._add("QuantizeLinear", [even, scale, zero_point], f"{source}.main")
        if quantization.columns and not quantization.rectified:
            # GatherElements, with the channels repeated for every token: 44 us at 512 tokens of 768 channels,
            # where Gather along the last axis takes 284.
            channels = self._constant(f"{source}.channels", quantization.channels)
            shifts = self._constant(f"{source}.shifts", quantization.shifts)
            columns = self._constant(f"{source}.columns", np.array([quantization.columns], np.int64))
            tokens = self._add("Shape", [source], f"{source}.tokens", end=-1)
            shape = self._add("Concat", [tokens, columns], f"{source}.shape", axis=0)
            places = self._add("Expand", [channels, shape], f"{source}.places")
            over = self._add("GatherElements", [even, places], f"{source}.overflowing", axis=-1)
            over = self._add("Add", [over, shifts], f"{source}.shifted")
            over = self._add("QuantizeLinear", [over, scale, zero_point], f"{source}.overflow")
            main = self._add("Concat", [main, over], f"{source}.uint8", axis=-1)
        self.integers[source] = main
        return main

    def _is_table(self, node: onnx.NodeProto) -> bool:
        tensor = self.quantizer.constants.get(node.input[0])
        by_row = all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return False
        return by_row and len(tensor.dims) == 2 and is_large(tensor.dims)

    def _rows(self, node: onnx.NodeProto) -> None:
        """Look rows up in 8 bits, each with a scale of its own."""
        table, rows, output = node.input[0], node.input[1], node.output[0]
        exact = self.quantizer.constant(table)
        largest = np.abs(exact).max(axis=1, keepdims=True)
        scales = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
        self._constant(f"{table}.int8", np.rint(exact / scales).astype(np.int8))
        # To whole cache lines, for what follows them in an optimized graph; see engine/runtime/session.py.
        self._constant(f"{table}.scales", np.pad(scales, ((0, -len(scales) % 16), (0, 0))))
        integers = self._add("Gather", [f"{table}.int8", rows], f"{output}.int8")
        self.nodes.append(cast_node(integers, f"{output}.steps", TensorProto.FLOAT))
        scale = self._add("Gather", [f"{table}.scales", rows], f"{output}.scale")
        self._add("Mul", [f"{output}.steps", scale], output)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self.added:
            self.added[name] = (
                self.weights.tensor(name, value)
                if is_large(value.shape)
                else numpy_helper.from_array(value, name)
            )
        return name

    def _add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

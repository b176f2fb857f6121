"""INT8: an FP32 graph's linear layers over 8-bit weights, its word embeddings in 8 bits.

Calibration runs the FP32 graph over its texts and takes the second moments by which the weights are rounded
(weight_rounding.py). What rounding still shifts on average goes into the bias. What multiplies the weights
comes in two forms:

- dynamic: paritas's own operators, which choose steps anew for each token (graph/operators.py).
- static: onnxruntime's integer products, over inputs in constant steps that calibration chose (static.py).

Then the INT8 graph's vectors of texts held out are compared with FP32's. Where they are further off than half
of what the bound allows, the layers that hurt most stay FP32, as long as those are few.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from paritas.engine.bundle.manifest import Contract, Figures, InputSteps, Quantization
from paritas.export.certificate.certify import compare
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.int8.calibration import Calibration, vectors
from paritas.export.int8.quantizer import Quantizer
from paritas.export.int8.static import StaticQuantizer, StaticWriter
from paritas.export.int8.writer import Writer
from paritas.registry import Bound

# Share of the linear layers' weights that may stay FP32, and the steps in which it is used up.
FP32_BUDGET = 0.10
_STEPS = 3

_FORMS: dict[InputSteps, tuple[type[Quantizer], type[Writer]]] = {
    "static": (StaticQuantizer, StaticWriter),
    "dynamic": (Quantizer, Writer),
}


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
    inputs: InputSteps = "dynamic",
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
        inputs: when the steps of the layers' inputs are chosen.
        report: called with a line of text at each step.

    Raises:
        ExportError: no linear layer, a graph quantised already, or activations that are not finite.
    """
    directory = graph.parent
    form, writer = _FORMS[inputs]
    quantizer = form(calibrated, directory, calibration)
    report(f"calibrating: {len(calibration.seen.lengths)} texts, {calibration.seen.lengths.sum()} tokens")
    quantizer.calibrate()
    expected = vectors(fp32_graph, calibration.held_out, contract)
    kept: list[str] = []
    for step in range(_STEPS + 1):
        with WeightsFile(weights) as file:
            graph.write_bytes(writer(quantizer, model, file, set(kept)).write().SerializeToString())
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
        overflow_columns=sum(one.columns for one in quantizer.quantizations.values()),
        inputs=inputs,
    )


def _holds(figures: Figures, bound: Bound) -> bool:
    """Say whether at most half of what the bound allows is lost: other texts than these come later."""
    wanted = ((figures.mean_cosine, bound.mean_cosine), (figures.min_cosine, bound.min_cosine))
    return all(least is None or 1 - found <= (1 - least) / 2 for found, least in wanted)

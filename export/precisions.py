"""The graphs of each precision, and what their files are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx

from paritas.engine.bundle.manifest import Contract, InputSteps, Quantization, Variant
from paritas.export.checkpoint.facts import Facts
from paritas.export.contract import Frontend
from paritas.export.fp16.half import half_compute, half_weights
from paritas.export.fp16.simulate import simulate_fp16
from paritas.export.graph.optimum import export_optimum
from paritas.export.graph.passes.attention import fuse_attention
from paritas.export.graph.passes.own_operators import fuse_own_operators
from paritas.export.graph.passes.unpadded import without_mask
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.int8.calibration import Calibration
from paritas.export.int8.quantize import quantize
from paritas.export.networks.graph import export_native
from paritas.registry import Bound, Precision


class _Files(NamedTuple):
    graph: str
    cpu_graph: str
    weights: str


_FILES: dict[Precision, _Files] = {
    "fp32": _Files("model.fp32.onnx", "model.fp32.onnx", "model.fp32.onnx.data"),
    "fp16": _Files("model.fp16.onnx", "model.fp16.cpu.onnx", "model.fp16.onnx.data"),
    "int8": _Files("model.int8.onnx", "model.int8.onnx", "model.int8.onnx.data"),
}
_UNPADDED = "model.{precision}.equal_length.onnx"
SIMULATED = "model.fp16.rounded.onnx"
"""What stands in for an accelerator while FP16 is certified. It does not stay in the bundle."""


class GraphWriter:
    """Writes the graphs and weights of one model's precisions into a directory."""

    def __init__(
        self,
        facts: Facts,
        contract: Contract,
        frontend: Frontend,
        directory: Path,
        report: Callable[[str], None],
    ) -> None:
        """Take what the graphs are made of.

        Args:
            facts: of the checkpoint.
            contract: of the bundle.
            frontend: where the FP32 graph comes from.
            directory: the bundle's.
            report: called with a line of text at each step.
        """
        self._facts, self._contract, self._frontend = facts, contract, frontend
        self._directory, self._report = directory, report

    def write(
        self,
        precisions: Sequence[Precision],
        calibration: Calibration | None,
        int8_bound: Bound,
        int8_inputs: InputSteps,
    ) -> dict[Precision, Variant]:
        """Write all files, and return what the manifest says of them, not certified yet.

        Args:
            precisions: which are asked for.
            calibration: the texts for INT8; None where that is not among them.
            int8_bound: what INT8's certificate will ask for.
            int8_inputs: when the steps of INT8's inputs are chosen.

        Raises:
            ExportError: the network cannot be written, or not in one of the precisions.
        """
        graph, _, weights = _FILES["fp32"]
        with WeightsFile(self._directory / weights) as file:
            model, calibrated = self._fp32(file, calibrated=calibration is not None)
        self._save(model, graph)
        if "fp16" in precisions:
            self._write_fp16(model)
        quantization = None
        if calibration is not None:
            quantization = self._write_int8(model, calibrated, calibration, int8_bound, int8_inputs)
        if "fp32" not in precisions:
            (self._directory / graph).unlink()
            (self._directory / weights).unlink()
        return {
            precision: Variant(
                _FILES[precision].graph,
                _FILES[precision].cpu_graph,
                [_FILES[precision].weights],
                certificate=None,
                unpadded_graph=self._write_unpadded(precision),
                quantization=quantization if precision == "int8" else None,
            )
            for precision in precisions
        }

    def _fp32(self, weights: WeightsFile, *, calibrated: bool) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """Return the FP32 graph, and the one that calibration looks at; both over the same weights."""
        directory = self._facts.directory
        if self._frontend == "optimum":
            model = export_optimum(directory, weights)
            return model, model
        # Where a prompt is not pooled, the first token that is comes after it.
        first_only = self._contract.pooling == "cls" and self._contract.pool_prompt
        model = export_native(directory, weights, first_only=first_only)
        if not first_only or not calibrated:
            return model, model
        # Calibration sees every token's last layer: one row a text is too few for ranges, let alone moments.
        # On all-MiniLM-L6-v2, pooled by CLS, the worst of 600 SciFact claims then stood at a cosine of 0.987,
        # with all tokens at 0.9987.
        return model, export_native(directory, weights)

    def _write_fp16(self, model: onnx.ModelProto) -> None:
        graph, cpu_graph, weights = _FILES["fp16"]
        with WeightsFile(self._directory / weights) as file:
            self._save(half_weights(model, self._directory, file), cpu_graph)
            half = half_compute(model, self._directory, file)
        self._save(half, graph)
        self._save(simulate_fp16(half), SIMULATED)

    def _write_int8(
        self,
        model: onnx.ModelProto,
        calibrated: onnx.ModelProto,
        calibration: Calibration,
        bound: Bound,
        inputs: InputSteps,
    ) -> Quantization:
        graph, _, weights = _FILES["int8"]
        return quantize(
            model,
            self._directory / graph,
            calibrated=calibrated,
            fp32_graph=self._directory / _FILES["fp32"].graph,
            weights=self._directory / weights,
            calibration=calibration,
            contract=self._contract,
            bound=bound,
            inputs=inputs,
            report=self._report,
        )

    def _write_unpadded(self, precision: Precision) -> str:
        """Write a precision's graph for batches of one length; return its name, or the CPU graph's again."""
        cpu_graph = _FILES[precision].cpu_graph
        longest = max(rule.max_length for rule in self._contract.roles.values())
        masked = onnx.load(self._directory / cpu_graph, load_external_data=False)
        model = without_mask(masked, self._directory, longest)
        # Only now: where a mask is added shows in single nodes.
        if fuse_own_operators(masked, longest):
            self._save(masked, cpu_graph)
        if model is None:
            return cpu_graph
        fuse_own_operators(model, longest)
        fuse_attention(model)
        name = _UNPADDED.format(precision=precision)
        self._save(model, name)
        return name

    def _save(self, model: onnx.ModelProto, name: str) -> None:
        (self._directory / name).write_bytes(model.SerializeToString())

"""The optimum front-end: optimum-onnx traces the PyTorch model, for networks not exported natively.

It is also the cross-check of the native graphs: the parity tests run both.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx

from paritas.errors import ExportError, MissingExtraError
from paritas.export.graph.builder import OPSET
from paritas.export.graph.nodes import names_read
from paritas.export.graph.passes.cleanup import drop_unused, read_constants_directly
from paritas.export.graph.weights_file import WeightsFile, externalize
from paritas.export.networks.graph import OUTPUT

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a graph may take, int64, (batch, seq)."""


def export_optimum(directory: Path, weights: WeightsFile) -> onnx.ModelProto:
    """Trace a checkpoint's AutoModel into an FP32 ONNX graph with the one output `last_hidden_state`.

    Its matrices go into the weights file.

    Raises:
        MissingExtraError: the optimum extra is not installed.
        ExportError: optimum-onnx cannot export the network, or it takes other inputs than a tokenizer gives.
    """
    try:
        from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise MissingExtraError(
            "the optimum front-end is not installed; type: pip install 'paritas[optimum]'"
        ) from error
    # In the bundle's workplace, which is cleared where this process is killed.
    with tempfile.TemporaryDirectory(prefix="traced-", dir=weights.path.parent) as scratch:
        try:
            # Tracing prints and warns for its own developers; what matters comes back as the exception.
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), _quiet("optimum"):
                warnings.simplefilter("ignore")
                main_export(
                    str(directory),
                    scratch,
                    task="feature-extraction",
                    opset=OPSET,
                    library_name="transformers",
                    do_validation=False,  # the certificate does that, against a stricter bound
                    no_post_process=True,
                )
        except Exception as error:
            raise ExportError(f"{directory}: optimum-onnx cannot export it: {error}") from error
        model = onnx.load(Path(scratch, "model.onnx"))
    model = _keep_output(model)
    externalize(model, weights)
    return model


def _keep_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop every output but last_hidden_state, and the nodes and weights only they needed."""
    outputs = [output for output in model.graph.output if output.name == OUTPUT]
    if not outputs:
        names = [output.name for output in model.graph.output]
        raise ExportError(f"the traced graph has no output {OUTPUT!r}, only {names}")
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    read_constants_directly(model)
    drop_unused(model)
    _keep_inputs(model)
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"node.{place}"  # the FP16 pass tells nodes apart by name
    return model


def _keep_inputs(model: onnx.ModelProto) -> None:
    """Drop the inputs that nothing reads, and refuse a network that takes more than a tokenizer gives."""
    read = {name for node in model.graph.node for name in names_read(node)}
    inputs = [value for value in model.graph.input if value.name in read]
    others = [value.name for value in inputs if value.name not in INPUTS]
    if others:
        raise ExportError(
            f"the network takes {', '.join(others)}, and texts are encoded from {', '.join(INPUTS)} alone"
        )
    del model.graph.input[:]
    model.graph.input.extend(inputs)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

"""Graphs of one or a few nodes, run by onnxruntime without copies, as kernels run inside an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import paritas.engine.runtime.session  # noqa: F401 - sets what onnxruntime reads while it is imported
from paritas.engine.runtime.cpus import available_cpus, dot_product, instructions
from paritas.engine.runtime.kernels import LIBRARY
from paritas.export.graph.nodes import CONTRIB
from paritas.export.graph.operators import DOMAIN, add_operators


class TinyGraph:
    """A graph over fixed inputs; calling it runs it."""

    def __init__(
        self,
        nodes: Sequence[Any],
        inputs: Mapping[str, NDArray[Any]],
        constants: Mapping[str, NDArray[Any]],
        *,
        optimized: bool = True,
        threads: int | None = None,
    ) -> None:
        """Load a graph whose output, float32, is called "y".

        Args:
            nodes: ONNX nodes, in an order in which they can run; paritas's own run in its library.
            inputs: what it is run on, by name.
            constants: what onnxruntime may prepare while loading, as it does with weights.
            optimized: whether onnxruntime may rewrite the graph; not where its fusions are the question.
            threads: how many run it; all CPUs' where None.
        """
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            nodes,
            "tiny",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in inputs.items()
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        if any(each.domain == DOMAIN for each in nodes):
            add_operators(model)
            options.register_custom_ops_library(str(LIBRARY))
        options.log_severity_level = 3
        # As the engine has it: what ran before must not go on waiting actively while the next one is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Likewise: byte products are exact where the CPU's own saturate.
        if dot_product(instructions()) is None:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self._binding = self._session.io_binding()
        for name, value in inputs.items():
            self._binding.bind_cpu_input(name, value)
        self._binding.bind_output("y", "cpu")

    def __call__(self) -> None:
        """Run once."""
        self._session.run_with_iobinding(self._binding)

    def output(self) -> NDArray[np.float32]:
        """Run once and return a copy of the output, float32."""
        self()
        return np.array(self._binding.copy_outputs_to_cpu()[0])


def node(op_type: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    """Return a node of ONNX's operators; `inputs` are names with spaces between, "_" one that is left out."""
    from onnx import helper

    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op_type, names, [output], **attributes)


def contrib(op_type: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    """Return a node of onnxruntime's own operators; see `node`."""
    return node(op_type, inputs, output, domain=CONTRIB, **attributes)

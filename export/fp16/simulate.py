"""What an accelerator computes with an FP16 graph, on a machine that has none.

onnxruntime's CPU provider accepts FP16 graphs and computes them in FP32 without rounding what lies between:
a product of 300,000 stays 300,000, where FP16 ends at 65,504. A certificate made that way would say nothing
of overflow or rounding. Here every FP16 result is computed in FP32 and then rounded, which is how matrix
units work: FP16 factors, FP32 sums, FP16 results.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from paritas.export.graph.nodes import cast_node, copy_model, rename_inputs, set_nodes
from paritas.export.graph.view import tensors_of_type


def simulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an FP32 graph that rounds to FP16 whatever the given one computes in FP16.

    It reads the same weights file, so it belongs beside the graph it was made from.
    """
    result = copy_model(model)
    half = tensors_of_type(result, TensorProto.FLOAT16)
    wide = {name: f"{name}.wide" for name in half}
    constants = [tensor.name for tensor in result.graph.initializer if tensor.name in half]
    nodes = [cast_node(name, wide[name], TensorProto.FLOAT) for name in constants]
    for node in result.graph.node:
        rename_inputs(node, wide)
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name not in half:
                continue
            if node.op_type != "Cast":  # which rounds by itself
                node.output[position] = f"{name}.full"
                nodes.append(cast_node(f"{name}.full", name, TensorProto.FLOAT16))
            nodes.append(cast_node(name, wide[name], TensorProto.FLOAT))
    set_nodes(result, nodes)
    del result.graph.value_info[:]
    return result

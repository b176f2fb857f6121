"""One view of a graph for all passes: who makes a tensor, who reads it, and what is constant."""

from __future__ import annotations

from collections import Counter, defaultdict

import onnx

from paritas.export.graph.nodes import names_read

# onnx-ir 1.1 has such a view too, and was weighed. It asks for sympy, takes 0.66 s to import beside onnx's
# 0.27, and writes all-MiniLM-L6-v2's graph back with other bytes. The passes need no more than what stands
# here.


class GraphView:
    """Producers, consumers and constants of a model's tensors, as they are when the view is made."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.producers = {name: node for node in model.graph.node for name in node.output}
        """The node that makes a tensor, by the tensor's name."""
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        """The nodes that read a tensor, or hold a body that does, once for each time."""
        self.inputs = {value.name for value in model.graph.input}
        # An initializer that is an input too is a default, and no constant.
        self.constants = {
            tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in self.inputs
        }
        self.outputs = Counter(output.name for output in model.graph.output)
        for node in model.graph.node:
            for name in names_read(node):
                self.consumers[name].append(node)

    def reads(self, name: str) -> int:
        """Return how often a tensor is read, by nodes or as the graph's output."""
        return len(self.consumers[name]) + self.outputs[name]

    def up(self, name: str, *op_types: str) -> list[onnx.NodeProto]:
        """Return the nodes of these types that made a tensor, the last one first; none where they did not."""
        path = []
        for op_type in op_types:
            node = self.producers.get(name)
            if node is None or node.op_type != op_type:
                return []
            path.append(node)
            name = node.input[0]
        return path

    def down(self, name: str, *op_types: str) -> list[onnx.NodeProto]:
        """Return the nodes of these types that read a tensor first, each as its only reader; or none."""
        path = []
        for op_type in op_types:
            consumers = self.consumers[name]
            if self.outputs[name] or [(node.op_type, list(node.input[:1])) for node in consumers] != [
                (op_type, [name])
            ]:
                return []
            path += consumers
            name = path[-1].output[0]
        return path


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many axes tensors have, by name, where shape inference finds that out."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def tensors_of_type(model: onnx.ModelProto, element: int) -> set[str]:
    """Return the names of all tensors of one type (`TensorProto.FLOAT`, ...), found by shape inference."""
    # Inference knows the types though the large initializers hold no data.
    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    names = {value.name for value in values if value.type.tensor_type.elem_type == element}
    return names | {tensor.name for tensor in model.graph.initializer if tensor.data_type == element}

"""The native front-end: a checkpoint's weights written straight into an FP32 ONNX graph.

Against a traced export the graph has no Shape/Gather clutter, one matrix a linear layer stored the way
the GEMM reads it, and the attention scale folded into the query weights. For CLS pooling the last layer
computes one token.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from paritas import __version__
from paritas.export.graph.builder import GraphBuilder, hidden_output, ids_input
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.networks.record import Network
from paritas.export.networks.weights import Parameters, open_network

OUTPUT = "last_hidden_state"

# Orders of axes: from a projection's heads side by side to (B, H, S, E), to (B, H, E, S), and back from the
# former. The first two of `_TOKENS_FIRST` are what onnxruntime's FusedMatMul does by itself, as transBatch.
_TEXTS_FIRST = [0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]
_TOKENS_FIRST = [1, 2, 0, 3], [1, 2, 3, 0], [2, 0, 1, 3]


def export_native(directory: Path, weights: WeightsFile, *, first_only: bool = False) -> onnx.ModelProto:
    """Write the FP32 graph of a checkpoint of a known network, its matrices into the weights file.

    Tensor by tensor: a BERT-base is never in memory whole.

    Inputs `input_ids`, `attention_mask` and, where the network tells token types apart, `token_type_ids`:
    int64, (batch_size, sequence_length). Output `last_hidden_state`: float32, (batch_size, sequence_length,
    dim). With `first_only` it is (batch_size, 1, dim): the first token's, all that CLS pooling reads.

    Raises:
        SourceError: the checkpoint cannot be read, or its weights do not fit its configuration.
        ExportError: the network, or an option of it, is not exported natively.
    """
    network, parameters = open_network(directory)
    writer = _Writer(network, parameters, weights)
    writer.write(first_only=first_only)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if network.token_types else [])]
    return writer.graph.model(
        inputs=[ids_input(name) for name in names],
        outputs=[hidden_output(OUTPUT, 1 if first_only else "sequence_length", network.dim)],
        name=network.model_type,
        producer_version=__version__,
    )


class _Writer:
    """Writes one network's graph, top to bottom.

    Shapes in comments: B texts, S tokens a text, D the width, H heads of E = D / H. Between embeddings and
    output tokens lie as (B, S, D), or where `Architecture.tokens_first` says so as (S, B, D).
    """

    def __init__(self, network: Network, parameters: Parameters, weights: WeightsFile) -> None:
        self.graph = GraphBuilder(weights)
        self.network = network
        self.parameters = parameters
        self.tokens_first = network.architecture.tokens_first

    def write(self, *, first_only: bool) -> None:
        hidden = self.embeddings()
        bias = self.attention_bias()
        last = self.network.layers - 1
        for index in range(last):
            hidden = self.layer(f"layer.{index}", hidden, hidden, bias, f"layer.{index}.hidden")
        queries = hidden
        if first_only:
            # Keys and values of all tokens, the rest of the layer for one: a BERT-base is 1.07 to 1.09 times
            # as fast, in INT8 and in FP32, for batches of 430 to 510 tokens; for one text of 12 no faster.
            queries = self.first(hidden, 0 if self.tokens_first else 1, "first.hidden")
            if self.network.position_bias is not None:  # the mask's is the same for every query
                bias = self.first(bias, -2, "first.attention_bias")
        if self.tokens_first:
            hidden = self.layer(f"layer.{last}", queries, hidden, bias, f"layer.{last}.hidden")
            self.graph.add("Transpose", hidden, output=OUTPUT, perm=[1, 0, 2])
        else:
            self.layer(f"layer.{last}", queries, hidden, bias, OUTPUT)

    def first(self, value: str, axis: int, output: str) -> str:
        """The first token's part of a tensor: that axis is then 1."""
        graph = self.graph
        return graph.add("Slice", value, graph.ints(0), graph.ints(1), graph.ints(axis), output=output)

    def embeddings(self) -> str:
        add = self.graph.add
        ids = "input_ids"
        if self.tokens_first:
            ids = add("Transpose", ids, output="embeddings.ids", perm=[1, 0])
        total = add("Gather", self.weight("word_embeddings"), ids, output="embeddings.words")
        if self.network.token_types:
            total = add("Add", total, self.token_types(), output="embeddings.words_types")
        table = self.weight("position_embeddings")
        positions = self.network.positions.write(self.graph, table, ids, 0 if self.tokens_first else 1)
        total = add("Add", total, positions, output="embeddings.sum")
        return self.norm("embeddings_norm", total, "embeddings.hidden")

    def token_types(self) -> str:
        table, types = self.weight("token_type_embeddings"), "token_type_ids"
        if self.tokens_first:
            types = self.graph.add("Transpose", types, output="embeddings.type_ids", perm=[1, 0])
        return self.graph.add("Gather", table, types, output="embeddings.types")

    def attention_bias(self) -> str:
        """What is added to every layer's scores: (B, 1, 1, S), or with a bias by position (B, H, S, S)."""
        graph, add, network = self.graph, self.graph.add, self.network
        mask = add("Cast", "attention_mask", output="mask.float", to=TensorProto.FLOAT)
        # 0 for tokens, float32's minimum for padding: exp() makes that an exact 0, and a text without
        # any token stays finite, which -inf would not.
        one = graph.constant("mask.one", np.array(1, dtype=np.float32))
        lowest = graph.constant("mask.lowest", np.array(np.finfo(np.float32).min, dtype=np.float32))
        padding = add("Mul", add("Sub", one, mask, output="mask.padding"), lowest, output="mask.bias")
        mask_bias = add("Unsqueeze", padding, graph.ints(1, 2), output="attention_bias.mask")
        if network.position_bias is None:
            return mask_bias
        by_position = network.position_bias.write(graph, self.parameters["position_bias"], network.max_length)
        return add("Add", by_position, mask_bias, output="attention_bias")

    def layer(self, name: str, queries: str, hidden: str, bias: str, output: str) -> str:
        """One layer's output for the tokens of `queries`, which attend to those of `hidden`."""
        add = self.graph.add
        attended = self.linear(f"{name}.attention_output", self.attention(name, queries, hidden, bias))
        total = add("Add", attended, queries, output=f"{name}.attention_residual")
        hidden = self.norm(f"{name}.attention_norm", total, f"{name}.attention_hidden")
        wide = add("Gelu", self.linear(f"{name}.intermediate", hidden), output=f"{name}.gelu")
        total = add("Add", self.linear(f"{name}.output", wide), hidden, output=f"{name}.residual")
        return self.norm(f"{name}.output_norm", total, output)

    def attention(self, name: str, queries: str, hidden: str, bias: str) -> str:
        """softmax(q k' / sqrt(E) + bias) v, heads side by side, laid out as `queries`."""
        graph, add = self.graph, self.graph.add
        scale = 1.0 / math.sqrt(self.network.head_dim)
        apart, turned, together = _TOKENS_FIRST if self.tokens_first else _TEXTS_FIRST
        query = self.heads(f"{name}.query", queries, apart, scale=scale)
        key = self.heads(f"{name}.key", hidden, turned)
        value = self.heads(f"{name}.value", hidden, apart)
        scores = add("MatMul", query, key, output=f"{name}.scores")
        biased = add("Add", scores, bias, output=f"{name}.biased_scores")
        share = add("Softmax", biased, output=f"{name}.attention", axis=-1)
        context = add("MatMul", share, value, output=f"{name}.head_context")
        rows = add("Transpose", context, output=f"{name}.rows", perm=together)
        return add("Reshape", rows, graph.ints(0, 0, self.network.dim), output=f"{name}.context")

    def heads(self, name: str, hidden: str, perm: list[int], *, scale: float = 1.0) -> str:
        """A projection split into heads: (B, H, S, E) or, turned, (B, H, E, S)."""
        shape = self.graph.ints(0, 0, self.network.heads, self.network.head_dim)
        split = self.graph.add(
            "Reshape", self.linear(name, hidden, scale=scale), shape, output=f"{name}.split"
        )
        return self.graph.add("Transpose", split, output=f"{name}.heads", perm=perm)

    def linear(self, name: str, value: str, *, scale: float = 1.0) -> str:
        """scale * (x W' + b), with W stored transposed, (in, out), as the GEMM reads it."""
        graph = self.graph
        factor = np.float32(scale)
        weight = graph.constant(f"{name}.weight", self.parameters[f"{name}.weight"].T * factor)
        bias = graph.constant(f"{name}.bias", self.parameters[f"{name}.bias"] * factor)
        product = graph.add("MatMul", value, weight, output=f"{name}.product")
        return graph.add("Add", product, bias, output=f"{name}.sum")

    def norm(self, name: str, value: str, output: str) -> str:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        epsilon = self.network.norm_eps
        return self.graph.add(
            "LayerNormalization", value, weight, bias, output=output, axis=-1, epsilon=epsilon
        )

    def weight(self, name: str) -> str:
        return self.graph.constant(name, self.parameters[name])

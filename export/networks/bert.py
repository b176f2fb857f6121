"""BERT (Devlin et al. 2018, arXiv:1810.04805)."""

from __future__ import annotations

from paritas.export.networks.positions import FromZero
from paritas.export.networks.record import Architecture

LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}

BERT = Architecture(
    prefix="bert",
    layer=LAYER,
    positions=lambda _config, _place: FromZero(),
    tokenizer_class="BertTokenizer",
)

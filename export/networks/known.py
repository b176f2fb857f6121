"""The networks that are exported natively, by the model_type of their config.json."""

from __future__ import annotations

from paritas.export.networks.bert import BERT
from paritas.export.networks.mpnet import MPNET
from paritas.export.networks.record import Architecture
from paritas.export.networks.roberta import ROBERTA

ARCHITECTURES: dict[str, Architecture] = {
    "bert": BERT,
    "mpnet": MPNET,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
}

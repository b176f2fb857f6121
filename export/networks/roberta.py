"""RoBERTa (Liu et al. 2019, arXiv:1907.11692), and XLM-R and CamemBERT: BERT's encoder and names of weights.

Positions are counted behind the padding id. The table of token types has one row, as their tokenizers give
none.
"""

from __future__ import annotations

from paritas.errors import SourceError
from paritas.export.networks.bert import LAYER
from paritas.export.networks.positions import AfterPadding
from paritas.export.networks.record import Architecture, Config

# What transformers' configurations say where a config.json is silent.
_PAD_TOKEN_ID = 1


def _positions(config: Config, place: str) -> AfterPadding:
    pad_token_id = config.get("pad_token_id", _PAD_TOKEN_ID)
    if not isinstance(pad_token_id, int) or isinstance(pad_token_id, bool) or pad_token_id < 0:
        raise SourceError(f"{place}: pad_token_id is {pad_token_id!r}; expected a token's id")
    return AfterPadding(pad_token_id)


ROBERTA = Architecture(prefix="roberta", layer=LAYER, positions=_positions)

"""What a tokenizer puts around texts: the special tokens of its post-processor, in one form for all kinds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, processors

Pieces = tuple[tuple[int | str, int], ...]
"""(id, or "A" and "B" for the texts; token type), in order."""


@dataclass(frozen=True, slots=True)
class Template:
    """What surrounds a text by itself and the two of a pair."""

    single: Pieces
    pair: Pieces

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Template | None:
        """Return what a tokenizer puts around texts; None where it does so in a way not known here."""
        stated = tokenizer.post_processor
        return cls.parse(None if stated is None else json.loads(stated.__getstate__()))

    @classmethod
    def parse(cls, stated: Mapping[str, Any] | None) -> Template | None:
        """Read a tokenizer.json's post_processor; None where it is of another kind."""
        kind = (stated or {}).get("type")
        if stated is None:
            return cls((("A", 0),), (("A", 0), ("B", 1)))
        if kind == "TemplateProcessing":
            return cls(_pieces(stated["single"], stated), _pieces(stated["pair"], stated))
        if kind not in ("BertProcessing", "RobertaProcessing"):
            return None
        first, last = stated["cls"][1], stated["sep"][1]
        second = int(kind == "BertProcessing")
        between = () if second else ((last, 0),)
        single = ((first, 0), ("A", 0), (last, 0))
        return cls(single, (*single, *between, ("B", second), (last, second)))

    def processor(self, tokenizer: Tokenizer) -> Any:
        """Return a post-processor of `tokenizers` that does it."""

        def text(pieces: Pieces) -> list[str]:
            names = [
                f"${what}" if isinstance(what, str) else tokenizer.id_to_token(what) for what, _ in pieces
            ]
            return [f"{name}:{kind}" for name, (_, kind) in zip(names, pieces, strict=True)]

        numbers = {what for what, _ in (*self.single, *self.pair) if isinstance(what, int)}
        return processors.TemplateProcessing(
            single=text(self.single),
            pair=text(self.pair),
            special_tokens=[(tokenizer.id_to_token(number), number) for number in sorted(numbers)],
        )

    def without_types(self) -> Template:
        """Return it with type 0 throughout."""
        return Template(
            tuple((what, 0) for what, _ in self.single), tuple((what, 0) for what, _ in self.pair)
        )


def _pieces(stated: Sequence[Mapping[str, Any]], template: Mapping[str, Any]) -> Pieces:
    pieces: list[tuple[int | str, int]] = []
    for piece in stated:
        if "Sequence" in piece:
            pieces.append((piece["Sequence"]["id"], piece["Sequence"]["type_id"]))
            continue
        special = piece["SpecialToken"]
        known = template["special_tokens"].get(special["id"], {"ids": []})
        pieces += [(number, special["type_id"]) for number in known["ids"]]
    return tuple(pieces)

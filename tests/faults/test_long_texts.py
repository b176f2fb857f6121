"""A hundred thousand odd texts, cut before they are tokenised, against the tokens of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.unit.engine.tokenize.odd_tokenizers import KINDS, UNKNOWN
from tests.unit.engine.tokenize.test_long_texts import expect_odd_texts, expect_parts_of_odd_texts, soon

__all__ = ["soon"]

KNOWN = sorted(set(KINDS) - UNKNOWN)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", KNOWN)
def test_odd_texts_have_the_tokens_of_the_whole(kind: str, whole: bool) -> None:
    # 5 lengths, 2 sides, single and in pairs: 18 times as many texts.
    count = 250 if whole else 3
    print(kind, count * 18, "texts, left out of", expect_odd_texts(KINDS[kind](), f"trial {kind}", count))


@pytest.mark.parametrize("kind", KNOWN)
def test_both_parts_have_the_tokens_of_the_whole(kind: str, whole: bool) -> None:
    count = 1000 if whole else 20
    print(
        kind, count, "texts, cut", expect_parts_of_odd_texts(KINDS[kind](), f"trial {kind}", count), "times"
    )


@pytest.mark.usefixtures("soon")
def test_texts_of_a_published_tokenizer(tokenizer_files: dict[str, Path], whole: bool) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_files["minilm"] / "tokenizer.json"))
    count = 1000 if whole else 5
    print("minilm", count * 18, "texts, left out of", expect_odd_texts(tokenizer, "trial", count))

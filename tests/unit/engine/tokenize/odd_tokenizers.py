"""Tokenizers of every kind that may be cut, and some that may not, and texts made to be cut wrongly."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# A word of more characters is unknown as a whole: few, so that texts of the trials are full of them.
LONGEST_WORD = 6
_WORDS = ["the", "ferry", "leave", "foo", "bar", "a", "ab", "##a", "##b", "##y", "##s", "ss", "i", "##i"]


def _finish(tokenizer: Tokenizer, *added: AddedToken) -> Tokenizer:
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(list(added))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    # As from a file: added tokens are normalised by the normaliser there is.
    return Tokenizer.from_str(tokenizer.to_str())


def bert(
    normalizer: normalizers.Normalizer | None = None,
    *added: AddedToken,
    splitter: pre_tokenizers.PreTokenizer | None = None,
) -> Tokenizer:
    """WordPiece as BERT has it, but for what is given."""
    tokens = [*SPECIAL, *string.ascii_lowercase, *string.punctuation, *"北京的é1ßя", *_WORDS]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
    )
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = splitter or pre_tokenizers.BertPreTokenizer()
    return _finish(tokenizer, *added)


def byte_level(
    normalizer: normalizers.Normalizer | None, *added: AddedToken, add_prefix_space: bool = False
) -> Tokenizer:
    """BPE on bytes, with merges across letters, blanks and punctuation."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("Ġ", "Ġ"),
        ("ĠĠ", "Ġ"),
        ("a", "b"),
        ("Ġ", "a"),
        ("Ġ", "f"),
        ("o", "o"),
        ("f", "oo"),
        ("Ġf", "oo"),
    ]
    merges += [
        ("!", "!"),
        ("Ċ", "Ċ"),
        ("Ġ", "Ċ"),
        ("t", "h"),
        ("Ġ", "t"),
        ("Ġt", "h"),
        ("'", "s"),
        ("e", "r"),
    ]
    tokens = [*SPECIAL, *alphabet, *(one + other for one, other in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return _finish(tokenizer, *added)


def unigram(
    normalizer: normalizers.Normalizer | None, splitter: pre_tokenizers.PreTokenizer, *added: AddedToken
) -> Tokenizer:
    """Unigram, whose best way through a word depends on its end."""
    pieces = [(token, 0.0) for token in SPECIAL]
    letters = [*"▁", *string.ascii_letters, *string.punctuation, *"é1"]
    pieces += [(letter, -9.0) for letter in letters]
    words = [
        "▁the",
        "▁f",
        "foo",
        "▁foo",
        "ab",
        "aba",
        "bab",
        "▁a",
        "▁ab",
        "▁▁",
        "ferry",
        "fer",
        "ry",
        "!!",
        "ss",
    ]
    pieces += [(word, -3.0 - len(word) / 3) for word in words]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return _finish(tokenizer, *added)


def _spaces(count: int) -> AddedToken:
    return AddedToken(" " * count, normalized=True)


_N, _P = normalizers, pre_tokenizers
_MASK = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
_COLLAPSED = _N.Replace(Regex(" {2,}"), " ")
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "BERT": bert,
    "BERT, cased": lambda: bert(_N.BertNormalizer(lowercase=False)),
    "BERT, accents kept": lambda: bert(_N.BertNormalizer(strip_accents=False)),
    "BERT, Chinese in words": lambda: bert(_N.BertNormalizer(handle_chinese_chars=False)),
    "BERT, nothing cleaned": lambda: bert(_N.BertNormalizer(clean_text=False)),
    "BERT, lowered first": lambda: bert(_N.Sequence([_N.Lowercase(), _N.BertNormalizer()])),
    "MPNet": lambda: bert(None, _MASK, AddedToken("<s>", normalized=False, special=True)),
    "BERT, a token of punctuation": lambda: bert(None, AddedToken("<<|a|>>", normalized=False)),
    "BERT, tokens with blanks": lambda: bert(
        None, AddedToken("foo bar", normalized=False), AddedToken(" a ", normalized=False, single_word=True)
    ),
    "BERT, a token of letters": lambda: bert(None, AddedToken("aba", normalized=False)),
    "BERT, a token that takes blanks": lambda: bert(
        None, AddedToken("foo", normalized=False, rstrip=True, single_word=True)
    ),
    "BERT, normalised tokens": lambda: bert(None, AddedToken("Foo"), AddedToken("B+a", single_word=True)),
    "BERT, a normalised token with a blank": lambda: bert(None, AddedToken("Foo Bar")),
    "BERT, a Chinese token": lambda: bert(None, AddedToken("北京")),
    "WordPiece at blanks": lambda: bert(_N.NFKC(), splitter=_P.WhitespaceSplit()),
    "WordPiece at words": lambda: bert(
        _N.Sequence([_N.NFD(), _N.StripAccents(), _N.Lowercase()]), splitter=_P.Whitespace()
    ),
    "RoBERTa": lambda: byte_level(None, _MASK),
    "byte-level, a space in front": lambda: byte_level(None, _MASK, add_prefix_space=True),
    "ModernBERT": lambda: byte_level(_N.NFC(), _MASK, *(_spaces(count) for count in range(2, 9))),
    "byte-level, tokens that take blanks": lambda: byte_level(
        None,
        AddedToken("foo", normalized=False, rstrip=True),
        AddedToken("<s>", lstrip=True, rstrip=True, normalized=False),
    ),
    "byte-level, a token that is normalised and takes blanks": lambda: byte_level(
        _N.Lowercase(), AddedToken("Foo", normalized=True, rstrip=True)
    ),
    "byte-level, one space a token": lambda: byte_level(None, _spaces(1)),
    "XLM-R": lambda: unigram(
        _N.Sequence([_N.NFKC(), _N.Strip(left=False, right=True), _N.Replace(Regex(" {2,}"), "▁")]),
        _P.Metaspace(),
        _MASK,
    ),
    "XLM-R, at blanks": lambda: unigram(
        _N.NFKC(), _P.Sequence([_P.WhitespaceSplit(), _P.Metaspace()]), _MASK
    ),
    "DeBERTa": lambda: unigram(_N.Sequence([_N.Strip(), _COLLAPSED]), _P.Metaspace()),
    "DeBERTa, punctuation apart": lambda: unigram(
        _N.Sequence([_N.Strip(), _COLLAPSED]), _P.Sequence([_P.Punctuation("isolated"), _P.Metaspace()])
    ),
    "punctuation apart": lambda: unigram(
        _COLLAPSED, _P.Sequence([_P.Digits(), _P.Punctuation("contiguous"), _P.Metaspace(), _P.Digits(True)])
    ),
    "metaspace at the beginning": lambda: unigram(None, _P.Metaspace(prepend_scheme="first"), _MASK),
    "metaspace at the beginning, stripped": lambda: unigram(_N.Strip(), _P.Metaspace(prepend_scheme="first")),
    "metaspace never": lambda: unigram(_COLLAPSED, _P.Metaspace(prepend_scheme="never")),
    "ALBERT": lambda: unigram(
        _N.Sequence(
            [
                _N.Replace("``", '"'),
                _N.Replace("''", '"'),
                _N.NFKD(),
                _N.StripAccents(),
                _N.Lowercase(),
                _COLLAPSED,
            ]
        ),
        _P.Metaspace(),
    ),
    "one word": lambda: unigram(None, _P.Metaspace(split=False)),
    "a normaliser that joins words": lambda: bert(_N.Replace(Regex("o b"), "ob")),
    "a normaliser that begins texts": lambda: unigram(_N.Prepend("the"), _P.Metaspace()),
    "an expression of its own": lambda: bert(None, splitter=_P.Split(Regex("a b|."), "isolated")),
}
UNKNOWN = {
    "BERT, a normalised token with a blank",
    "BERT, a Chinese token",
    "DeBERTa, punctuation apart",
    "byte-level, a token that is normalised and takes blanks",
    "byte-level, one space a token",
    "metaspace at the beginning, stripped",
    "one word",
    "a normaliser that joins words",
    "a normaliser that begins texts",
    "an expression of its own",
}
"""Those of which the whole text is tokenised."""

PIECES = [
    *["the", "ferry", "leaves", "foo", "bar", "a", "ab", "aba", "Foo Bar", "foo bar", " a ", "B+a", "covid"],
    *[
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "<mask>",
        "<s>",
        "[CL",
        "S]",
        "<<|a|>>",
        "<<|",
        "a|",
        "foobar",
        "xfoo",
        "1",
        "2024",
        "3.14",
    ],
    *[" ", "  ", "   ", " " * 9, "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c"],
    *["\x00", "\x07", "\u200b", "\u00ad", "\ufeff", "\ufffd", "\ue000", "\u2060", "\u200d"],
    *[
        "\u0301",
        "\u0308",
        "\u0327",
        "\u0344",
        "\u034f",
        "\u0338",
        "\ufe0f",
        "\u20dd",
        "e\u0301",
        "n\u0303",
        "é",
        "Å",
    ],
    *["İ", "ẞ", "ß", "Σ", "ς", "ﬃ", "ﷺ", "½", "ǆ", "´", "ª"],
    *["北", "京", "北京", "的", "。", "，", "か", "が", "カ\u3099", "한", "\u1112\u1161\u11ab", "글"],
    *["نص", "\u0600", "\u06dd", "\u0d4e", "हिन्दी", "क", "\u093f", "ไทย", "ำ", "ה", "\u05b0"],
    *[
        "հայ",
        "և",
        "ქარ",
        "বাং",
        "\u09be",
        "தமி",
        "\u0bbf",
        "አማር",
        "ខ្មែរ",
        "ລາວ",
        "ຳ",
        "เ",
        "แก",
        "ᄀ",
        "ﾡ",
        "٣",
        "ﬡ",
    ],
    *[" հ", "է ", "ა ბ", "ক খ", "த த", "አ በ", "ກ ຂ", "เ ก", "ก เ", "ก ำ", "ㅏ ㅏ", "Ǆ ", " ﷲ "],
    *["🚀", "👩‍👩‍👧", "🇫", "🇷", "𝕱", "𐍈", "𠜎", "\U0001f3fb"],
    *[".", ",", "!", "!!", "'", "'s", "``", "''", '"', "-", "_", "▁", "▁▁", "(", "¿", "«", "+", "$", "~"],
    *["y b", "o b", "a b", "s ", " f", ". ", " (", "北 ", " 北", "é ", " é"],
]


def odd_text(random_: random.Random, pieces: int) -> str:
    """Return a text of about so many pieces: some of few kinds, some with runs of one kind."""
    chosen = random_.sample(PIECES, random_.choice((2, 3, 6, len(PIECES))))
    parts: list[str] = []
    while len(parts) < pieces:
        count = random_.choice((1, 1, 1, 2, 5, 40)) if random_.random() < 0.2 else 1
        parts += [random_.choice(chosen)] * count
        if random_.random() < 0.3:
            parts.append(" ")
    return "".join(parts)

"""Texts that every model is held against PyTorch with."""

from __future__ import annotations

import random

ODD = [
    "",
    " ",
    "\n\t  \r\n",
    "a",
    "?",
    "What is quality assurance?",
    "🚀 rockets and 👩‍👩‍👧‍👦 families 🇫🇷",
    "量子计算机可以做什么？它和普通计算机有什么不同。",
    "日本語のテキストと English を混ぜる",
    "متى يغادر القطار القادم؟ لا أعرف.",
    "עברית נכתבת מימין לשמאל",
    "re\u0301sume\u0301 nai\u0308ve a\u030a o\u0308 n\u0303",
    "ﬁne ligatures, full-width ＡＢＣ, ½ and ²",
    "nul\x00 bell\x07 escape\x1b zero\u200bwidth soft\u00adhyphen bom\ufeff",
    "x" * 100_000,
    "word" + "\u00a0" * 30 + "nbsp",
    "a literal [SEP] inside, [CLS] too, [MASK] and [PAD] as well",
    "a literal <s> inside, </s> too, <mask> and <pad> as well",
    "<pad> first",
    "last <pad>",
    "<pad><pad> twice <pad> and again",
    "[PAD] [PAD] twice",
    "def f(x):\n    return {'a': [1, 2.5e-3, x**2]}  # code",
    "UPPER lower CamelCase snake_case kebab-case 3.14 1,000,000 e-mail@example.org",
]

_WORDS = """
    harbour ferry winter timetable island passenger bicycle morning weather crossing letter engine river
    mountain history science village market kitchen garden window electric purple seven quickly beyond
""".split()


def prose(words: int, seed: int = 0) -> str:
    """Return so many words, most of them one token long."""
    generator = random.Random(seed)
    return " ".join(generator.choice(_WORDS) for _ in range(words))


def texts(max_length: int) -> list[str]:
    """Return odd texts, and prose from one word to past `max_length` tokens.

    None is far past it: what is cut off never reaches the graph, and the tests of tokenising cut much more.
    """
    lengths = [1, 2, 5, 13, 14, 15, 16, 17, 29, 30, 31, 33, 61, 62, 63, 125, 126]
    # With the two special tokens: not cut, just not, just so. Each takes as long as twenty of the others.
    around = [max_length - 3, max_length - 2, max_length - 1]
    chosen = sorted({length for length in [*lengths, *around] if length < max_length})
    return ODD + [prose(length, seed) for seed, length in enumerate(chosen)]


def pairs(max_length: int) -> list[tuple[str, str]]:
    """Return pairs: odd on either side, the longer side first or second, both too long."""
    half = max_length // 2
    return [
        ("Quality assurance", "QA is a way of preventing mistakes."),
        ("-", "a text without a title"),
        ("", "an empty title"),
        ("a title without a text", ""),
        ("", ""),
        ("[SEP] in the title", "and [SEP] in the text"),
        (prose(half + 5, 1), prose(half + 5, 2)),
        (prose(max_length + 9, 3), "short"),
        ("short", prose(max_length + 9, 4)),
        (prose(half - 2, 5), prose(max_length, 6)),
        *(("odd text", text) for text in ODD),
        *((text[:200], "odd title") for text in ODD),
    ]

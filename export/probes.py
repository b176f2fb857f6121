"""The texts of a certificate: short to past max_length, and the scripts and oddities that break encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paritas.engine.tokenizer import Text
from paritas.registry import Role

_PROSE = (
    "The ferry leaves at six in the morning and reaches the outer islands shortly before noon, weather "
    "permitting. Passengers with bicycles board first. In winter the crossing is shortened to the two "
    "nearest harbours, and the timetable posted at the quay replaces the printed one. "
)

_SHORT = (
    "",
    "   \t ",
    "a",
    "Why is the sky blue?",
    "price of 1.5 kg of apples in EUR (incl. 7% VAT)?",
    "def add(a, b):\n    return a + b  # sums two numbers",
    "Zażółć gęślą jaźń; crème brûlée; Straße",
    "re\u0301sume\u0301 with combining marks: a\u0308o\u0308u\u0308",
    "北京的天气怎么样",
    "متى يغادر القطار القادم؟",
    "Когда отходит следующий поезд?",
    "🚀🎉 emoji 👩‍👩‍👧 and more 🇫🇷",
    "control\x00chars\x07here\u200bzero\u00adwidth",
    "literal [SEP] and <s> and <pad> and </s> and [MASK] inside",
    "x" * 1000,
)


@dataclass(frozen=True, slots=True)
class Probe:
    """One text and the role it is encoded under."""

    role: str
    text: Text


def probes(roles: Mapping[str, Role], paragraphs: Sequence[str] = ()) -> list[Probe]:
    """Return probes for every role whose rule differs from an earlier one's.

    Args:
        roles: the model's.
        paragraphs: ordinary texts to add. Rounding to 8 bits loses what no oddity shows: which of a thousand
            ordinary texts is nearest.

    Texts of 15 to 17 and 31 to 33 words straddle the widths of SIMD kernels; the longest is cut.
    """
    found = []
    seen: list[Role] = []
    for name, role in roles.items():
        if role in seen:
            continue
        seen.append(role)
        counts = (13, 14, 15, 29, 30, 31, 50, role.max_length // 2)
        texts = [*_SHORT, *paragraphs, *(_words(count) for count in counts)]
        texts.append(_words(role.max_length + 50))
        found += [Probe(name, text) for text in texts]
        if role.pair:
            found += [Probe(name, pair) for pair in _pairs(role.max_length)]
    return found


def _pairs(max_length: int) -> list[tuple[str, str]]:
    """Return pairs: either side empty, odd, or so long that it is the one to be cut, and both."""
    title = "Ferries of the outer islands"
    long = _words(max_length)
    return [
        (title, _words(30)),
        (title, ""),
        ("literal [SEP] in a title", "and literal [SEP] in a text"),
        ("标题", "🚀 текст"),
        (title, long),
        (long, title),
        (long, long),
    ]


def _words(count: int) -> str:
    words = (_PROSE * (count // 40 + 1)).split()
    return " ".join(words[:count])

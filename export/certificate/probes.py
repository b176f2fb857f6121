"""The texts of a certificate: short to past max_length, and the scripts and oddities that break encoders."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from paritas.engine.bundle.manifest import Contract
from paritas.engine.tokenize.tokenizer import Text, check_texts
from paritas.errors import ExportError
from paritas.export.second_reading.reading import SecondReading
from paritas.registry import Role

_PROSE = (
    "The ferry leaves at six in the morning and reaches the outer islands shortly before noon, weather "
    "permitting. Passengers with bicycles board first. In winter the crossing is shortened to the two "
    "nearest harbours, and the timetable posted at the quay replaces the printed one. "
)

_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
# Added tokens that have probes of their own: vocabularies may hold thousands.
_MOST = 256

# For a role that differs from another in its prompt alone.
_FEW = ("", "Why is the sky blue?", "Zażółć gęślą jaźń; crème brûlée; STRASSE", "北京的天气怎么样")

_SHORT = (
    "",
    "   \t ",
    "a",
    "Why is the sky blue?",
    "price of 1.5 kg of apples in EUR (incl. 7% VAT)?",
    "def add(a, b):\n    return a + b  # sums two numbers",
    "Zażółć gęślą jaźń; crème brûlée; Straße",
    "WHY IS THE SKY BLUE? ÄRGER, ÉCLAIR, ΟΔΟΣ, İSTANBUL",
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
    """One text, the role it is encoded under, and its tokens by the second reading of the checkpoint."""

    role: str
    text: Text
    input_ids: list[int] = field(default_factory=list)
    """Prompt and special tokens included; empty in bundles of formats before 4."""
    token_type_ids: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    """Of them, those at the beginning that are not pooled."""


def probes(
    roles: Mapping[str, Role], paragraphs: Sequence[str] = (), tokens: Sequence[str] = ()
) -> list[Probe]:
    """Return probes for every role whose rule differs from an earlier one's.

    A role that differs in its prompt alone has only a few.

    Args:
        roles: the model's.
        paragraphs: ordinary texts to add. Rounding to 8 bits loses what no oddity shows: which of a thousand
            ordinary texts is nearest.
        tokens: what the tokenizer finds in a text as it stands; see `holding`.

    Texts of 15 to 17 and 31 to 33 words straddle the widths of SIMD kernels; the longest is cut.
    """
    found = []
    seen: list[Role] = []
    for name, role in roles.items():
        if role in seen:
            continue
        known = replace(role, prompt="") in [replace(rule, prompt="") for rule in seen]
        seen.append(role)
        if known:
            texts = list(_FEW)
        else:
            counts = (13, 14, 15, 29, 30, 31, 50, role.max_length // 2)
            texts = [*_SHORT, *paragraphs, *holding(tokens, role.max_length), *map(_words, counts)]
        texts.append(_words(role.max_length + 50))
        found += [Probe(name, text) for text in texts]
        if role.pair:
            found += [Probe(name, pair) for pair in _pairs(role.max_length)]
    return found


def spellings(roles: Mapping[str, Role], tokens: Sequence[str], paragraphs: Sequence[str]) -> list[Probe]:
    """Return probes whose tokens alone are compared: thousands take a moment, their vectors minutes.

    Args:
        roles: the model's; each has its own.
        tokens: what the tokenizer finds in a text as it stands.
        paragraphs: ordinary texts.
    """
    found = []
    for name, role in roles.items():
        around = _around(role.max_length)
        texts: list[Text] = [*_SHORT, *paragraphs, *(text.upper() for text in paragraphs), *_each(tokens)]
        texts += around
        if role.pair:
            texts += [*_pairs(role.max_length), *((f"a {token} title", token) for token in tokens[:_MOST])]
            texts += itertools.product(around[::6], around[::6])
        found += [Probe(name, text) for text in texts]
    return found


def holding(tokens: Sequence[str], max_length: int) -> list[str]:
    """Return texts with a token each few words, so many a text that none is cut off."""
    few = max(1, min(8, (max_length - 2) // 8))
    parts = [tokens[start : start + few] for start in range(0, min(len(tokens), _MOST), few)]
    return ["the ferry " + " ".join(f"at {token} six" for token in part) for part in parts]


def _each(tokens: Sequence[str]) -> list[str]:
    """Return each token inside a text, alone, against letters and marks, doubled, and in other letters."""
    forms = ("the ferry {0} at six", "{0}", "a{0}b", ".{0},", "{0}{0}", "{1}", "a {2} b", " {0}  {1} ")
    return [form.format(token, token.swapcase(), token.lower()) for token in tokens[:_MOST] for form in forms]


def _around(max_length: int) -> list[str]:
    """Return texts of about max_length tokens, the beginning unlike the end: either may be cut off."""
    counts = [*range(max(1, max_length - 24), max_length + 4), 2 * max_length]
    return [" ".join(_NUMBERS[place * place % 11] for place in range(count)) for count in counts]


def tokenized(probes: Sequence[Probe], contract: Contract, reading: SecondReading) -> list[Probe]:
    """Return probes with the token ids that a second reading of the checkpoint gives them."""
    with_tokens = []
    for probe in probes:
        role = contract.roles[probe.role]
        text = check_texts([probe.text], role)[0]
        if isinstance(text, str):
            text = role.prompt + text
        ids, types = map(list, reading.encode(text, role.max_length))
        if not ids:
            raise ExportError(
                f"{reading.name} gives the text {probe.text!r} no token; expected special tokens around "
                "every text, by the tokenizer's post_processor"
            )
        with_tokens.append(Probe(probe.role, probe.text, ids, types, _prompt_tokens(contract, role, reading)))
    return with_tokens


def _prompt_tokens(contract: Contract, role: Role, reading: SecondReading) -> int:
    """Return how many tokens of the prompt are not pooled: its own, without what closes a text."""
    if contract.pool_prompt or not role.prompt:
        return 0
    prompt, nothing = (reading.encode(text, role.max_length)[0] for text in (role.prompt, ""))
    return len(prompt) - int(prompt[-1:] == nothing[-1:])


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

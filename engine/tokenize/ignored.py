"""Removes characters that give no tokens: BERT's tokenizer would read megabytes of them for nothing.

Two things are shortened, and all around them stays as it is. So it may be done to any part of any text.

- A run of characters that vanish or part words loses its inside. At least its first and last character stay,
  and one that parts words where there was one.
- A word too long for the vocabulary becomes one unknown token. It loses its inside too. So much stays at both
  ends that the word is still too long.

What is removed may hold no part of an added token. A kept end is longer than any added token, so those that
begin or end beside a run are found as before.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import tokenizers

from paritas.engine.tokenize.breaks import LETTERS, Parts

VANISHING = (
    "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f"
    "\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ue000-\uf8ff\ufeff\ufffd"
)
"""What BERT's normaliser removes, as the inside of an expression's brackets; so are the others here."""
MARKS = "\u0300-\u036f\ufe00-\ufe0f"
"""So it does these, where it strips accents."""
BLANKS = " \\t\\n\\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What parts words."""
WORDS = LETTERS + "\U0001f300-\U0001f64f\U0001f680-\U0001f6c5\U0001f910-\U0001f93e"
"""What takes part in a word: each of them becomes one character at least when it is normalised."""

RemoveIgnored = Callable[[str], str]


def ignored_remover(tokenizer: tokenizers.Tokenizer) -> RemoveIgnored:
    """Return a function that removes from a text, or any part of one, what gives this tokenizer no tokens.

    Only that of BERT's kind is known; others get the text as it is.
    """
    parts = Parts.of(tokenizer)
    if not _is_known(parts):
        return str
    accents = parts.normalizers[-1]["strip_accents"]
    stripped = parts.normalizers[-1]["lowercase"] if accents is None else accents
    vanishing = VANISHING + MARKS * bool(stripped)
    added = [token.content for token in parts.added]
    if any(re.search(f"[{vanishing}{BLANKS}]", token) for token in added):
        return str
    runs = re.compile(f"[{vanishing}{BLANKS}]{{4,}}")
    blank = re.compile(f"[{BLANKS}]")
    inside = WORDS + vanishing
    # Runs are shortened first, so at most three characters that vanish lie between two that stay.
    end = 4 * (parts.model.max_input_chars_per_word + 1) + max(map(len, added), default=0)
    words = re.compile(f"(?<![{inside}])[{inside}]{{{2 * end},}}")

    def run(match: re.Match[str]) -> str:
        separator = blank.search(match[0])
        return match[0][0] + (separator[0] if separator else "") + match[0][-1]

    def ends(match: re.Match[str]) -> str:
        return match[0][:end] + match[0][-end:]

    if any(re.fullmatch(f"[{inside}]+", token) for token in added):
        return lambda text: runs.sub(run, text)
    return lambda text: words.sub(ends, runs.sub(run, text))


def _is_known(parts: Parts) -> bool:
    return (
        parts.is_bert
        and bool(parts.normalizers[-1]["clean_text"])
        and isinstance(parts.model, tokenizers.models.WordPiece)
    )

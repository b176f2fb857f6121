"""Half of the bodies that schemathesis makes are mended: the server would refuse most of them at once.

What the description cannot say is set: which models there are, their roles, how many channels they have.
The texts stay as they were made up.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import schemathesis

MODELS = ("tiny-bert", "tiny-mpnet", "tiny-bert:latest", "")
ROLES = ("query", "passage")


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Return a body as it is, or mended; its content decides, so a seed gives the same run again."""
    number = crc32(repr(body).encode("utf-8", "replace"))
    return mended(body, number // 2) if isinstance(body, dict) and number % 2 else body


def mended(body: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a body with values that the server knows in the fields that it has; the number chooses them."""
    role = ROLES[number % len(ROLES)]
    known = {
        "model": MODELS[number % len(MODELS)],
        "role": role,
        "prompt_name": role,
        "dimensions": number % 16 + 1,
        "output_dimension": number % 16 + 1,
        "normalize": True,
        "k": number % 8 + 1,
    }
    body = {**body, **{field: value for field, value in known.items() if field in body}}
    if isinstance(body.get("texts"), list):
        # Only one role takes pairs, and Cohere's dialect takes one of two fields.
        body["texts"] = [text for text in body["texts"] if isinstance(text, str)] or ["a"]
        body.pop("inputs", None)
    return body

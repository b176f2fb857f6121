"""Token ids in place of texts. Those of another tokenizer would give wrong vectors without an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from paritas.engine.tokenize.tokenizer import Tokenizer
from paritas.errors import InputError, MissingExtraError
from paritas.serving.refusals import Refused

TokenInput = Literal["refuse", "cl100k", "model"]
"""What token ids are: none that is taken, or OpenAI's cl100k_base, or the model's own."""

Decode = Callable[[Sequence[int], Tokenizer], str]

_REFUSED = (
    "{field} holds token ids; expected texts. langchain-openai sends ids of another tokenizer unless it is "
    "told otherwise: OpenAIEmbeddings(..., check_embedding_ctx_length=False). Or start the server with "
    "--token-input cl100k"
)


def decoder(kind: TokenInput) -> Decode | None:
    """Return what turns token ids into a text; None where they are refused.

    Raises:
        MissingExtraError: tiktoken is not installed.
        InputError: tiktoken cannot get its file.
    """
    if kind == "refuse":
        return None
    if kind == "model":
        return lambda ids, tokenizer: tokenizer.decode(ids)
    try:
        import tiktoken
    except ModuleNotFoundError as error:
        raise MissingExtraError("tiktoken is not installed; type: pip install tiktoken") from error
    try:
        encoding = tiktoken.get_encoding("cl100k_base")
    except Exception as error:  # of its HTTP client, or of the file
        raise InputError(
            f"--token-input cl100k: tiktoken cannot get cl100k_base: {error}; let it download the file, or "
            "set TIKTOKEN_CACHE_DIR to a folder that has it"
        ) from error

    def decode(ids: Sequence[int], _tokenizer: Tokenizer) -> str:
        try:
            return str(encoding.decode(list(ids)))
        except (KeyError, OverflowError) as error:
            raise InputError(f"token ids: {error}: not one of cl100k_base") from error

    return decode


def as_texts(
    given: str | Sequence[str | int | Sequence[int]], decode: Decode | None, tokenizer: Tokenizer, field: str
) -> list[str]:
    """Return a request's texts.

    Args:
        given: a text, texts, the token ids of one text, or those of several.
        decode: what turns ids into a text; None where they are refused.
        tokenizer: the model's own.
        field: the request's field that holds them.

    Raises:
        Refused: token ids where none are taken, or texts and ids together.
        InputError: an id is none of the tokenizer's.
    """
    if isinstance(given, str):
        return [given]
    texts = [each for each in given if isinstance(each, str)]
    if len(texts) == len(given):
        return texts
    if decode is None:
        raise Refused("bad_request", _REFUSED.format(field=field), param=field)
    if all(isinstance(each, int) for each in given):
        given = [[each for each in given if isinstance(each, int)]]
    rows = [each for each in given if not isinstance(each, (str, int))]
    if len(rows) != len(given):
        message = f"{field} mixes texts and token ids; expected one kind"
        raise Refused("bad_request", message, param=field)
    return [decode(ids, tokenizer) for ids in rows]

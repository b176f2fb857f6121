"""Which tokens a checkpoint's files add to its tokenizer, and with which flags, as transformers does it.

Four files name tokens: tokenizer.json, tokenizer_config.json, special_tokens_map.json and added_tokens.json.
An added token is found in a text as it stands, before the text is split into words. Flags say how: lstrip and
rstrip take the spaces beside it, single_word wants it between words, normalized lets it match the normalised
text. Ids in the files do not count: a token has its id in the vocabulary, or the next free one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from paritas.errors import ExportError
from paritas.export.checkpoint.files import (
    ADDED_TOKENS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
    read_json,
)

Added = tuple[int, tuple[bool, ...]]
"""Id and flags."""

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
NORMALIZED = _FLAGS.index("normalized")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the files beside the vocabulary say."""

    directory: Path
    config: Mapping[str, Any]
    """tokenizer_config.json; empty where there is none."""
    special: Mapping[str, Any]
    """special_tokens_map.json; empty where there is none, or tokenizer_config.json names all added tokens."""
    added: Mapping[str, int]
    """added_tokens.json; likewise."""
    tokenizer: Mapping[str, Any] = field(repr=False)
    """tokenizer.json; empty where there is none."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a key's value: special_tokens_map.json overrules tokenizer_config.json."""
        return self.special[key] if key in self.special else self.config.get(key, default)

    def place(self, key: str) -> str:
        """Return the file and the key, for people."""
        file = SPECIAL_TOKENS_MAP if key in self.special else TOKENIZER_CONFIG
        return f"{self.directory / file}: {key}"


def read_tokenizer_files(directory: Path) -> TokenizerFiles:
    """Read them; only what is there.

    Raises:
        SourceError: one of them cannot be read.
    """

    def optional(name: str) -> dict[str, Any]:
        return read_json(directory / name) if (directory / name).is_file() else {}

    config = optional(TOKENIZER_CONFIG)
    # With the key, even empty, transformers reads neither of the two older files for tokens.
    complete = "added_tokens_decoder" in config
    return TokenizerFiles(
        directory=directory,
        config=config,
        special={} if complete else optional(SPECIAL_TOKENS_MAP),
        added={} if complete else optional(ADDED_TOKENS),
        tokenizer=optional(TOKENIZER),
    )


def declared(files: TokenizerFiles) -> list[AddedToken]:
    """Return the tokens that the files give flags, in the order of their ids there.

    Raises:
        ExportError: an entry is no token.
    """
    return [token for _, token in sorted(_numbered(files).items())]


def _numbered(files: TokenizerFiles) -> dict[int, AddedToken]:
    """Return the tokens that the files give flags, by the ids there."""
    if "added_tokens_decoder" in files.config:
        place = files.place("added_tokens_decoder")
        stated = files.config["added_tokens_decoder"]
        if not isinstance(stated, Mapping):
            raise ExportError(f"{place} is {str(stated)[:60]}; expected an object of tokens by id")
        return {_number(key, place): _parse(entry, place) for key, entry in stated.items()}
    named = {}
    values = [value for value in _named_values(files).values() if value is not None]
    special = {_content(token) for token in [*values, *additional(files)]}
    for content, number in files.added.items():
        is_special = content in special
        named[_number(number, f"{files.directory / ADDED_TOKENS}: {content}")] = AddedToken(
            content, normalized=not is_special, special=is_special
        )
    place = f"{files.directory / TOKENIZER}: added_tokens"
    stated = files.tokenizer.get("added_tokens", [])
    if not isinstance(stated, list):
        raise ExportError(f"{place} is {str(stated)[:60]}; expected a list of tokens")
    for entry in stated:
        token = _parse(entry, place)
        named[_number(entry.get("id"), place)] = token
    return named


def tokens_named(files: TokenizerFiles) -> list[str]:
    """Return every token that the files name, whatever becomes of it: what a certificate should try."""
    entries = [*files.tokenizer.get("added_tokens", ()), *_numbered(files).values()]
    values = [value for value in _named_values(files).values() if value is not None]
    return list(dict.fromkeys(_content(token) for token in [*entries, *values, *additional(files)]))


def _number(value: Any, place: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ExportError(f"{place}: {str(value)[:60]!r} is no id; expected a number") from None


def check_ids(files: TokenizerFiles, tokenizer: Tokenizer) -> None:
    """Refuse ids in the files that are not those of the tokenizer.

    Where transformers 4.57 makes a tokenizer of vocab.txt alone, it takes them from there; 5 does not.
    """
    for number, token in _numbered(files).items():
        token_id = tokenizer.token_to_id(token.content)
        if token_id != number:
            raise ExportError(
                f"{files.directory}: the added token {token.content!r} has the id {number} in the files "
                f"beside vocab.txt, and {token_id} by it; make them agree"
            )


def named(files: TokenizerFiles, defaults: Mapping[str, str | AddedToken]) -> dict[str, str | AddedToken]:
    """Return the tokens with a name, such as `cls_token`, the class's defaults where no file names them.

    A name whose token has flags in another file has those flags.

    Args:
        files: the checkpoint's.
        defaults: of the tokenizer's class.
    """
    flagged = {token.content: token for token in declared(files)}
    result: dict[str, str | AddedToken] = dict(defaults)
    for name, value in _named_values(files).items():
        if value is None:
            result.pop(name, None)
            continue
        token = value if isinstance(value, str) else _parse(value, files.place(name), special=True)
        if not _content(token):
            raise ExportError(f"{files.place(name)} is empty; expected a token, or null for none")
        default = defaults.get(name)
        if isinstance(token, str) and isinstance(default, AddedToken):  # such a class gives its names flags
            token = AddedToken(token, lstrip=default.lstrip, rstrip=default.rstrip)
        result[name] = flagged.get(_content(token), token)
    return {name: result[name] for name in NAMED if name in result}


def _named_values(files: TokenizerFiles) -> dict[str, Any]:
    return {name: files.get(name) for name in NAMED if name in files.config or name in files.special}


def additional(files: TokenizerFiles) -> list[str | AddedToken]:
    """Return the special tokens without a name: those of both files, and the extra ones."""
    kept: list[str | AddedToken] = []
    for source, file in ((files.config, TOKENIZER_CONFIG), (files.special, SPECIAL_TOKENS_MAP)):
        stated = source.get("additional_special_tokens")
        if stated is not None and not isinstance(stated, list):
            place = files.directory / file
            raise ExportError(f"{place}: additional_special_tokens is {str(stated)[:60]!r}; expected a list")
        for entry in source.get("additional_special_tokens") or ():
            token = (
                entry
                if isinstance(entry, str)
                else _parse(entry, f"{file}: additional_special_tokens", special=True)
            )
            if token not in kept:
                kept.append(token)
    return [*kept, *_extra(files)]


def _extra(files: TokenizerFiles) -> list[str | AddedToken]:
    """Return the tokens of the key extra_special_tokens: an object to transformers 4.57, a list to 5."""
    stated, place = files.get("extra_special_tokens") or [], files.place("extra_special_tokens")
    if not isinstance(stated, list | Mapping):
        raise ExportError(f"{place} is {str(stated)[:60]!r}; expected a list")
    values = stated.values() if isinstance(stated, Mapping) else stated
    return [value if isinstance(value, str) else _parse(value, place, special=True) for value in values]


def add_declared(
    tokenizer: Tokenizer, files: TokenizerFiles, defaults: Mapping[str, str | AddedToken]
) -> None:
    """Add the tokens to a tokenizer as transformers 4.57 does, in the same order.

    Flags of later files replace those that a token has already; a name's default does so too where its class
    gives it flags.
    """
    tokens = declared(files)
    known = [*added_to(tokenizer), *(token.content for token in tokens)]
    names = named(files, defaults)
    contents = {_content(token) for token in [*names.values(), *additional(files)]}
    new = list(tokens)
    for token in _distinct([*names.values(), *additional(files)]):
        if isinstance(token, str):
            if token not in known:
                new.append(AddedToken(token, special=True))
        elif token not in tokens:
            new.append(token)
    for token in new:
        token.special = token.special or token.content in contents
    tokenizer.add_tokens(new)


def add_declared_5(
    tokenizer: Tokenizer, files: TokenizerFiles, defaults: Mapping[str, str | AddedToken]
) -> None:
    """Add the tokens as transformers 5 does: names only where nothing else has added their token."""
    tokens = declared(files)
    known = {*added_to(tokenizer), *(token.content for token in tokens)}
    more = [
        value
        for key, value in {**files.config, **files.special}.items()
        if key.endswith("_token") and key not in NAMED and isinstance(value, str)
    ]
    names = named(files, defaults)
    for token in [*names.values(), *more, *_additional_5(files)]:
        if _content(token) not in known:
            tokens.append(AddedToken(token, special=True) if isinstance(token, str) else token)
            known.add(_content(token))
    contents = {_content(token) for token in names.values()}
    for added in tokens:
        added.special = added.special or added.content in contents
    tokenizer.add_tokens(tokens)


def _additional_5(files: TokenizerFiles) -> list[str | AddedToken]:
    """Transformers 5 takes the first of these that is there, where 4.57 takes all."""
    if extra := _extra(files):
        return extra
    source = files.config if "additional_special_tokens" in files.config else files.special
    entries = source.get("additional_special_tokens") or ()
    return [
        entry if isinstance(entry, str) else _parse(entry, "additional_special_tokens") for entry in entries
    ]


def added_to(tokenizer: Tokenizer) -> dict[str, Added]:
    """Return a tokenizer's added tokens by content. `special` changes no id, and is left out."""
    decoder = tokenizer.get_added_tokens_decoder()
    return {
        token.content: (number, tuple(bool(getattr(token, flag)) for flag in _FLAGS))
        for number, token in decoder.items()
    }


def check_added(files: TokenizerFiles, ours: Mapping[str, Added], theirs: Mapping[str, Added]) -> None:
    for content in [*ours, *theirs]:
        one, other = ours.get(content), theirs.get(content)
        if one != other:
            raise ExportError(
                f"{files.directory}: the added token {content!r} is {_shown(one)} to transformers 4.57, and "
                f"{_shown(other)} to 5; name it with the same flags in {TOKENIZER} (added_tokens) and "
                f"{TOKENIZER_CONFIG} (added_tokens_decoder)"
            )


def _shown(entry: Added | None) -> str:
    """Return id and flags of a token for people."""
    if entry is None:
        return "no token"
    flags = [flag for flag, on in zip(_FLAGS, entry[1], strict=True) if on]
    return f"id {entry[0]}" + (f" with {', '.join(flags)}" if flags else "")


def _distinct(tokens: list[str | AddedToken]) -> Iterator[str | AddedToken]:
    seen = set()
    for token in tokens:
        if _content(token) not in seen:
            seen.add(_content(token))
            yield token


def _content(token: Any) -> str:
    if isinstance(token, Mapping):
        return str(token.get("content"))
    return str(token.content) if isinstance(token, AddedToken) else str(token)


def _parse(entry: Any, place: str, *, special: bool | None = None) -> AddedToken:
    """Read a token with its flags; `normalized` is on where it is not given and the token is not special."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("content"), str):
        raise ExportError(
            f"{place}: {str(entry)[:60]!r} is no token; expected an object with content and flags"
        )
    given = {flag: bool(entry[flag]) for flag in (*_FLAGS, "special") if flag in entry}
    if special is not None:
        given["special"] = special
    return AddedToken(entry["content"], **given)

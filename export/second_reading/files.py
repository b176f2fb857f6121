"""What a checkpoint's files say of its tokenizer, put together as transformers 4.57's AutoTokenizer does.

Four files speak: tokenizer_config.json, special_tokens_map.json, added_tokens.json, and tokenizer.json or
vocab.txt; config.json only where the first names no class. They contradict one another more often than not,
and which one prevails is told at each function.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paritas.errors import MissingExtraError, SourceError
from paritas.export.second_reading.added import AddedTokens, Token, UnknownPartError
from paritas.export.second_reading.wordpiece import Model, WordPiece, normalizer, pre_tokenizer, templates

_CONFIG, _BACKEND, _VOCABULARY = "tokenizer_config.json", "tokenizer.json", "vocab.txt"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MORE_SPECIAL = "additional_special_tokens"
# Settings that make transformers read other files, or other code.
_ELSEWHERE = ("tokenizer_file", "vocab_file", "fast_tokenizer_files", "from_slow", "gguf_file", "init_inputs")


@dataclass(frozen=True)
class _Class:
    """What one of transformers' classes does by itself."""

    special: Mapping[str, str]
    overrules: tuple[str, ...] = ()
    """Entries of tokenizer.json's normalizer that give way to the class's settings."""
    types: bool = True
    eager_mask: bool = False
    """Whether the mask token takes the blanks before it, and the others come with flags of their own."""
    double_separator: bool = False


_BERT = _Class(
    {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    overrules=("lowercase", "strip_accents", "handle_chinese_chars"),
)
_MPNET = _Class(
    {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "[UNK]",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    overrules=("lowercase", "strip_accents"),
    types=False,
    eager_mask=True,
    double_separator=True,
)
_CLASSES = {
    "BertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "DistilBertTokenizer": replace(_BERT, types=False),
    "MPNetTokenizer": _MPNET,
    "PreTrainedTokenizer": _Class({}),
    # What transformers 5 saves for the class before; 4.57 does not know it.
    "TokenizersBackend": _Class({}, types=False),
}
_BY_MODEL_TYPE = {
    "bert": _BERT,
    "electra": _BERT,
    "distilbert": _CLASSES["DistilBertTokenizer"],
    "mpnet": _MPNET,
}


def open_wordpiece(directory: Path, *, lowercase: bool = False) -> WordPiece:
    """Read a checkpoint's tokenizer.

    Args:
        directory: the checkpoint's.
        lowercase: each text is lowered before it is normalised.

    Raises:
        MissingExtraError: the tokenizer has a part that only transformers knows.
        SourceError: a file is missing or damaged.
    """
    try:
        tokenizer = _Files(directory).open()
    except UnknownPartError as error:
        raise _unknown(directory / _BACKEND, error.name, error.found, error.known) from error
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise SourceError(
            f"{directory}: its tokenizer files are not in the form that transformers writes: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not lowercase:
        return tokenizer
    lower, after = normalizer({"type": "Lowercase"}), tokenizer.normalize
    return replace(tokenizer, normalize=lambda text: after(lower(text)))


def is_of_release_5(directory: Path) -> bool:
    """Say whether a tokenizer's files have a form that transformers 4.57 cannot load, and 5 saves."""
    path = directory / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(config, dict):
        return False
    saved_as_list = isinstance(config.get("extra_special_tokens"), list)
    return saved_as_list or config.get("tokenizer_class") == "TokenizersBackend"


def _unknown(path: Path, key: str, value: object, known: Sequence[str]) -> MissingExtraError:
    return MissingExtraError(
        f"{path}: {key} is {value!r}; without transformers, the tokens of a checkpoint can be checked for "
        f"{', '.join(known)}; type: pip install 'transformers<4.58'"
    )


class _Files:
    """One checkpoint's tokenizer files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = self._json(_CONFIG) or {}
        self._stored = self._json(_BACKEND)
        self._class = self._choose_class()
        for key in _ELSEWHERE:
            if self._config.get(key) or (key == "tokenizer_file" and key in self._config and self._stored):
                raise self._refuse(_CONFIG, key, self._config[key], ["no such entry"])

    def open(self) -> WordPiece:
        named, decoder = self._special_tokens()
        # What the class has by itself gives way to what is written, null included.
        options = {**self._class.special, **self._config, **named}
        backend = self._stored or self._from_vocabulary(options, decoder)
        padding, truncation = backend.get("padding"), backend.get("truncation")
        if padding:
            options.setdefault("pad_token", padding["pad_token"])
        if truncation:
            # The oldest files do not say which side.
            options.setdefault("truncation_side", truncation.get("direction", "Right").lower())
        model = self._model(backend["model"])
        added = AddedTokens(model.vocabulary, split_special=bool(options.get("split_special_tokens")))
        added.add([_token(entry) for entry in backend.get("added_tokens", ())])
        added.add(self._to_add(options, decoder, added.contents))
        # transformers changes the normalizer last; the added tokens stay normalized by the file's own.
        patterns = added.patterns(normalizer(backend["normalizer"]))
        single, pair = templates(backend["post_processor"])
        inputs = options.get("model_input_names")
        return WordPiece(
            name="WordPiece in Python",
            model=model,
            normalize=normalizer(self._overruled(backend["normalizer"], options)),
            words=pre_tokenizer(backend["pre_tokenizer"]),
            added=patterns,
            single=single,
            pair=pair,
            cut_left=self._cut_left(options),
            types=self._class.types if inputs is None else "token_type_ids" in inputs,
        )

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self._directory / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise SourceError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(content, dict):
            raise SourceError(f"{path}: holds {type(content).__name__}; expected an object")
        return content

    def _refuse(self, name: str, key: str, value: object, known: Sequence[str]) -> MissingExtraError:
        return _unknown(self._directory / name, key, value, known)

    def _choose_class(self) -> _Class:
        """tokenizer_config.json names it, else config.json does, else config.json's model_type decides."""
        place, name, model_type = _CONFIG, self._config.get("tokenizer_class"), None
        if name is None:
            config = self._json("config.json") or {}
            place, name, model_type = "config.json", config.get("tokenizer_class"), config.get("model_type")
        if name is None:
            if model_type not in _BY_MODEL_TYPE:
                raise self._refuse(place, "model_type", model_type, list(_BY_MODEL_TYPE))
            return _BY_MODEL_TYPE[model_type]
        if name.removesuffix("Fast") not in _CLASSES:
            raise self._refuse(place, "tokenizer_class", name, list(_CLASSES))
        return _CLASSES[name.removesuffix("Fast")]

    def _special_tokens(self) -> tuple[dict[str, Any], dict[int, Token]]:
        """Return the special tokens by their keys, and the added tokens by the ids that are written.

        Where tokenizer_config.json has added_tokens_decoder, nobody reads the other two files, nor what
        tokenizer.json says of added tokens. Else special_tokens_map.json prevails over the first.
        """
        named = {key: self._config[key] for key in (*_SPECIAL, _MORE_SPECIAL) if key in self._config}
        named = {key: _settle(value) for key, value in named.items()}
        if "added_tokens_decoder" in self._config:
            entries = self._config["added_tokens_decoder"].items()
            decoder = {int(number): _token(entry) for number, entry in entries}
        else:
            named.update(self._special_map(named.get(_MORE_SPECIAL) or []))
            decoder = self._added_file(named)
            for entry in self._stored.get("added_tokens", ()) if self._stored else ():
                decoder[entry["id"]] = _token(entry)
        flags = {token.content: token for token in decoder.values()}
        for key, value in named.items():
            if key != _MORE_SPECIAL and value is not None:
                named[key] = flags.get(_content(value), value)
        return named, decoder

    def _special_map(self, more: list[Any]) -> dict[str, Any]:
        """Return special_tokens_map.json's tokens; the additional ones come after those of the config."""
        named: dict[str, Any] = {}
        for key, value in (self._json("special_tokens_map.json") or {}).items():
            if isinstance(value, dict):
                named[key] = replace(_token(value), special=True)
            elif key == _MORE_SPECIAL and isinstance(value, list):
                tokens = list(more)
                for entry in value:
                    token = replace(_token(entry), special=True) if isinstance(entry, dict) else entry
                    if token not in tokens:
                        tokens.append(token)
                named[key] = tokens
            else:
                named[key] = value
        return named

    def _added_file(self, named: dict[str, Any]) -> dict[int, Token]:
        """Return added_tokens.json's tokens. Those that are special, another file says."""
        special: set[str] = set()
        for key, value in named.items():
            values = value if key == _MORE_SPECIAL else [value]
            special |= {_content(entry) for entry in values or [] if entry is not None}
        content = self._json("added_tokens.json") or {}
        # One that turns out to be special later is still looked for in the normalized text.
        return {
            number: Token(text, special=text in special, normalized=text not in special)
            for text, number in content.items()
        }

    def _to_add(
        self, options: dict[str, Any], decoder: dict[int, Token], present: Sequence[str]
    ) -> list[Token]:
        """Return the tokens that transformers adds to those of tokenizer.json, in its order.

        All of the decoder come, by id; then the special tokens, except plain strings that are there already.
        """
        special = self._all_special(options)
        contents = {_content(token) for token in special}
        tokens = [decoder[number] for number in sorted(decoder)]
        known = {*present, *(token.content for token in tokens)}
        settled = {token.settled() for token in tokens}
        for token in special:
            if isinstance(token, str) and token not in known:
                tokens.append(Token(token, special=True))
            elif isinstance(token, Token) and token.settled() not in settled:
                tokens.append(token)
        return [replace(token, special=token.special or token.content in contents) for token in tokens]

    def _all_special(self, options: dict[str, Any]) -> list[str | Token]:
        """Return the special tokens, each content once."""
        values: list[Any] = [options.get(key) for key in _SPECIAL]
        if self._class.eager_mask:
            values = [
                Token(value, lstrip=key == "mask_token") if isinstance(value, str) else value
                for key, value in zip(_SPECIAL, values, strict=True)
            ]
        values += options.get(_MORE_SPECIAL) or []
        # A list is transformers 5's form, which 4.57 cannot load.
        extra = options.get("extra_special_tokens") or []
        values += [_settle(value) for value in (extra.values() if isinstance(extra, dict) else extra)]
        special: dict[str, str | Token] = {}
        for value in values:
            if value:
                special.setdefault(_content(value), value)
        return list(special.values())

    def _overruled(self, stored: dict[str, Any] | None, options: dict[str, Any]) -> dict[str, Any] | None:
        """Return the normalizer after the class's settings, which count even where no file names them.

        Only entries of the normalizer itself are overruled: one inside a Sequence stays as it is.
        """
        if not self._class.overrules:
            return stored
        if stored is None:
            raise self._refuse(_BACKEND, "normalizer", None, ["BertNormalizer"])
        flags = self._flags(options)
        if stored.get("type") == "BertNormalizer":
            stored = {"strip_accents": None, **stored}
        wanted = {key: flags[key] for key in self._class.overrules}
        if all(stored.get(key, value) == value for key, value in wanted.items()):
            return stored
        return {**stored, **wanted}

    def _flags(self, options: dict[str, Any]) -> dict[str, Any]:
        flags = {
            "lowercase": options.get("do_lower_case", True),
            "strip_accents": options.get("strip_accents"),
            "handle_chinese_chars": options.get("tokenize_chinese_chars", True),
        }
        for key, value in flags.items():
            if not isinstance(value, bool) and (key, value) != ("strip_accents", None):
                raise SourceError(
                    f"{self._directory / _CONFIG}: the setting for {key} is {value!r}; expected true or false"
                )
        return flags

    def _from_vocabulary(self, options: dict[str, Any], decoder: dict[int, Token]) -> dict[str, Any]:
        """Return what transformers makes of a vocab.txt: the content of a tokenizer.json."""
        path = self._directory / _VOCABULARY
        if not self._class.overrules or not path.exists():
            raise SourceError(f"{self._directory}: no {_BACKEND}, and no {_VOCABULARY} that its class reads")
        with path.open(encoding="utf-8") as file:
            vocabulary = {line.rstrip("\n"): number for number, line in enumerate(file)}
        numbers = {**vocabulary, **{token.content: number for number, token in decoder.items()}}
        first, separator = (_content(options[key]) for key in ("cls_token", "sep_token"))
        for key, content in (("cls_token", first), ("sep_token", separator)):
            if content not in numbers:
                raise self._refuse(_CONFIG, key, content, ["a token of the vocabulary"])
        plain = dict.fromkeys(("lowercase", "strip_accents", "handle_chinese_chars"), False)
        basic = self._flags(options) if options.get("do_basic_tokenize", True) else plain
        kind = "RobertaProcessing" if self._class.double_separator else "BertProcessing"
        return {
            "added_tokens": [],
            "normalizer": {"type": "BertNormalizer", "clean_text": True, **basic},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": kind,
                "cls": [first, numbers[first]],
                "sep": [separator, numbers[separator]],
            },
            "model": {
                "type": "WordPiece",
                "vocab": vocabulary,
                "unk_token": _content(options["unk_token"]),
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            },
        }

    def _model(self, stored: dict[str, Any]) -> Model:
        # The oldest files name no type, and only BPE has merges.
        kind = stored.get("type", "BPE" if "merges" in stored else "WordPiece")
        if kind != "WordPiece":
            raise self._refuse(_BACKEND, "model.type", kind, ["WordPiece"])
        unknown = stored["unk_token"]
        if unknown not in stored["vocab"]:
            raise SourceError(
                f"{self._directory}: the vocabulary lacks {unknown!r}, its token for unknown words"
            )
        return Model(
            vocabulary=stored["vocab"],
            unknown=stored["vocab"][unknown],
            prefix=stored["continuing_subword_prefix"],
            longest_word=stored["max_input_chars_per_word"],
        )

    def _cut_left(self, options: dict[str, Any]) -> bool:
        side = options.get("truncation_side", "right")
        if side not in ("left", "right"):
            raise SourceError(
                f"{self._directory / _CONFIG}: truncation_side is {side!r}; expected 'left' or 'right'"
            )
        return bool(side == "left")


def _token(entry: dict[str, Any]) -> Token:
    """Return an added token as the files write it; flags that are absent are off."""
    flags = ("single_word", "lstrip", "rstrip", "special", "normalized")
    return Token(entry["content"], **{flag: entry[flag] for flag in flags if flag in entry})


def _settle(value: Any) -> Any:
    """Turn what tokenizer_config.json marks as an added token into one, in lists too."""
    if isinstance(value, list):
        return [_settle(entry) for entry in value]
    return _token(value) if isinstance(value, dict) and value.get("__type") == "AddedToken" else value


def _content(token: str | Token) -> str:
    return token if isinstance(token, str) else token.content

"""An encoder as frameworks see one: it encodes queries and passages, at once or from an event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from paritas import AsyncEncoder, Bundle, Encoder, errors
from paritas.documents import Document
from paritas.engine.bundle.directory import FAMILIES
from paritas.engine.bundle.lookup import find
from paritas.engine.options import EncoderOptions
from paritas.engine.tokenize.inputs import listed
from paritas.engine.tokenize.tokenizer import check_texts

Model = str | os.PathLike[str] | Bundle | Encoder

_shared: weakref.WeakValueDictionary[bytes, Encoder] = weakref.WeakValueDictionary()
# Held while a bundle is loaded; an event loop must not wait for that, and has a lock of its own.
_sharing = threading.Lock()
_starting = threading.Lock()


class DualEncoder:
    """An encoder with a role for queries and one for passages.

    May be used by many threads and event loops at once. A deep copy is the same object, for an encoder is
    never changed; a pickled one loads its bundle again.
    """

    def __init__(
        self, model: Model, *, query_role: str = "query", passage_role: str = "passage", **options: Any
    ) -> None:
        """Take an encoder, or load one.

        A process loads a bundle once for the same options, however many ask for it.

        Args:
            model: as for `Encoder`, or an `Encoder`.
            query_role: the role that queries have.
            passage_role: the role that passages have.
            **options: of `Encoder`.

        Raises:
            ParitasError: as `Encoder`.
            InputError: the model has no such role, or options stand beside an `Encoder`.
        """
        self.encoder = _loaded(model, options)
        """What encodes."""
        self.options = _kept(options, self.encoder)
        """The options to open the bundle with again. Their precision is the one that runs, as "auto" may be
        another elsewhere."""
        self.query_role = _checked_role(self.encoder, "query_role", query_role)
        self.passage_role = _checked_role(self.encoder, "passage_role", passage_role)
        self._async: AsyncEncoder | None = None

    @classmethod
    def of_one_role(cls, model: Model, argument: str, role: str, **options: Any) -> DualEncoder:
        """Return one for texts of a single role, whichever side they are called.

        Args:
            model: as for `Encoder`, or an `Encoder`.
            argument: what the caller's argument for the role is called, for the error.
            role: the role.
            **options: of `Encoder`.

        Raises:
            ParitasError, InputError: as the constructor.
        """
        encoder = _loaded(model, options)
        role = _checked_role(encoder, argument, role)
        return cls(encoder, query_role=role, passage_role=role)

    @property
    def name(self) -> str:
        """The model's name, as the manifest has it."""
        return self.encoder.bundle.manifest.model

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return self.encoder.dim

    @property
    def max_length(self) -> int:
        """Tokens of a passage, special ones included."""
        return self.encoder.contract.roles[self.passage_role].max_length

    def check_max_length(self, value: int) -> None:
        """Refuse another length than the bundle's.

        Raises:
            InputError: it is another; the certificate is of texts as the bundle cuts them.
        """
        if value != self.max_length:
            raise errors.InputError(
                f"the bundle takes {self.max_length} tokens; for {value} export the model with an entry of a "
                "registry that overrides max_length"
            )

    @property
    def takes_titles(self) -> bool:
        """Passages are (title, text) pairs."""
        return self.encoder.contract.roles[self.passage_role].pair

    @property
    def is_symmetric(self) -> bool:
        """Queries and passages are encoded alike."""
        roles = self.encoder.contract.roles
        return roles[self.query_role] == roles[self.passage_role]

    def titled(self, title: str | None, text: Any) -> Any:
        """Return a passage with a title as the model takes it: as a pair, or title and text joined.

        Without a title it is the text alone; a model that takes pairs then has a title of its own.

        Raises:
            InputError: the title, or the text beside it, is no string.
        """
        if not title:
            return text
        for name, value in (("title", title), ("text", text)):
            if not isinstance(value, str):
                raise errors.InputError(f"a document's {name} is {type(value).__name__}; expected a string")
        return Document("", str(title), text).as_text(pair=self.takes_titles)

    def queries(self, texts: Iterable[Any], *, progress: bool = False) -> NDArray[np.float32]:
        """Return the vectors of queries, float32, (texts, dim).

        Raises:
            ParitasError: as `Encoder.encode`.
        """
        return self.encoder.encode(texts, role=self.query_role, progress=progress)

    def passages(self, texts: Iterable[Any], *, progress: bool = False) -> NDArray[np.float32]:
        """Return the vectors of passages, float32, (texts, dim).

        Raises:
            ParitasError: as `Encoder.encode`.
        """
        return self.encoder.encode(texts, role=self.passage_role, progress=progress)

    def count_tokens(self, texts: Iterable[Any], *, queries: bool = False) -> int:
        """Return how many tokens texts have in all, special ones included and what is cut off not.

        Raises:
            InputError: a text is not what the role takes.
        """
        role = self.query_role if queries else self.passage_role
        tokenizer = self.encoder.stages.tokenizer
        return int(tokenizer.encode(check_texts(list(texts), tokenizer.role(role)), role).lengths.sum())

    @property
    def facts(self) -> dict[str, Any]:
        """What the vectors depend on, for those who keep vectors: fingerprint, family, dim and roles."""
        return {
            "fingerprint": self.encoder.fingerprint,
            "family": self.encoder.family,
            "dim": self.dim,
            "query_role": self.query_role,
            "passage_role": self.passage_role,
        }

    def check_facts(self, kept: Mapping[str, Any], where: str) -> None:
        """Make sure that vectors which somebody keeps may stand beside this encoder's.

        Args:
            kept: of `facts`; what is empty is not compared, nor are other names.
            where: what keeps the vectors, for the message.

        Raises:
            BundleError: they are another model's, of another precision family, width or role.
        """
        for name, found in self.facts.items():
            expected = kept.get(name)
            if not expected or expected == found:
                continue
            if name in ("query_role", "passage_role") and self._are_alike(expected, found):
                continue
            if name == "fingerprint":
                raise errors.BundleError(
                    f"{self.encoder.bundle.directory} is another model than {where} was made with "
                    f"(fingerprint {found[:12]}, expected {expected[:12]}); export that one, or make it anew"
                )
            mend = {"family": _precisions(expected), "dim": f"truncate_dim={expected}"}
            raise errors.BundleError(
                f"{where} has vectors with {name} {expected!r}, and not {found!r}; type: "
                f"{mend.get(name, f'{name}={expected!r}')}, or make it anew"
            )

    def check_name(self, name: str, known: DualEncoder | None) -> None:
        """Make sure that a name which others may know keeps its meaning.

        Args:
            name: what this encoder is to be called.
            known: what it means already, if anything.

        Raises:
            InputError: it means an encoder whose vectors are others.
        """
        if known is None:
            return
        try:
            self.check_facts(known.facts, name)
        except errors.BundleError as error:
            raise errors.InputError(
                f"{name!r} is {known.name} already, and vectors may be kept under that name; choose another"
            ) from error

    def _are_alike(self, role: str, other: str) -> bool:
        """Whatever the two roles are called, they encode alike."""
        roles = self.encoder.contract.roles
        return role in roles and other in roles and roles[role] == roles[other]

    async def queries_async(self, texts: Iterable[Any]) -> NDArray[np.float32]:
        """Return the vectors of queries; many calls at once make fuller batches."""
        return await self._encode_async(listed(texts), self.query_role)

    async def passages_async(self, texts: Iterable[Any]) -> NDArray[np.float32]:
        """Return the vectors of passages; many calls at once make fuller batches."""
        return await self._encode_async(listed(texts), self.passage_role)

    async def _encode_async(self, texts: Sequence[Any], role: str) -> NDArray[np.float32]:
        with _starting:
            if self._async is None:
                self._async = AsyncEncoder(self.encoder)
        while True:
            try:
                return (await self._async.encode(texts, role=role)).vectors
            except errors.Overloaded as busy:
                # No framework would come again by itself: a call waits until there is room.
                await asyncio.sleep(busy.retry_after_s)

    def __deepcopy__(self, _memo: object) -> DualEncoder:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_async": None}


def _loaded(model: Model, options: Mapping[str, Any]) -> Encoder:
    known = EncoderOptions.__struct_fields__
    for name in options:
        if name not in known:
            raise errors.InputError(f"unknown option {name!r}{errors.did_you_mean(name, known)}")
    if not isinstance(model, Encoder):
        return shared_encoder(model, options)
    if options:
        raise errors.InputError(f"an Encoder has its options already; leave out {', '.join(options)}")
    return model


def _kept(options: Mapping[str, Any], encoder: Encoder) -> dict[str, Any]:
    kept = {**options, "precision": encoder.precision}
    # Files keep them, and NumPy's numbers are none of JSON's.
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in kept.items()}


def _precisions(family: str) -> str:
    return " or ".join(f'precision="{one}"' for one, its in FAMILIES.items() if its == family)


def as_options(options: Any) -> dict[str, Any]:
    """Return a copy of an encoder's options that were given as one dictionary; None is none.

    Raises:
        InputError: it is no dictionary.
    """
    if options is not None and not isinstance(options, Mapping):
        raise errors.InputError(
            f"options is {type(options).__name__}; expected a dictionary, as in {{'precision': 'int8'}}"
        )
    return dict(options or {})


def _checked_role(encoder: Encoder, argument: str, role: str) -> str:
    roles = encoder.contract.roles
    if role in roles:
        return role
    raise errors.InputError(
        f"{encoder.bundle.manifest.model} has no role {role!r}, but {', '.join(roles)}; "
        f"type: {argument}={next(iter(roles))!r}"
    )


def shared_encoder(model: str | os.PathLike[str] | Bundle, options: Mapping[str, Any]) -> Encoder:
    """Return this process's encoder of a bundle with these options, loaded where there is none yet."""
    bundle = model if isinstance(model, Bundle) else Bundle(find(model).absolute())
    where = (os.getpid(), str(bundle.directory.resolve()), bundle.fingerprint)

    def key(given: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode((where, EncoderOptions(**given)), enc_hook=repr)

    with _sharing:
        encoder = _shared.get(key(options))
        if encoder is None:
            encoder = Encoder(bundle, **options)
            # What "auto" has become serves those who ask for it by its name.
            encoder = _shared.setdefault(key({**options, "precision": encoder.precision}), encoder)
            _shared[key(options)] = encoder
        return encoder


def check_settings(settings: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a setting that a framework would drop without a word.

    Raises:
        InputError: there is no such setting; the encoder's options have a place of their own.
    """
    for name in settings:
        if name in known:
            continue
        if name in EncoderOptions.__struct_fields__:
            raise errors.InputError(f"{name} is an option of the encoder; type: options={{{name!r}: ...}}")
        raise errors.InputError(f"unknown setting {name!r}{errors.did_you_mean(name, known)}")

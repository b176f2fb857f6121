"""The encoder: texts in, vectors out, in the caller's order."""

from __future__ import annotations

import dataclasses
import logging
import operator
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray
from tqdm import tqdm

from paritas import store
from paritas.engine.batching import plan
from paritas.engine.bundle import FAMILIES, TOKENIZER, Bundle, Contract
from paritas.engine.cpus import available_cpus, dot_product, instructions
from paritas.engine.pooling import pool
from paritas.engine.runtime import Session, is_cpu
from paritas.engine.tokenizer import Text, Tokenizer, Tokens, check_texts
from paritas.errors import BundleError, InputError, ShapeError
from paritas.registry import PRECISIONS, Precision

_log = logging.getLogger("paritas")

# Texts tokenised at a time: enough to keep every CPU of the tokenizer busy, few enough to hold.
_TOKENIZE_CHUNK = 2048


@dataclass(frozen=True, slots=True)
class EncodeStats:
    """What one call of `Encoder.encode` did."""

    texts: int
    tokens: int
    """Without padding."""
    truncated: int
    """Texts that were cut to the role's max_length."""
    padding: int
    """Tokens computed for nothing."""
    batches: int
    tokenize_s: float
    run_s: float
    pool_s: float
    total_s: float

    @property
    def padding_share(self) -> float:
        """Padding among the tokens computed, 0 to 1."""
        return self.padding / (self.tokens + self.padding) if self.tokens else 0.0

    def __add__(self, other: EncodeStats) -> EncodeStats:
        """Return what two calls did together, for streams encoded in parts."""
        return EncodeStats(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))


class LoadedContract(Contract, frozen=True, kw_only=True):
    """What the vectors are, and in which precision and why this encoder makes them."""

    precision: Precision
    reason: str
    """Why this precision: asked for, or chosen by "auto" because of the CPU."""


class Encoder:
    """A loaded bundle. One encoder may be used by many threads at once, pickled and closed."""

    def __init__(
        self,
        model: str | os.PathLike[str] | Bundle,
        *,
        precision: Precision | Literal["auto"] = "fp32",
        provider: str = "cpu",
        threads: int | None = None,
        token_budget: int | None = None,
        max_padding: float | None = None,
    ) -> None:
        """Load a bundle, its files checked against their digests.

        Args:
            model: a registry id whose bundle was exported, a bundle directory, or a bundle already opened,
                whose files are not checked a second time if its `verify` was called.
            precision: "fp32", "fp16", "int8", or "auto": INT8 where the bundle has it and this CPU multiplies
                bytes fast, else FP32. `contract.precision` and `contract.reason` say which and why.
            provider: "cpu", "cuda" or another by name; run there or raise, never fall back.
            threads: threads inside one batch; the CPUs this process may use where None.
            token_budget: most tokens of a batch; 512 on a CPU, 16,384 elsewhere where None.
            max_padding: most padding of a batch, as a share; 0 on a CPU, 0.1 elsewhere where None.

        Raises:
            RegistryError, BundleError: no such model or bundle, a changed file, a missing precision.
            ProviderError: the provider cannot run here.
            InputError: an option out of its range, or INT8 on anything but a CPU.
        """
        _check_options(precision, threads, token_budget, max_padding)
        on_cpu = is_cpu(provider)
        self._arguments: dict[str, Any] = {
            "precision": precision,
            "provider": provider,
            "threads": threads,
            "token_budget": token_budget,
            "max_padding": max_padding,
        }
        self.bundle = model if isinstance(model, Bundle) else Bundle(store.find(model))
        self.precision, reason = _choose(self.bundle, precision, on_cpu=on_cpu)
        self.token_budget = token_budget if token_budget is not None else (512 if on_cpu else 16_384)
        self.max_padding = max_padding if max_padding is not None else (0.0 if on_cpu else 0.1)
        variant = self.bundle.variant(self.precision)
        graph = variant.cpu_graph if on_cpu else variant.graph
        names = [TOKENIZER, graph, *variant.files]
        self.bundle.verify([name for name in names if name not in self.bundle.verified])
        self.contract = LoadedContract(
            **asdict(self.bundle.manifest.contract), precision=self.precision, reason=reason
        )
        self._tokenizer = Tokenizer(self.bundle.directory / TOKENIZER, self.contract.roles)
        self._session: Session | None = Session(
            self.bundle.directory / graph, provider=provider, threads=threads or available_cpus()
        )
        if self._session.dim != self.contract.dim:
            raise BundleError(
                f"{self.bundle.directory / graph}: its vectors have {self._session.dim} dimensions, "
                f"the manifest says {self.contract.dim}"
            )
        self._process = os.getpid()
        self._local = threading.local()

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return self.contract.dim

    @property
    def fingerprint(self) -> str:
        """What determines the vectors, precision aside; see `Bundle.fingerprint`."""
        return self.bundle.fingerprint

    @property
    def family(self) -> str:
        """The precision family: vectors of one family may be searched together."""
        return FAMILIES[self.precision]

    @property
    def last_stats(self) -> EncodeStats | None:
        """What the last `encode` of the calling thread did; None before the first."""
        return getattr(self._local, "stats", None)

    def encode(
        self,
        texts: Iterable[Text],
        *,
        role: str,
        out: NDArray[np.float32] | None = None,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Return one vector a text, in the order given.

        Args:
            texts: a list, tuple, array of strings, generator, ...; each a string or, where the role
                takes pairs, a (title, text) pair.
            role: a role of the model, "query" or "passage" with those of the registry.
            out: an array to fill, float32, (texts, dim), C-contiguous; a new one where None.
            progress: show a bar on standard error.

        Returns:
            float32, (texts, dim); rows of unit length where the model normalises. No texts give (0, dim).

        Raises:
            InputError: a text is not what the role takes (the message gives its place), unknown role.
            ShapeError: `out` does not fit.
            BundleError: the encoder was closed, or loaded before this process was forked.
        """
        started = time.perf_counter()
        session = self._open_session()
        tokens = self._tokenize(texts, role)
        tokenized = time.perf_counter()
        vectors = self._output(out, len(tokens.lengths))
        run_s = pool_s = 0.0
        batches = padding = 0
        with tqdm(total=len(tokens.lengths), unit=" texts", disable=not progress) as bar:
            for batch in plan(tokens.lengths, token_budget=self.token_budget, max_padding=self.max_padding):
                input_ids, mask, type_ids = tokens.arrays(batch.rows, batch.length)
                begun = time.perf_counter()
                hidden = session.run(input_ids, mask, type_ids)
                ran = time.perf_counter()
                vectors[batch.rows] = pool(
                    hidden, mask, pooling=self.contract.pooling, normalized=self.contract.normalize
                )
                run_s += ran - begun
                pool_s += time.perf_counter() - ran
                batches += 1
                padding += batch.cells - int(tokens.lengths[batch.rows].sum())
                bar.update(len(batch.rows))
        self._local.stats = EncodeStats(
            texts=len(tokens.lengths),
            tokens=int(tokens.lengths.sum()),
            truncated=int(tokens.truncated.sum()),
            padding=padding,
            batches=batches,
            tokenize_s=tokenized - started,
            run_s=run_s,
            pool_s=pool_s,
            total_s=time.perf_counter() - started,
        )
        return vectors

    def _tokenize(self, texts: Iterable[Text], role: str) -> Tokens:
        rule = self._tokenizer.role(role)
        parts = []
        first = 0
        for chunk in _chunks(texts, _TOKENIZE_CHUNK):
            parts.append(self._tokenizer.encode(check_texts(chunk, rule, first=first), role))
            first += len(chunk)
        return Tokens.concatenate(parts)

    def _output(self, out: NDArray[np.float32] | None, count: int) -> NDArray[np.float32]:
        shape = (count, self.dim)
        if out is None:
            return np.empty(shape, np.float32)
        if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != np.float32:
            found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ShapeError(f"out is {found}; expected float32 {shape}")
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ShapeError("out must be C-contiguous and writeable")
        return out

    def _open_session(self) -> Session:
        if self._session is None:
            raise BundleError(f"the encoder of {self.bundle.directory} was closed")
        # A forked child has the session but none of its threads: a run would wait for them for ever, and
        # so would freeing the session.
        if self._process != os.getpid():
            raise BundleError(
                f"the encoder of {self.bundle.directory} was loaded before this process was forked; load it "
                "in each process (a server: after the fork), or pickle it to spawned ones"
            )
        return self._session

    def close(self) -> None:
        """Release the session and its memory; runs under way in other threads finish first."""
        self._session = None

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as path and options: the other process loads the bundle anew."""
        return _load, (str(self.bundle.directory.resolve()), self._arguments)

    def __repr__(self) -> str:
        return f"Encoder({str(self.bundle.directory)!r}, precision={self.precision!r})"


def _choose(bundle: Bundle, asked: Precision | Literal["auto"], *, on_cpu: bool) -> tuple[Precision, str]:
    """Return the precision to load and why; log what somebody who is paged would want to know."""
    has = bundle.manifest.precisions
    fast = dot_product(instructions())
    if asked == "auto":
        chosen, reason = _automatic(bundle, fast, on_cpu=on_cpu)
        _log.info("%s: precision %s: %s", bundle.manifest.model, chosen, reason)
    else:
        chosen, reason = asked, "asked for"
    if chosen != "int8":
        return chosen, reason
    if not on_cpu:
        raise InputError('INT8 graphs are for CPUs; take precision="fp16" with this provider')
    if "int8" in has and fast != (certified := dot_product(has["int8"].certificate.instructions)):
        _log.warning(
            "%s: the INT8 certificate was made with %s, this CPU has %s; its integers are the same, %s; "
            "`paritas verify %s` repeats the certificate here",
            bundle.manifest.model,
            certified or "no byte dot product",
            fast or "no byte dot product",
            "computed by other instructions" if fast else "but slower to compute than FP32",
            bundle.directory,
        )
    return chosen, reason


def _automatic(bundle: Bundle, fast: str | None, *, on_cpu: bool) -> tuple[Precision, str]:
    has = bundle.manifest.precisions
    if "int8" not in has or not on_cpu:
        why = "the bundle has no INT8" if on_cpu else "INT8 graphs are for CPUs"
        return ("fp32" if "fp32" in has else next(iter(has))), why
    figures = has["int8"].certificate.figures
    proof = f"certified, mean cosine {figures.mean_cosine:.4f}, smallest {figures.min_cosine:.4f}"
    if fast is not None:
        return "int8", f"{fast} multiplies bytes fast; {proof}"
    slow = (
        f"without a byte dot product ({' '.join(instructions()) or 'no known instructions'}) INT8 is slower"
    )
    if "fp32" in has:
        return "fp32", slow
    return "int8", f"{slow}, but the bundle has no FP32; {proof}"


def _load(model: str, arguments: dict[str, Any]) -> Encoder:
    return Encoder(Path(model), **arguments)


def _check_options(
    precision: str, threads: int | None, token_budget: int | None, max_padding: float | None
) -> None:
    if precision not in (*PRECISIONS, "auto"):
        raise InputError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}, auto")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; expected 1 or more, or None for the CPUs at hand")
    if token_budget is not None and token_budget < 1:
        raise InputError(f"token_budget is {token_budget}; expected 1 or more")
    if max_padding is not None and not 0 <= max_padding < 1:
        raise InputError(f"max_padding is {max_padding}; expected 0 or more and less than 1")


def _chunks(texts: Iterable[Text], size: int) -> Iterator[list[Any]]:
    if isinstance(texts, np.ndarray):
        texts = texts.tolist()
    if isinstance(texts, (str, bytes)):
        raise InputError("texts is a single string; expected several, as in encode([text], role=...)")
    try:
        iterator = iter(texts)
    except TypeError:
        raise InputError(f"texts is {type(texts).__name__}; expected an iterable of strings") from None
    while chunk := list(islice(iterator, size)):
        yield chunk

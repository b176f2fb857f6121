"""The encoder: texts in, vectors out, in the caller's order."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from paritas.engine import options
from paritas.engine.batching import Batch, plan
from paritas.engine.bundle import FAMILIES, Bundle
from paritas.engine.head import Head, cut
from paritas.engine.inputs import listed
from paritas.engine.lookup import find
from paritas.engine.manifest import Contract
from paritas.engine.memory import fit, measure, resident_bytes
from paritas.engine.precision import choose_precision
from paritas.engine.prepared import open_prepared
from paritas.engine.repeats import Repeats
from paritas.engine.runtime import Session, is_cpu
from paritas.engine.settings import Settings, choose_settings, find_tuned
from paritas.engine.stats import EncodeStats, Tally
from paritas.engine.tokenizer import CHUNK_BYTES, Text, Tokenizer, Tokens, check_texts
from paritas.engine.workers import Workers
from paritas.errors import BundleError, RunError, ShapeError
from paritas.registry import Precision

# Texts that are planned together, while the next ones are tokenised: enough that most batches are full, few
# enough to hold.
_WINDOW = 4096
# Two windows of tokens, 8 bytes each, and what the tokenizer is at: for each token of the longest text.
_TOKENS_BYTES = 2 * 8 * _WINDOW + CHUNK_BYTES
# Batches after which a call gives its memory back: fewer are done sooner than it is worth.
_BURST = 16


class LoadedContract(Contract, frozen=True, kw_only=True):
    """What the vectors are, and in which precision and why this encoder makes them."""

    precision: Precision
    reason: str
    """Why this precision: asked for, or chosen by "auto" because of the CPU."""


class _Window(NamedTuple):
    """Distinct texts that are planned together."""

    tokens: Tokens
    rows: NDArray[np.int64]
    """Where their vectors belong, (texts,)."""
    counts: NDArray[np.int64]
    """How often each was given, (texts,)."""
    texts: Sequence[Text]
    prompt_tokens: int
    """Tokens at the beginning of each text that are not pooled."""


class Encoder:
    """A loaded bundle. One encoder may be used by many threads at once, pickled and closed."""

    def __init__(
        self,
        model: str | os.PathLike[str] | Bundle,
        *,
        precision: Precision | Literal["auto"] = "fp32",
        provider: str = "cpu",
        threads: int | None = None,
        workers: int | None = None,
        token_budget: int | None = None,
        max_padding: float | None = None,
        memory_limit: int | str | None = None,
        cache: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        """Load a bundle, its files checked against their digests.

        Args:
            model: what was exported, by registry id, hub id or the checkpoint's directory; a bundle
                directory; or a bundle already opened, whose files are not checked a second time if its
                `verify` was called.
            precision: "fp32", "fp16", "int8", or "auto": INT8 where the bundle has it and this CPU multiplies
                bytes fast, else FP32. `contract.precision` and `contract.reason` say which and why.
            provider: "cpu", "cuda" or another by name; run there or raise, never fall back.
            threads: threads at most, in all; the CPUs this process may use where None.
            workers: batches at most that run side by side, each with threads // workers threads inside; as
                many as threads on a CPU, 1 elsewhere where None. A batch by itself has all threads inside.
            token_budget: most tokens of a batch; 512 on a CPU, 16,384 elsewhere where None. Where this and
                the two above are all None, what `paritas tune` found on this machine; see `settings`.
            max_padding: most padding of a batch, as a share; 0 on a CPU, 0.1 elsewhere where None.
            memory_limit: on a CPU, most memory of the process while it encodes, in bytes or as "512MiB": what
                it holds already counts, the texts and vectors of a call do not. Workers and token budget
                are chosen to keep it. The first load ever of a bundle on a machine may take more.
            cache: on a CPU, keep this machine's form of the graph and what was checked under the store's
                folder `cache`, and use it, as well as what was tuned; see `paritas.engine.prepared`,
                `paritas.engine.checked` and `paritas.engine.settings`.
            truncate_dim: return the first so many channels of each vector, scaled to unit length again where
                the model normalises; for models trained for it (Matryoshka). All of them where None.

        Raises:
            RegistryError, BundleError: no such model or bundle, a changed file, a missing precision.
            ProviderError: the provider cannot run here.
            InputError: an option out of its range, INT8 on anything but a CPU, or a memory limit below the
                least that is needed, which the message gives.
        """
        options.check(precision=precision, provider=provider, max_padding=max_padding, cache=cache)
        threads, workers = options.threads(threads), options.workers(workers)
        token_budget = options.token_budget(token_budget)
        on_cpu = is_cpu(provider)
        limit = options.limit(memory_limit, on_cpu=on_cpu)
        self._arguments: dict[str, Any] = {
            "precision": precision,
            "provider": provider,
            "threads": threads,
            "workers": workers,
            "token_budget": token_budget,
            "max_padding": max_padding,
            "memory_limit": memory_limit,
            "cache": cache,
            "truncate_dim": truncate_dim,
        }
        self.bundle = model if isinstance(model, Bundle) else Bundle(find(model))
        self.precision, reason = choose_precision(self.bundle, precision, on_cpu=on_cpu)
        self.max_padding = max_padding if max_padding is not None else (0.0 if on_cpu else 0.1)
        variant = self.bundle.variant(self.precision)
        graph = variant.graph_for(on_cpu=on_cpu, max_padding=self.max_padding)
        self.bundle.check(self.bundle.needed(variant, graph), remember=cache)
        self.contract = LoadedContract(
            **asdict(self.bundle.manifest.contract), precision=self.precision, reason=reason
        )
        self._head = Head.load(self.contract, self.bundle.directory)
        self.dim = options.dim(truncate_dim, self.contract.dim)
        """The width of the vectors."""
        self._tokenizer = Tokenizer.of(self.bundle.directory, self.contract)
        load = partial(self._load, graph, variant.files, provider, prepare=cache and on_cpu)
        tuned = find_tuned(self.bundle, self.precision) if cache and on_cpu else None
        settings = choose_settings(threads, workers, token_budget, on_cpu=on_cpu, tuned=tuned)
        if limit is None:
            session = load(settings.threads)
        else:
            session, settings = self._within(limit, load, settings)
        self._settings = settings
        self._workers: Workers | None = Workers(
            session, load, threads=settings.threads, workers=settings.workers
        )
        self._process = os.getpid()
        self._local = threading.local()

    def _load(
        self, graph: str, weights: Sequence[str], provider: str, threads: int, *, prepare: bool
    ) -> Session:
        path = self.bundle.directory / graph
        session = open_prepared(self.bundle, graph, weights, threads=threads) if prepare else None
        session = session or Session(path, provider=provider, threads=threads)
        found = self._head.dim(session.dim) if isinstance(session.dim, int) else session.dim
        if found != self.contract.dim:
            raise BundleError(
                f"{path}: its vectors have {found} dimensions, the manifest says {self.contract.dim}"
            )
        return session

    def _within(
        self, limit: int, load: Callable[[int], Session], settings: Settings
    ) -> tuple[Session, Settings]:
        """Load a session, measure it, and return it with settings that keep a limit in bytes."""
        before = resident_bytes()
        session = load(settings.threads)
        needs = measure(
            session,
            before=before,
            longest=max(role.max_length for role in self.contract.roles.values()),
            vocabulary=self._tokenizer.vocabulary,
            tokens_bytes=_TOKENS_BYTES,
        )
        workers, token_budget = fit(
            needs, limit, workers=settings.workers, token_budget=settings.token_budget
        )
        return session, replace(settings, workers=workers, token_budget=token_budget)

    @property
    def fingerprint(self) -> str:
        """What determines the vectors, precision aside; see `Bundle.fingerprint`."""
        return self.bundle.fingerprint

    @property
    def family(self) -> str:
        """The precision family: vectors of one family may be searched together."""
        return FAMILIES[self.precision]

    @property
    def settings(self) -> Settings:
        """The threads, workers and token budget it runs with, and who chose them."""
        return self._settings

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
            RunError: onnxruntime cannot run a text; the message gives its place.
        """
        tally = Tally()
        workers = self._open_workers()
        checked = check_texts(listed(texts), self._tokenizer.role(role))
        tally.add(texts=len(checked))
        vectors = self._output(out, len(checked))
        repeats = Repeats(checked)
        with _bar(len(checked), shown=progress) as advance:
            for window in self._windows(repeats, role, tally):
                lengths = window.tokens.lengths
                batches = plan(lengths, token_budget=self.settings.token_budget, max_padding=self.max_padding)
                workers.run(list(batches), partial(self._run, window, vectors, tally, advance))
        repeats.fill(vectors)
        if tally.batches >= _BURST:
            workers.release()
        self._local.stats = tally.stats()
        return vectors

    def _windows(self, repeats: Repeats, role: str, tally: Tally) -> Iterator[_Window]:
        """Tokenise the distinct texts a window at a time, the next one while the last one runs."""
        texts = repeats.distinct
        prompt_tokens = 0 if self.contract.pool_prompt else self._tokenizer.prompt_tokens(role)
        tokenize = partial(self._tokenizer.encode, role=role)
        parts = [slice(start, start + _WINDOW) for start in range(0, len(texts), _WINDOW)]
        with ThreadPoolExecutor(1) if len(parts) > 1 else nullcontext() as beside:
            coming = deque[Future[Tokens]]()
            for place, part in enumerate(parts):
                begun = time.perf_counter()
                tokens = coming.popleft().result() if coming else tokenize(texts[part])
                counts = repeats.counts[part]
                tally.add(
                    tokens=int(tokens.lengths.sum()),
                    truncated=int(counts[tokens.truncated].sum()),
                    tokenize_s=time.perf_counter() - begun,
                )
                if beside is not None and place + 1 < len(parts):
                    coming.append(beside.submit(tokenize, texts[parts[place + 1]]))
                yield _Window(tokens, repeats.rows[part], counts, texts[part], prompt_tokens)

    def _run(
        self,
        window: _Window,
        vectors: NDArray[np.float32],
        tally: Tally,
        advance: Callable[[int], object],
        session: Session,
        batch: Batch,
    ) -> None:
        begun = time.perf_counter()
        input_ids, mask, type_ids = window.tokens.arrays(batch.rows, batch.length)
        try:
            hidden = session.run(input_ids, mask, type_ids)
        except RunError as error:
            raise _blamed(error, window, batch, session) from error
        ran = time.perf_counter()
        pooled = self._head(hidden, mask, prompt_tokens=window.prompt_tokens)
        vectors[window.rows[batch.rows]] = cut(pooled, self.dim, normalized=self.contract.normalize)
        tally.add(
            batches=1,
            padding=batch.cells - int(window.tokens.lengths[batch.rows].sum()),
            run_s=ran - begun,
            pool_s=time.perf_counter() - ran,
        )
        advance(int(window.counts[batch.rows].sum()))

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

    def _open_workers(self) -> Workers:
        if self._workers is None:
            raise BundleError(f"the encoder of {self.bundle.directory} was closed")
        # A forked child has the session but none of its threads: a run would wait for them for ever, and
        # so would freeing the session.
        if self._process != os.getpid():
            raise BundleError(
                f"the encoder of {self.bundle.directory} was loaded before this process was forked; load it "
                "in each process (a server: after the fork), or pickle it to spawned ones"
            )
        return self._workers

    def close(self) -> None:
        """Release the sessions and their memory; runs under way in other threads finish first."""
        self._workers = None

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


def _load(model: str, arguments: dict[str, Any]) -> Encoder:
    return Encoder(Path(model), **arguments)


def _blamed(error: RunError, window: _Window, batch: Batch, session: Session) -> RunError:
    """Return the error with the text that causes it: the first that fails alone, else the whole batch."""
    for row in batch.rows:
        tokens = window.tokens.arrays(np.array([row]), int(window.tokens.lengths[row]))
        try:
            session.run(*tokens)
        except RunError as own:
            shown = repr(window.texts[row])[:60]
            return RunError(
                f"text {window.rows[row]}, {shown} ({tokens[0].shape[1]} tokens, the highest id "
                f"{tokens[0].max()}): {own}"
            )
    places = ", ".join(str(place) for place in window.rows[batch.rows][:8])
    return RunError(f"texts {places} together ({len(batch.rows)} of {batch.length} tokens): {error}")


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield what is called, from any thread, with the number of texts done."""
    if not shown:
        yield lambda _done: None
        return
    from tqdm import tqdm  # here, for it takes 55 ms to import

    lock = threading.Lock()
    with tqdm(total=total, unit=" texts") as bar:

        def advance(done: int) -> None:
            with lock:
                bar.update(done)

        yield advance

"""The encoder: texts in, vectors out, in the caller's order."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal

import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from paritas.arguments import flag
from paritas.engine import options
from paritas.engine.bundle.directory import FAMILIES, Bundle
from paritas.engine.bundle.lookup import find
from paritas.engine.bundle.manifest import Contract
from paritas.engine.pool.head import Head
from paritas.engine.runtime.memory import fit, measure, resident_bytes
from paritas.engine.runtime.optimized import open_prepared
from paritas.engine.runtime.precision import choose_precision
from paritas.engine.runtime.session import Session, is_cpu
from paritas.engine.schedule.call import TOKENS_BYTES, Call, Encoded, Stages
from paritas.engine.schedule.scheduler import Job, Scheduler
from paritas.engine.schedule.stats import EncodeStats, Tally
from paritas.engine.settings import Settings, choose_settings, find_tuned
from paritas.engine.tokenize.deduplicate import Repeats
from paritas.engine.tokenize.inputs import listed
from paritas.engine.tokenize.tokenizer import Text, Tokenizer, checked_texts
from paritas.errors import BundleError, ShapeError
from paritas.registry import Precision

# Batches after which a call gives its memory back: fewer are done sooner than it is worth.
_BURST = 16
# How often a progress bar moves.
_SHOWN_S = 0.1


class LoadedContract(Contract, frozen=True, kw_only=True):
    """What the vectors are, and in which precision and why this encoder makes them."""

    precision: Precision
    reason: str
    """Why this precision: asked for, or chosen by "auto" because of the CPU."""


@dataclass(frozen=True)
class _Loading:
    """How one graph of a bundle is loaded. It knows no encoder, which the scheduler's threads would keep."""

    bundle: Bundle
    head: Head
    graph: str
    weights: Sequence[str]
    provider: str
    prepare: bool

    def __call__(self, threads: int) -> Session:
        """Return a session with so many threads inside.

        Raises:
            BundleError: another bundle lies in the directory by now, or onnxruntime cannot load the graph.
        """
        session = None
        if self.prepare:
            session = open_prepared(self.bundle, self.graph, self.weights, threads=threads)
        path = self.bundle.directory / self.graph
        if session is None:
            # Not only at first: another bundle may lie there by the time the second session is loaded.
            digests = self.bundle.digests(self.weights)
            opened = partial(Session, path, provider=self.provider, threads=threads, weights=digests)
            session = self.bundle.read([self.graph, *self.weights], opened, remember=self.prepare)
        found = self.head.dim(session.dim) if isinstance(session.dim, int) else session.dim
        dim = self.bundle.manifest.contract.dim
        if found != dim:
            raise BundleError(f"{path}: its vectors have {found} dimensions, the manifest says {dim}")
        return session


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
        max_batch_tokens: int | None = None,
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
            max_batch_tokens: most tokens of a batch; 512 on a CPU, 16,384 elsewhere where None. Where this and
                the two above are all None, what `paritas tune` found on this machine; see `settings`.
            max_padding: most padding of a batch, as a share; 0 on a CPU, 0.1 elsewhere where None.
            memory_limit: on a CPU, most memory of the process while it encodes, in bytes or as "512MiB": what
                it holds already counts, the texts and vectors of a call do not. Workers and token budget
                are chosen to keep it. The first load ever of a bundle on a machine may take more.
            cache: on a CPU, keep this machine's form of the graph and what was checked under the store's
                folder `cache`, and use it, and what was tuned; see `paritas.engine.runtime.optimized`,
                `paritas.engine.bundle.digest_cache` and `paritas.engine.settings`.
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
        max_batch_tokens = options.max_batch_tokens(max_batch_tokens)
        on_cpu = is_cpu(provider)
        limit = options.limit(memory_limit, on_cpu=on_cpu)
        self._arguments: dict[str, Any] = {
            "precision": precision,
            "provider": provider,
            "threads": threads,
            "workers": workers,
            "max_batch_tokens": max_batch_tokens,
            "max_padding": max_padding,
            "memory_limit": memory_limit,
            "cache": cache,
            "truncate_dim": truncate_dim,
        }
        # Absolute: the second session is loaded later, perhaps from another working directory.
        self.bundle = model if isinstance(model, Bundle) else Bundle(find(model).absolute())
        self.precision, reason = choose_precision(self.bundle, precision, on_cpu=on_cpu)
        self.max_padding = max_padding if max_padding is not None else (0.0 if on_cpu else 0.1)
        variant = self.bundle.variant(self.precision)
        graph = variant.graph_for(on_cpu=on_cpu, max_padding=self.max_padding)
        self.contract = LoadedContract(
            **asdict(self.bundle.manifest.contract), precision=self.precision, reason=reason
        )
        needed = self.bundle.needed(variant, graph)
        head, self._tokenizer = self.bundle.read(needed, self._read, remember=cache)
        self.dim = options.dim(truncate_dim, self.contract.dim)
        """The width of the vectors."""
        load = _Loading(self.bundle, head, graph, variant.files, provider, cache and on_cpu)
        tuned = find_tuned(self.bundle, self.precision) if cache and on_cpu else None
        settings = choose_settings(threads, workers, max_batch_tokens, on_cpu=on_cpu, tuned=tuned)
        if limit is None:
            session = load(settings.threads)
        else:
            session, settings = self._within(limit, load, settings)
        self._settings = settings
        self._stages = Stages(
            self.contract,
            self._tokenizer,
            head,
            self.dim,
            settings.max_batch_tokens,
            self.max_padding,
        )
        self._scheduler: Scheduler | None = Scheduler(
            session, load, threads=settings.threads, workers=settings.workers
        )
        self._process = os.getpid()
        self._local = threading.local()

    def _read(self) -> tuple[Head, Tokenizer]:
        directory = self.bundle.directory
        return Head.load(self.contract, directory), Tokenizer.of(directory, self.contract)

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
            tokens_bytes=TOKENS_BYTES,
        )
        workers, max_batch_tokens = fit(
            needs, limit, workers=settings.workers, max_batch_tokens=settings.max_batch_tokens
        )
        return session, replace(settings, workers=workers, max_batch_tokens=max_batch_tokens)

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
        """The threads, workers and max_batch_tokens it runs with, and who chose them."""
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
        shown = flag("progress", progress) and sys.stderr is not None
        scheduler = self._open_scheduler()
        call = self._call(texts, role, out)
        with _watched(call.tally, shown=shown) as watch:
            vectors, stats = call.encode(scheduler, watch)
        if stats.batches >= _BURST:
            scheduler.release()
        self._local.stats = stats
        return vectors

    def submit(
        self, texts: Iterable[Text], *, role: str, out: NDArray[np.float32] | None = None
    ) -> Job[Encoded]:
        """Tokenise texts in the calling thread, and return a job whose result is vectors and statistics.

        For callers that must not wait, such as an event loop: `job.add_done_callback(...)` says when it has
        ended, `job.result()` returns an `Encoded` or raises as `encode` does, and `job.cancel()` takes it
        back. The tokens of all texts are held at once.

        Args:
            texts: as `encode` takes them.
            role: likewise.
            out: likewise; not to be read before the job has ended.

        Raises:
            InputError, ShapeError, BundleError: as `encode`.
        """
        return self._call(texts, role, out).submit(self._open_scheduler())

    def _call(self, texts: Iterable[Text], role: str, out: NDArray[np.float32] | None) -> Call:
        tally = Tally()
        repeats = Repeats(checked_texts(listed(texts), self._tokenizer.role(role)))
        return Call(self._stages, repeats, role, self._output(out, len(repeats)), tally)

    def _output(self, out: NDArray[np.float32] | None, count: int) -> NDArray[np.float32]:
        shape = (count, self.dim)
        if out is None:
            return np.empty(shape, np.float32)
        array = isinstance(out, np.ndarray) and not isinstance(out, np.ma.MaskedArray)
        if not array or out.shape != shape or out.dtype != np.float32:
            found = f"{out.dtype} {out.shape}" if array else type(out).__name__
            raise ShapeError(f"out is {found}; expected float32 {shape}")
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ShapeError("out must be C-contiguous and writeable")
        return out

    def _open_scheduler(self) -> Scheduler:
        if self._scheduler is None:
            raise BundleError(f"the encoder of {self.bundle.directory} was closed")
        # A forked child has the session but none of its threads: a run would wait for them for ever, and
        # so would freeing the session.
        if self._process != os.getpid():
            raise BundleError(
                f"the encoder of {self.bundle.directory} was loaded before this process was forked; load it "
                "in each process (a server: after the fork), or pickle it to spawned ones"
            )
        return self._scheduler

    def close(self) -> None:
        """Release the sessions and their memory; runs under way in other threads finish first."""
        self._scheduler = None

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
        """Pickle as path, options and fingerprint: the other process loads the bundle if it still is that."""
        return _load, (str(self.bundle.directory.resolve()), self._arguments, self.fingerprint)

    def __repr__(self) -> str:
        return f"Encoder({str(self.bundle.directory)!r}, precision={self.precision!r})"


def _load(model: str, arguments: dict[str, Any], fingerprint: str) -> Encoder:
    bundle = Bundle(model)
    if bundle.fingerprint != fingerprint:
        raise BundleError(
            f"{model}: another model's bundle since the encoder was pickled (fingerprint "
            f"{bundle.fingerprint[:12]}, expected {fingerprint[:12]}); load it anew and pickle that"
        )
    return Encoder(bundle, **arguments)


@contextmanager
def _watched(tally: Tally, *, shown: bool) -> Iterator[Callable[[Job[None]], object]]:
    """Yield what waits for a job; where shown, with a bar on standard error of the texts done.

    The bar moves in the caller's thread: it has locks, and the scheduler's threads take none that a caller
    may hold.
    """
    if not shown:
        yield Job.result
        return
    from tqdm import tqdm  # here, for it takes 55 ms to import

    with tqdm(total=tally.texts, unit=" texts") as bar:

        def watch(job: Job[None]) -> None:
            ended = False
            while not ended:
                ended = job.wait(_SHOWN_S)
                bar.update(tally.done - bar.n)
            job.result()

        yield watch

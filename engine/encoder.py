"""The encoder: texts in, vectors out, in the caller's order."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from paritas.arguments import flag
from paritas.engine.bundle.directory import FAMILIES, Bundle
from paritas.engine.bundle.lookup import find
from paritas.engine.loading import load_bundle
from paritas.engine.options import EncoderOptions
from paritas.engine.schedule.call import CountedCall, Encoded, PooledCall, TokenCall
from paritas.engine.schedule.job import Job
from paritas.engine.schedule.scheduler import Scheduler
from paritas.engine.schedule.stats import EncodeStats, Tally
from paritas.engine.settings import Settings
from paritas.engine.tokenize.deduplicate import Deduplicated
from paritas.engine.tokenize.inputs import listed
from paritas.engine.tokenize.tokenizer import Text, checked_texts
from paritas.errors import BundleError, ShapeError
from paritas.registry import Precision

# A call of so many batches gives its memory back at its end. For a shorter call that takes too long.
_BURST = 16
# How often a progress bar moves.
_SHOWN_S = 0.1


class Encoder:
    """A loaded bundle. One encoder may be used by many threads at once, pickled and closed.

    Args:
        model: what was exported, by registry id, hub id or the checkpoint's directory. A bundle's directory
            is taken too, and a bundle already opened: its files are not checked again after its `verify`.
        precision: "fp32", "fp16", "int8" or "auto". "auto" takes INT8 where the bundle has it and this CPU
            multiplies bytes fast, else FP32. `contract.precision` and `contract.reason` say which and why.
        provider: "cpu", "cuda" or another by name; run there or raise, never fall back.
        threads: threads at most, in all; the CPUs this process may use where None.
        workers: batches at most that run side by side, each with threads // workers threads inside. Where
            None: as many as threads on a CPU, 1 elsewhere. A batch by itself has all threads inside.
        max_batch_tokens: most tokens of a batch; 512 on a CPU, 16,384 elsewhere where None. Where this and
            the two above are all None, what `paritas tune` found on this machine; see `settings`.
        max_padding: most padding of a batch, as a share; 0 on a CPU, 0.1 elsewhere where None.
        memory_limit: on a CPU, most memory of the process while it encodes, in bytes or as "512MiB". What
            the process holds already counts; the texts and vectors of a call do not. `workers` and
            `max_batch_tokens` are lowered to keep it. The first load of a bundle on a machine may take more.
        cache: on a CPU, use three things that the store keeps. They are this machine's optimized graph (see
            `paritas.engine.runtime.optimized`), digests of files (`paritas.engine.bundle.digest_cache`) and
            what was tuned (`paritas.engine.tuned`).
        kernels: let paritas's own operators run, where the graph has some and this CPU fits.
            `contract.kernels` and `contract.kernels_reason` say what runs and why.
        truncate_dim: return the first so many channels of each vector; all of them where None. They are
            scaled to unit length again where the model normalises. For models trained for it (Matryoshka).
    """

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
        kernels: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        """Load a bundle, its files checked against their digests.

        Raises:
            RegistryError, BundleError: no such model or bundle, a changed file, a missing precision.
            ProviderError: the provider cannot run here.
            InputError: an option out of its range, INT8 on anything but a CPU, or a memory limit that is
                too small. The message says how much is needed.
        """
        self._options = EncoderOptions(
            precision=precision,
            provider=provider,
            threads=threads,
            workers=workers,
            max_batch_tokens=max_batch_tokens,
            max_padding=max_padding,
            memory_limit=memory_limit,
            cache=cache,
            kernels=kernels,
            truncate_dim=truncate_dim,
        )
        self._load(model)

    def _load(self, model: str | os.PathLike[str] | Bundle) -> None:
        # Absolute: the second session is loaded later, perhaps from another working directory.
        self.bundle = model if isinstance(model, Bundle) else Bundle(find(model).absolute())
        loaded = load_bundle(self.bundle, self._options)
        self.contract, self.stages, self._settings = loaded.contract, loaded.stages, loaded.settings
        self.precision = loaded.contract.precision
        self.dim = loaded.stages.dim
        """The width of the vectors."""
        self.max_padding = loaded.stages.max_padding
        """Most padding of a batch, as a share."""
        self._scheduler: Scheduler | None = Scheduler(
            loaded.session, loaded.load, threads=loaded.settings.threads, workers=loaded.settings.workers
        )
        self._process = os.getpid()
        self._local = threading.local()

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
        scheduler = self.scheduler()
        call = self.call(texts, role, out)
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

        For callers that must not wait, such as an event loop. `job.add_done_callback(...)` says when it has
        ended. `job.result()` returns an `Encoded` or raises as `encode` does. `job.cancel()` takes it back.
        The tokens of all texts are held at once.

        Args:
            texts: as `encode` takes them.
            role: likewise.
            out: likewise; not to be read before the job has ended.

        Raises:
            InputError, ShapeError, BundleError: as `encode`.
        """
        return self.call(texts, role, out).submit(self.scheduler())

    def encode_tokens(self, texts: Iterable[Text], *, role: str) -> list[NDArray[np.float32]]:
        """Return the vector of each token, before pooling: for late interaction, or pooling of your own.

        Certificates are of pooled vectors and say nothing of these.

        Args:
            texts: as `encode` takes them.
            role: likewise.

        Returns:
            For each text float32, (tokens, width), special tokens and the prompt's included.

        Raises:
            InputError: as `encode`, or the model pools the first token alone and computes no other.
            BundleError, RunError: as `encode`.
        """
        vectors, self._local.stats = self.token_call(texts, role).encode(self.scheduler())
        return vectors

    def call(self, texts: Iterable[Text], role: str, out: NDArray[np.float32] | None = None) -> PooledCall:
        """Return what takes texts through the stages; arguments and errors as `encode`."""
        distinct = self._distinct(texts, role)
        return PooledCall(self.stages, distinct, role, self._output(out, len(distinct)))

    def counted_call(self, texts: Iterable[Text], role: str) -> CountedCall:
        """Return what takes texts to vectors and counts the tokens of each; otherwise as `call`."""
        return CountedCall(self.stages, self._distinct(texts, role), role)

    def token_call(self, texts: Iterable[Text], role: str) -> TokenCall:
        """Return what takes texts to their tokens' vectors; arguments and errors as `encode_tokens`."""
        return TokenCall(self.stages, self._distinct(texts, role), role)

    def _distinct(self, texts: Iterable[Text], role: str) -> Deduplicated:
        return Deduplicated(checked_texts(listed(texts), self.stages.tokenizer.role(role)))

    def _output(self, out: NDArray[np.float32] | None, count: int) -> NDArray[np.float32]:
        shape = (count, self.dim)
        if out is None:
            return np.empty(shape, np.float32)
        array = isinstance(out, np.ndarray) and not isinstance(out, np.ma.MaskedArray)
        if not array or out.shape != shape or out.dtype != np.float32:
            given = f"{out.dtype} {out.shape}" if array else type(out).__name__
            raise ShapeError(f"out is {given}; expected float32 {shape}")
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ShapeError("out must be C-contiguous and writeable")
        return out

    def scheduler(self) -> Scheduler:
        """Return where batches run.

        Raises:
            BundleError: the encoder was closed, or loaded before this process was forked.
        """
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
        return _unpickled, (str(self.bundle.directory.resolve()), self._options, self.fingerprint)

    def __repr__(self) -> str:
        return f"Encoder({str(self.bundle.directory)!r}, precision={self.precision!r})"


def _unpickled(model: str, options: EncoderOptions, fingerprint: str) -> Encoder:
    bundle = Bundle(model)
    if bundle.fingerprint != fingerprint:
        raise BundleError(
            f"{model}: another model's bundle since the encoder was pickled (fingerprint "
            f"{bundle.fingerprint[:12]}, expected {fingerprint[:12]}); load it anew and pickle that"
        )
    return Encoder(bundle, **asdict(options))


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

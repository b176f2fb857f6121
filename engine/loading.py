"""From a bundle and an encoder's options to what encodes: stages, settings and sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import asdict, replace

from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import Contract
from paritas.engine.options import EncoderOptions
from paritas.engine.pool.head import Head
from paritas.engine.runtime.kernels import Kernels, kernels_for
from paritas.engine.runtime.memory import fit, measure, resident_bytes
from paritas.engine.runtime.optimized import open_optimized
from paritas.engine.runtime.precision import choose_precision
from paritas.engine.runtime.session import Session
from paritas.engine.schedule.call import TOKENS_BYTES, Stages
from paritas.engine.settings import Settings, choose_settings
from paritas.engine.tokenize.tokenizer import Tokenizer
from paritas.engine.tuned import find_tuned
from paritas.errors import BundleError
from paritas.registry import Precision


class LoadedContract(Contract, frozen=True, kw_only=True):
    """What the vectors are, in which precision this encoder makes them, by whose kernels, and why."""

    precision: Precision
    reason: str
    """Why this precision: asked for, or chosen by "auto" because of the CPU."""
    kernels: str
    """The instruction set of paritas's own kernels, or "onnxruntime" where all are its own."""
    kernels_reason: str


@dataclass(frozen=True)
class GraphLoader:
    """Loads sessions of one graph. It knows no encoder, which the scheduler's threads would keep."""

    bundle: Bundle
    head: Head
    graph: str
    weights: Sequence[str]
    provider: str
    use_cache: bool
    kernels: Kernels

    def __call__(self, threads: int) -> Session:
        """Return a session with so many threads inside.

        Raises:
            BundleError: another bundle lies in the directory by now, or onnxruntime cannot load the graph.
        """
        session = None
        if self.use_cache:
            session = open_optimized(self.bundle, self.graph, self.weights, self.kernels, threads=threads)
        if session is None:
            session = self._as_exported(threads)
        self._check_dim(session)
        return session

    def _as_exported(self, threads: int) -> Session:
        # Not only at first: another bundle may lie there by the time the second session is loaded.
        digests = self.bundle.digests(self.weights)
        load = partial(
            Session,
            self._path,
            provider=self.provider,
            threads=threads,
            weights=digests,
            kernels=self.kernels.own,
        )
        return self.bundle.read([self.graph, *self.weights], load, use_cache=self.use_cache)

    def _check_dim(self, session: Session) -> None:
        width = self.head.dim(session.dim) if isinstance(session.dim, int) else session.dim
        dim = self.bundle.manifest.contract.dim
        if width != dim:
            raise BundleError(f"{self._path}: its vectors have {width} dimensions, the manifest says {dim}")

    @property
    def _path(self) -> Path:
        return self.bundle.directory / self.graph


class Loaded(NamedTuple):
    """What encodes."""

    contract: LoadedContract
    stages: Stages
    settings: Settings
    session: Session
    """With all threads inside."""
    load: GraphLoader
    """For a session with fewer."""


def load_bundle(bundle: Bundle, options: EncoderOptions) -> Loaded:
    """Read a bundle's files, choose the settings, and load the first session.

    Raises:
        BundleError: a changed file, or a missing precision.
        ProviderError: the provider cannot run here.
        InputError: INT8 on anything but a CPU, `truncate_dim` beyond the vectors' width, or a memory limit
            below the least that is needed.
    """
    on_cpu, use_cache = options.on_cpu, options.cache and options.on_cpu
    precision, reason = choose_precision(bundle, options.precision, on_cpu=on_cpu, own=options.kernels)
    variant = bundle.variant(precision)
    graph = variant.graph_for(on_cpu=on_cpu, max_padding=options.padding)
    kernels = kernels_for(variant, own=options.kernels and on_cpu)
    contract = LoadedContract(
        **asdict(bundle.manifest.contract),
        precision=precision,
        reason=reason,
        kernels=kernels.name,
        kernels_reason=kernels.reason,
    )
    files = bundle.needed(variant, graph)
    head, tokenizer = bundle.read(files, partial(_read, bundle, contract), use_cache=options.cache)
    dim = options.dim(contract.dim)
    load = GraphLoader(bundle, head, graph, variant.files, options.provider, use_cache, kernels)
    # What was tuned is of the kernels that run here by default.
    tuned = find_tuned(bundle, precision) if use_cache and kernels == kernels_for(variant) else None
    settings = choose_settings(
        options.threads,
        options.workers,
        options.max_batch_tokens,
        on_cpu=on_cpu,
        tuned=tuned.settings if tuned is not None else None,
    )
    session, settings = _load_within(options.limit_bytes, load, settings, contract, tokenizer)
    stages = Stages(contract, tokenizer, head, dim, settings.max_batch_tokens, options.padding)
    return Loaded(contract, stages, settings, session, load)


def _read(bundle: Bundle, contract: Contract) -> tuple[Head, Tokenizer]:
    return Head.load(contract, bundle.directory), Tokenizer.of(bundle.directory, contract)


def _load_within(
    limit_bytes: int | None,
    load: GraphLoader,
    settings: Settings,
    contract: Contract,
    tokenizer: Tokenizer,
) -> tuple[Session, Settings]:
    """Load a session; where there is a limit, measure it, and return settings that keep the limit."""
    if limit_bytes is None:
        return load(settings.threads), settings
    before = resident_bytes()
    session = load(settings.threads)
    needs = measure(
        session,
        before=before,
        longest=max(role.max_length for role in contract.roles.values()),
        vocabulary=tokenizer.vocabulary,
        tokens_bytes=TOKENS_BYTES,
    )
    workers, max_batch_tokens = fit(
        needs, limit_bytes, workers=settings.workers, max_batch_tokens=settings.max_batch_tokens
    )
    return session, replace(settings, workers=workers, max_batch_tokens=max_batch_tokens)

"""The certificate: how far a bundle's vectors are from its reference's, and whether that is allowed."""

from __future__ import annotations

import datetime
import itertools
import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from paritas import __version__, files
from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import PROBES, REFERENCE, TOKENIZER, Certificate, Contract, Figures
from paritas.engine.encoder import Encoder
from paritas.engine.runtime.cpus import cpu_name, instructions
from paritas.engine.runtime.kernels import kernels_for
from paritas.engine.runtime.optimized import has_optimized
from paritas.engine.runtime.session import is_cpu
from paritas.engine.tokenize.tokenizer import Tokenizer, check_texts
from paritas.errors import BundleError, ParityError
from paritas.export.certificate.probes import Probe
from paritas.registry import Bound, Precision

# Padded batches, which CPUs run in a graph of their own, are proven by the longest probe, beside others that
# are padded to its length, and by those of up to so many characters, a dozen tokens or so. To pad all of them
# would double the time.
_PADDED_CHARACTERS = 60
_PADDED: dict[str, Any] = {"max_padding": 0.99, "max_batch_tokens": 1024}
# Upper ends of the lengths, in tokens, by which the figures are told apart.
_LENGTHS = (0, 16, 64, 128, 256, 512, 8192)
# Texts an error names.
_SHOWN = 3


def compare(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> Figures:
    """Return the distance of vectors from a reference, row by row; both float32, (probes, dim).

    Differences are in units of the reference vector's length, which is 1 where the model normalises. The
    worst probe is the one of the largest difference. A row that is not finite counts as infinitely far.
    """
    difference, cosine = _distances(vectors, reference)
    return Figures(
        probes=len(cosine),
        max_abs_diff=float(difference.max()),
        min_cosine=float(cosine.min()),
        p1_cosine=float(np.quantile(cosine, 0.01)),
        mean_cosine=float(cosine.mean()),
        worst_probe=int(difference.argmax()),
    )


def _distances(
    vectors: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each row's largest difference, infinite where it is not finite, and its cosine."""
    ours, theirs = vectors.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities; they are dealt with below
        lengths = np.linalg.norm(theirs, axis=1)
        difference = np.abs(ours - theirs).max(axis=1) / np.maximum(lengths, 1e-30)
        products = np.linalg.norm(ours, axis=1) * lengths
        cosine = np.einsum("ij,ij->i", ours, theirs) / np.maximum(products, 1e-30)
    return np.where(np.isfinite(difference), difference, np.inf), np.where(np.isfinite(cosine), cosine, -1.0)


def compare_tokens(
    tokenizer: Tokenizer, contract: Contract, probes: Sequence[Probe], model: str, reader: str
) -> None:
    """Hold the engine's tokens against those of the second reading that the probes carry.

    Args:
        tokenizer: the engine's.
        contract: the bundle's.
        probes: those without tokens are passed over.
        model: what the message calls the model.
        reader: what it calls the second reading.

    Raises:
        ParityError: ids, token types or the length of a prompt differ; names the text and the place.
    """
    for role, rule in contract.roles.items():
        chosen = [probe for probe in probes if probe.role == role and probe.input_ids]
        if not chosen:
            continue
        tokens = tokenizer.encode(check_texts([probe.text for probe in chosen], rule), role)
        ends = np.cumsum(tokens.lengths)
        prompt_tokens = 0 if contract.pool_prompt else tokenizer.prompt_tokens(role)
        for probe, end, length in zip(chosen, ends, tokens.lengths, strict=True):
            ours = tokens.input_ids[end - length : end].tolist()
            types = tokens.token_type_ids[end - length : end].tolist()
            for what, found, expected in (
                ("token ids", ours, probe.input_ids),
                ("token types", types, probe.token_type_ids),
                ("prompt tokens", [prompt_tokens], [probe.prompt_tokens]),
            ):
                if found != expected:
                    raise ParityError(
                        f"{model}: role {role}, {repr(probe.text)[:60]}: the engine has {what} "
                        f"{_first(found, expected)} to {reader}; please report it, with the checkpoint's name"
                    )


def _first(ours: Sequence[int], expected: Sequence[int]) -> str:
    """Return where two sequences part."""
    pairs = itertools.zip_longest(ours, expected)
    place, (one, other) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"{one} at place {place}, and {other}"


def certify(
    bundle: Bundle,
    precision: Precision,
    probes: Sequence[Probe],
    reference: NDArray[np.float32],
    *,
    bound: Bound,
    reference_name: str,
    tokens: str = "",
    provider: str = "cpu",
) -> Certificate:
    """Encode the probes, some a second time in padded batches, and hold them against reference and bound.

    Where paritas's own kernels run, all of it is done with them and without.

    Args:
        bundle: the graphs; it may be a draft.
        precision: which of them.
        probes: what is encoded.
        reference: float32, (probes, dim), what the vectors should be.
        bound: how far they may be from it.
        reference_name: what the certificate calls the reference.
        tokens: what it calls the second reading whose tokens the probes carry.
        provider: where to run; see `Encoder`.

    Raises:
        ParityError: outside the bound; names the precision, the figure and the worst probe.
        ProviderError: the provider cannot run here.
    """
    contract = bundle.manifest.contract
    tokenizer = bundle.read([TOKENIZER], partial(Tokenizer.of, bundle.directory, contract), use_cache=False)
    compare_tokens(tokenizer, contract, probes, bundle.manifest.model, tokens or "the reference")
    lengths = _lengths(tokenizer, bundle, probes)
    every = list(range(len(probes)))
    short = [row for row, probe in enumerate(probes) if len(str(probe.text)) <= _PADDED_CHARACTERS]
    padded = [*short, int(lengths.argmax())]
    runs: tuple[tuple[list[int], dict[str, Any]], ...] = ((every, {}), (padded, _PADDED))
    parts, kernels = [], []
    for own, (chosen, batches) in itertools.product(_forms(bundle, precision), runs):
        options = {"precision": precision, "provider": provider, "kernels": own, **batches}
        with Encoder(bundle, cache=False, **options) as encoder:
            parts.append(encode_probes(encoder, [probes[row] for row in chosen]))
            kernels.append(encoder.contract.kernels)
    vectors = np.concatenate(parts)
    rows = np.resize(every + padded, len(vectors))
    expected = reference[rows]

    def figures_of(part: NDArray[np.bool_]) -> Figures:
        figures = compare(vectors[part], expected[part])
        return msgspec.structs.replace(
            figures, probes=len(np.unique(rows[part])), worst_probe=int(rows[part][figures.worst_probe])
        )

    figures = figures_of(np.ones(len(rows), bool))
    if faults := _faults(figures, bound):
        order = np.argsort(-_distances(vectors, expected)[0], kind="stable")
        worst = list(dict.fromkeys(rows[order].tolist()))[:_SHOWN]
        raise ParityError(
            f"{bundle.manifest.model} {precision}: {' and '.join(faults)} over {figures.probes} probes; "
            f"worst: {_named(probes, worst)}"
        )
    roles = np.array([probes[row].role for row in rows])
    lengths = lengths[rows]
    return Certificate(
        reference=reference_name,
        bound=bound,
        figures=figures,
        by_role={role: figures_of(roles == role) for role in dict.fromkeys(roles.tolist())},
        by_length={
            f"{first + 1}-{last}": figures_of((lengths > first) & (lengths <= last))
            for first, last in itertools.pairwise(_LENGTHS)
            if ((lengths > first) & (lengths <= last)).any()
        },
        cpu=cpu_name(),
        instructions=instructions(),
        versions=versions(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        tokens=tokens,
        kernels=list(dict.fromkeys(kernels)),
    )


def _forms(bundle: Bundle, precision: Precision) -> list[bool]:
    """Return with and without paritas's kernels, where they run: a bundle serves machines of both kinds."""
    return [True, False] if kernels_for(bundle.variant(precision)).own else [False]


def _named(probes: Sequence[Probe], rows: Sequence[int]) -> str:
    """Return probes as a message names them."""
    return "; ".join(f"#{row}, role {probes[row].role}, {repr(probes[row].text)[:60]}" for row in rows)


def worse(*certificates: Certificate) -> Certificate:
    """Return the certificate that is further off, by the figure its bound is on."""

    def distance(certificate: Certificate) -> float:
        figures = certificate.figures
        return figures.max_abs_diff if certificate.bound.min_cosine is None else 1 - figures.min_cosine

    return max(certificates, key=distance)


def encode_probes(encoder: Encoder, probes: Sequence[Probe]) -> NDArray[np.float32]:
    """Return the encoder's vectors of the probes, role by role, in the probes' order."""
    vectors = np.empty((len(probes), encoder.dim), np.float32)
    for role in dict.fromkeys(probe.role for probe in probes):
        rows = [row for row, probe in enumerate(probes) if probe.role == role]
        vectors[rows] = encoder.encode([probes[row].text for row in rows], role=role)
    return vectors


def _faults(figures: Figures, bound: Bound) -> list[str]:
    faults = []
    if bound.max_abs_diff is not None and not figures.max_abs_diff <= bound.max_abs_diff:
        faults.append(f"largest difference {figures.max_abs_diff:.3g} > {bound.max_abs_diff:g}")
    if bound.min_cosine is not None and not figures.min_cosine >= bound.min_cosine:
        faults.append(f"smallest cosine {figures.min_cosine:.6f} < {bound.min_cosine:g}")
    if bound.mean_cosine is not None and not figures.mean_cosine >= bound.mean_cosine:
        faults.append(f"mean cosine {figures.mean_cosine:.6f} < {bound.mean_cosine:g}")
    return faults


def _lengths(tokenizer: Tokenizer, bundle: Bundle, probes: Sequence[Probe]) -> NDArray[np.int64]:
    """Return each probe's tokens."""
    roles = bundle.manifest.contract.roles
    lengths = np.zeros(len(probes), np.int64)
    for name, rule in roles.items():
        rows = [row for row, probe in enumerate(probes) if probe.role == name]
        lengths[rows] = tokenizer.encode(check_texts([probes[row].text for row in rows], rule), name).lengths
    return lengths


def save_reference(directory: Path, probes: Sequence[Probe], reference: NDArray[np.float32]) -> None:
    """Keep probes and reference vectors in the bundle, so that it can be verified wherever it goes."""
    (directory / PROBES).write_bytes(msgspec.json.format(msgspec.json.encode(list(probes)), indent=1))
    np.save(directory / REFERENCE, reference, allow_pickle=False)


def load_reference(bundle: Bundle) -> tuple[list[Probe], NDArray[np.float32]]:
    """Return the probes and the reference vectors a bundle carries.

    Raises:
        BundleError: they are missing, changed or do not fit each other.
    """
    bundle.verify([PROBES, REFERENCE])
    probes, reference = bundle.read([PROBES, REFERENCE], partial(_read_reference, bundle.directory))
    expected = (len(probes), bundle.manifest.contract.dim)
    if reference.shape != expected:
        raise BundleError(f"{bundle.directory / REFERENCE}: shape {reference.shape}, expected {expected}")
    return probes, reference


def _read_reference(directory: Path) -> tuple[list[Probe], NDArray[np.float32]]:
    try:
        probes = msgspec.json.decode(files.read(directory / PROBES), type=list[Probe])
        return probes, np.load(directory / REFERENCE, allow_pickle=False)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise BundleError(f"{directory}: {PROBES} or {REFERENCE} cannot be read: {error}") from error


def verify(
    bundle: Bundle,
    reference: NDArray[np.float32] | None = None,
    *,
    provider: str = "cpu",
) -> dict[Precision, Certificate]:
    """Certify every precision of a bundle anew, on this machine, from the files as they are.

    Args:
        bundle: every file of it is checked against its digest first.
        reference: float32, (probes, dim), vectors to compare with instead of those the bundle carries.
        provider: where to run; see `Encoder`. INT8 is for CPUs and left out elsewhere.

    Raises:
        BundleError: a file is missing or changed, in the bundle or in an optimized form of it.
        ParityError: a precision is outside its bound here.
        ProviderError: the provider cannot run here.
    """
    bundle.verify()
    for variant in bundle.manifest.precisions.values():
        for graph in set(variant.names()) - set(variant.files):
            has_optimized(bundle, graph, variant.files, kernels_for(variant), use_cache=False)
    probes, stored = load_reference(bundle)
    certificates: dict[Precision, Certificate] = {}
    for precision, variant in bundle.manifest.precisions.items():
        certified = variant.certified
        if precision == "int8" and not is_cpu(provider):
            continue
        certificates[precision] = certify(
            bundle,
            precision,
            probes,
            stored if reference is None else reference,
            bound=certified.bound,
            reference_name=certified.reference if reference is None else "PyTorch float32",
            tokens=certified.tokens,
            provider=provider,
        )
    return certificates


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    import onnxruntime
    import tokenizers

    return {
        "paritas": __version__,
        "onnxruntime": onnxruntime.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

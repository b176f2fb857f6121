"""From a model's name to a certified bundle, or to nothing at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from paritas.arguments import not_utf8, pathname, wrong
from paritas.engine.bundle.digests import digest
from paritas.engine.bundle.directory import MANIFEST, Bundle, file_names
from paritas.engine.bundle.manifest import (
    FORMAT,
    MODULES,
    PROBES,
    REFERENCE,
    TOKENIZER,
    Certificate,
    Figures,
    FileEntry,
    Manifest,
    Quantization,
    Source,
    Variant,
    manifest_bytes,
)
from paritas.engine.runtime.cpus import instructions
from paritas.engine.tokenize.tokenizer import Tokenizer
from paritas.errors import BundleError, ExportError, StoreError
from paritas.export.certificate.certify import certify, compare_tokens, save_reference, versions, worse
from paritas.export.certificate.probes import Probe, probes, spellings, tokenized
from paritas.export.certificate.reference import reference_numpy, reference_torch
from paritas.export.certificate.retrieval import JudgedCollection, compare_retrieval, read_collection
from paritas.export.checkpoint.facts import Facts, read_facts
from paritas.export.checkpoint.sources import Checkpoint, Named, open_checkpoint, pin, resolve
from paritas.export.contract import Agreed, Frontend, agree
from paritas.export.fp16.half import half_compute, half_weights
from paritas.export.fp16.simulate import simulate_fp16
from paritas.export.graph.optimum import export_optimum
from paritas.export.graph.passes.attention import fuse_attention
from paritas.export.graph.passes.unpadded import without_mask
from paritas.export.graph.weights_file import WeightsFile
from paritas.export.int8.calibration import Calibration, built_in_texts, open_calibration
from paritas.export.int8.quantize import quantize
from paritas.export.networks.graph import export_native
from paritas.export.second_reading.reading import SecondReading, open_second_reading
from paritas.registry import PRECISIONS, Bound, Precision, Registry, load_registry
from paritas.workplace import put, workplace

_FILES: dict[Precision, tuple[str, str, str]] = {
    # graph, graph for CPUs, weights
    "fp32": ("model.fp32.onnx", "model.fp32.onnx", "model.fp32.onnx.data"),
    "fp16": ("model.fp16.onnx", "model.fp16.cpu.onnx", "model.fp16.onnx.data"),
    "int8": ("model.int8.onnx", "model.int8.onnx", "model.int8.onnx.data"),
}
_UNPADDED = "model.{precision}.equal_length.onnx"
# What stands in for an accelerator while FP16 is certified; it does not stay in the bundle.
_SIMULATED = "model.fp16.rounded.onnx"


def export_model(
    name: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    frontend: Frontend = "native",
    calibration: str | os.PathLike[str] | None = None,
    judgements: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    report: Callable[[str], None] = lambda _step: None,
) -> Bundle:
    """Export a model into a bundle, certify it, and put it in place whole.

    Args:
        name: a registry id, a hub id (owner/name or owner/name@revision), or a checkpoint's directory.
        source: of a registry id: "hub", "package" or a checkpoint directory; where None the package if
            installed, else the hub.
        pooling: how vectors are pooled, for a checkpoint that does not say; see `paritas.registry.POOLINGS`.
        precisions: one or more of "fp32", "fp16", "int8".
        frontend: "native" (BERT, MPNet, RoBERTa, XLM-R and CamemBERT, no torch) or "optimum" (any network
            that optimum-onnx knows).
        calibration: a file of texts like those to be encoded, one a line, for INT8; built-in ones take part
            too, and alone where None. A few hundred lines are enough.
        judgements: a collection in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv);
            certificates then say what a precision costs a search over it.
        out: the bundle directory; the store's place for this model where None. A bundle that is already
            there is replaced once the new one is certified.
        registry: the models; the built-in ones and PARITAS_REGISTRY's where None.
        report: called with a line of text at each step.

    Raises:
        RegistryError: unknown model.
        SourceError: the checkpoint cannot be fetched, read or trusted.
        ExportError: it cannot be exported, or an option of it; ParityError: tokens or vectors are not the
            checkpoint's.
        InputError: an option of a wrong type; the calibration file or the judgements cannot be read, or hold
            too little.
        MissingExtraError: an optional dependency is absent.
    """
    precisions = _check_types(
        precisions, registry, report, source=source, calibration=calibration, judgements=judgements, out=out
    )
    source = os.fspath(source) if source is not None else None
    named = resolve(name, registry if registry is not None else load_registry(), source)
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ExportError(f"unknown precision {precision!r}; expected {', '.join(PRECISIONS)}")
    if not precisions:
        raise ExportError(f"no precision given; expected one or more of {', '.join(PRECISIONS)}")
    if calibration is not None and "int8" not in precisions:
        raise ExportError("calibration is for int8; add it to the precisions")
    if not isinstance(frontend, str) or frontend not in get_args(Frontend):
        raise ExportError(f"unknown frontend {frontend!r}; expected {' or '.join(get_args(Frontend))}")
    collection = read_collection(Path(judgements)) if judgements is not None else None
    if collection is not None and not ("fp32" in precisions and len(set(precisions)) > 1):
        raise ExportError("judgements compare with FP32; ask for fp32 and another precision")
    # Resolved, so that a link's target is replaced and not the link, and "." has a name.
    target = (Path(out) if out is not None else named.bundle).resolve()
    _check_target(target)
    with open_checkpoint(named.name, named.model, named.source) as checkpoint, _workplace(target) as work:
        report(f"{named.name}: {checkpoint.kind} {checkpoint.location} {checkpoint.revision or ''}".rstrip())
        facts = read_facts(checkpoint.directory)
        agreed = agree(named.name, named.model, facts, frontend, pooling)
        try:
            build = _Build(named, checkpoint, facts, agreed, frontend, precisions, calibration, work, report)
            build.write(collection)
        except BundleError as error:
            raise ExportError(f"{named.name}: the exported graph does not run: {error}") from error
        pin(named.name, checkpoint)
        _check_target(target)  # files may have come there meanwhile
        _replace(work, target)
    return Bundle(target)


def _check_types(
    precisions: Any, registry: Any, report: Any, **paths: str | os.PathLike[str] | None
) -> list[Precision]:
    """Refuse what is of a wrong type, and return the precisions as a list."""
    for option, value in paths.items():
        if value is not None:
            pathname(option, value, "a path, or None")
    if registry is not None and not isinstance(registry, Registry):
        raise wrong("registry", registry, "what load_registry(path) returns, or None")
    if not callable(report):
        raise wrong("report", report, "a function that takes a line, such as print")
    if isinstance(precisions, str) or not isinstance(precisions, Iterable):
        raise wrong("precisions", precisions, 'several, as in precisions=["fp32"]')
    return list(precisions)


class _Build:
    """One bundle under construction in a directory of its own."""

    def __init__(
        self,
        named: Named,
        checkpoint: Checkpoint,
        facts: Facts,
        agreed: Agreed,
        frontend: Frontend,
        precisions: Sequence[Precision],
        calibration: str | os.PathLike[str] | None,
        directory: Path,
        report: Callable[[str], None],
    ) -> None:
        self.named, self.model, self.checkpoint, self.frontend = named, named.model, checkpoint, frontend
        self.facts, self.agreed, self.contract = facts, agreed, agreed.contract
        self.precisions = [precision for precision in PRECISIONS if precision in precisions]
        self.directory, self.report = directory, report
        self.entries: dict[str, FileEntry] = {}
        (directory / TOKENIZER).write_bytes(facts.tokenizer.content)
        if self.contract.weighted:
            np.savez(directory / MODULES, allow_pickle=False, **facts.weights)
        self.tokenizer = Tokenizer.of(directory, self.contract)
        facts.check_rows(self.tokenizer.tokens)
        self.calibration: Calibration | None = None
        if "int8" in precisions:  # first of all: a file that will not do costs nobody a minute
            file = os.fspath(calibration) if calibration is not None else None
            self.calibration = open_calibration(file, self.tokenizer, self.contract.roles)
        self.quantization: Quantization | None = None
        self.unpadded: dict[Precision, str] = {}
        """By precision: the graph for CPUs where no batch is padded."""

    def write(self, collection: JudgedCollection | None = None) -> None:
        reading = open_second_reading(self.facts.directory, lowercase=self.facts.lowercase)
        chosen = self.probes(reading)
        self.report(f"tokens: as {reading.name} has them")
        self.report(f"graph: {self.frontend} front-end")
        self.report(f"reference: {len(chosen)} probes through the checkpoint")
        with ThreadPoolExecutor(1) as pool:
            # Digests, and much of the reference, are work for one core: 3 s less of 18 side by side.
            judging = pool.submit(reference_numpy, self.facts, self.contract, chosen)
            self.graphs()
            for precision in self.precisions:
                self.entry(_FILES[precision][2])
        reference, reference_name = self.reference(chosen, judging)
        save_reference(self.directory, chosen, reference)
        certificates: dict[Precision, Certificate] = {}
        for precision in self.precisions:
            certificate = self.certify(precision, chosen, reference, reference_name)
            certificates[precision] = msgspec.structs.replace(certificate, tokens=reading.name)
            self.report(f"certified: {precision}")
        (self.directory / _SIMULATED).unlink(missing_ok=True)
        self.manifest({name: self.variant(name, certificates[name]) for name in self.precisions})
        if collection is not None:
            self.report(f"judging: {len(collection.documents)} documents, {len(collection.queries)} queries")
            for name, judged in compare_retrieval(self.opened(), self.precisions, collection).items():
                certificates[name] = msgspec.structs.replace(certificates[name], retrieval=judged)
            self.manifest({name: self.variant(name, certificates[name]) for name in self.precisions})

    def probes(self, reading: SecondReading) -> list[Probe]:
        """Return probes with their tokens, which the engine's were found to be, for many more texts too."""
        roles, paragraphs = self.contract.roles, built_in_texts("certificate")
        # Those of the files too: what the engine lost, it cannot name.
        tokens = list(dict.fromkeys([*self.facts.tokenizer.named, *self.tokenizer.added]))
        chosen = probes(roles, paragraphs if self.calibration else (), tokens)
        more = spellings(roles, tokens, [*paragraphs, *built_in_texts("calibration")])
        chosen, more = (tokenized(part, self.contract, reading) for part in (chosen, more))
        compare_tokens(self.tokenizer, self.contract, [*chosen, *more], self.named.name, reading.name)
        return chosen

    def graphs(self) -> None:
        graph, _, weights = _FILES["fp32"]
        with WeightsFile(self.directory / weights) as file:
            model, calibrated = self.front_end(file)
        _save(model, self.directory / graph)
        if "fp16" in self.precisions:
            graph16, cpu_graph16, weights16 = _FILES["fp16"]
            with WeightsFile(self.directory / weights16) as file:
                _save(half_weights(model, self.directory, file), self.directory / cpu_graph16)
                half = half_compute(model, self.directory, file)
            _save(half, self.directory / graph16)
            _save(simulate_fp16(half), self.directory / _SIMULATED)
        if self.calibration is not None:
            graph8, _, weights8 = _FILES["int8"]
            self.quantization = quantize(
                model,
                self.directory / graph8,
                calibrated=calibrated,
                fp32_graph=self.directory / graph,
                weights=self.directory / weights8,
                calibration=self.calibration,
                contract=self.contract,
                bound=self.model.bound("int8"),
                report=self.report,
            )
        if "fp32" not in self.precisions:
            (self.directory / graph).unlink()
            (self.directory / weights).unlink()
        for precision in self.precisions:
            self.unpadded[precision] = self.without_mask(precision)

    def without_mask(self, precision: Precision) -> str:
        """Write a precision's graph for batches of one length; return its name, or the CPU graph's again."""
        _, cpu_graph, _ = _FILES[precision]
        longest = max(rule.max_length for rule in self.contract.roles.values())
        masked = onnx.load(self.directory / cpu_graph, load_external_data=False)
        model = without_mask(masked, self.directory, longest)
        if model is None:
            return cpu_graph
        fuse_attention(model)
        name = _UNPADDED.format(precision=precision)
        _save(model, self.directory / name)
        return name

    def front_end(self, weights: WeightsFile) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """Return the FP32 graph, and the one that calibration looks at; both over the same weights."""
        directory = self.facts.directory
        if self.frontend == "optimum":
            model = export_optimum(directory, weights)
            return model, model
        # Where a prompt is not pooled, the first token that is comes after it.
        first_only = self.contract.pooling == "cls" and self.contract.pool_prompt
        model = export_native(directory, weights, first_only=first_only)
        if not first_only or self.calibration is None:
            return model, model
        # Calibration sees every token's last layer: one row a text is too few for ranges, let alone moments.
        # On all-MiniLM-L6-v2, pooled by CLS, the worst of 600 SciFact claims then stood at a cosine of 0.987,
        # with all tokens at 0.9987.
        return model, export_native(directory, weights)

    def reference(
        self, chosen: list[Probe], judging: Future[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], str]:
        try:
            return judging.result(), "NumPy float64"
        except ExportError:  # a network, or an option of one, that is not implemented here
            # Not beside the optimum front-end, which patches transformers while it traces.
            return reference_torch(self.facts, self.contract, chosen), "PyTorch float32"

    def certify(
        self,
        precision: Precision,
        chosen: list[Probe],
        reference: NDArray[np.float32],
        reference_name: str,
    ) -> Certificate:
        """Run each graph of a precision, what accelerators make of theirs too; the worse one counts."""
        bound = self.model.bound(precision)
        runs = []
        for cpu_graph in [None, _SIMULATED] if precision == "fp16" else [None]:
            # The engine loads only what a manifest vouches for, so each run has one of its own.
            self.manifest({precision: self.variant(precision, _pending(bound), cpu_graph)})
            try:
                certificate = certify(
                    self.opened(), precision, chosen, reference, bound=bound, reference_name=reference_name
                )
            except BundleError as error:
                if precision == "fp32":
                    raise
                raise ExportError(
                    f"{self.named.name}: {precision} cannot be made of this network, its graph does not run; "
                    f"export without {precision}: {error}"
                ) from error
            runs.append(certificate)
        return worse(*runs)

    def opened(self) -> Bundle:
        """Return the bundle as its last manifest says; no digest is taken again."""
        bundle = Bundle(self.directory)
        bundle.trust()
        return bundle

    def variant(
        self, precision: Precision, certificate: Certificate, cpu_graph: str | None = None
    ) -> Variant:
        graph, own_cpu_graph, weights = _FILES[precision]
        quantization = self.quantization if precision == "int8" else None
        return Variant(
            graph,
            cpu_graph or own_cpu_graph,
            [weights],
            certificate,
            unpadded_graph=cpu_graph or self.unpadded[precision],
            quantization=quantization,
        )

    def manifest(self, variants: dict[Precision, Variant]) -> None:
        names = [TOKENIZER, PROBES, REFERENCE, *([MODULES] if self.contract.weighted else [])]
        for variant in variants.values():
            names += variant.names()
        manifest = Manifest(
            format=FORMAT,
            model=self.named.name,
            contract=self.contract,
            source=Source(
                kind=self.checkpoint.kind,
                location=self.checkpoint.location,
                revision=self.checkpoint.revision,
                digests=self.checkpoint.digests,
                absent=self.checkpoint.absent,
                named_by=self.named.kind,
            ),
            frontend=self.frontend,
            tools={**versions(), "onnx": metadata.version("onnx")},
            precisions=variants,
            files={name: self.entry(name) for name in names},
            similarity=self.agreed.similarity,
            origins=self.agreed.origins,
        )
        (self.directory / MANIFEST).write_bytes(manifest_bytes(manifest))

    def entry(self, name: str) -> FileEntry:
        if name not in self.entries:  # several manifests are written over the same files
            path = self.directory / name
            self.entries[name] = FileEntry(sha256=digest(path), size_bytes=path.stat().st_size)
        return self.entries[name]


def _pending(bound: Bound) -> Certificate:
    figures = Figures(0, max_abs_diff=0.0, min_cosine=0.0, mean_cosine=0.0, worst_probe=0)
    return Certificate("pending", bound, figures, {}, "", {}, "", instructions=instructions())


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())


def _check_target(target: Path) -> None:
    """Refuse a place that holds anything but a bundle, since what is there will be replaced."""
    if fault := not_utf8(target):
        raise ExportError(fault)
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target}: is a file; --out names the bundle's directory")
    if target.is_mount():
        raise ExportError(f"{target}: is a mount point, which cannot be exchanged; name a directory in it")
    if not target.is_dir() or not any(target.iterdir()):
        return
    try:
        known = file_names(target)
    except BundleError as error:
        raise ExportError(
            f"{target}: holds other files and no bundle ({error}); remove it or choose another --out"
        ) from error
    foreign = sorted({path.name for path in target.iterdir()} - known)
    if foreign:
        raise ExportError(
            f"{target}: holds {', '.join(foreign[:3])} beside the bundle, which replacing it would delete; "
            "move it away or choose another --out"
        )


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """Yield a new directory beside the target, with what happens to it in words; see `paritas.workplace`."""
    with ExitStack() as stack:
        try:
            work = stack.enter_context(workplace(target))
        except OSError as error:
            raise ExportError(f"{target}: cannot be written: {error}") from error
        try:
            yield work
        except StoreError:
            raise
        except OSError as error:
            raise ExportError(f"{target}: cannot be written: {error}; nothing was left there") from error


def _replace(work: Path, target: Path) -> None:
    """Put the finished bundle in the target's place."""
    put(work, target)

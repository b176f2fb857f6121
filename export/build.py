"""One bundle under construction: its files, then the certificates, and last of all the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from paritas.engine.bundle.digests import digest
from paritas.engine.bundle.directory import MANIFEST, Bundle
from paritas.engine.bundle.manifest import (
    FORMAT,
    MODULES,
    PROBES,
    REFERENCE,
    TOKENIZER,
    Certificate,
    FileEntry,
    Manifest,
    Source,
    Variant,
    manifest_bytes,
)
from paritas.engine.runtime.kernels import available_kernels
from paritas.engine.tokenize.tokenizer import Tokenizer
from paritas.errors import BundleError, ExportError
from paritas.export.certificate.certify import certify, compare_tokens, save_reference, versions, worse
from paritas.export.certificate.probes import Probe, probes, spellings, tokenized
from paritas.export.certificate.reference import reference_numpy, reference_torch
from paritas.export.certificate.retrieval import JudgedCollection, compare_retrieval
from paritas.export.checkpoint.facts import read_facts
from paritas.export.checkpoint.sources import Checkpoint, Named
from paritas.export.contract import agree
from paritas.export.int8.calibration import Calibration, built_in_texts, open_calibration
from paritas.export.options import ExportOptions
from paritas.export.precisions import SIMULATED, GraphWriter
from paritas.export.second_reading.reading import SecondReading, open_second_reading
from paritas.registry import Precision


class Build:
    """A bundle in the making, in a directory of its own."""

    def __init__(
        self,
        named: Named,
        checkpoint: Checkpoint,
        options: ExportOptions,
        directory: Path,
        report: Callable[[str], None],
    ) -> None:
        """Read the checkpoint, and refuse at once what cannot become a bundle.

        Args:
            named: the model.
            checkpoint: its files.
            options: what is asked for.
            directory: an empty one.
            report: called with a line of text at each step.

        Raises:
            SourceError: the checkpoint cannot be read.
            ExportError: it contradicts itself, the registry's entry or the caller, or leaves too much open.
            InputError: the calibration file cannot be read, or holds too little.
        """
        self.named, self.checkpoint, self.options = named, checkpoint, options
        self.directory, self.report = directory, report
        self.facts = facts = read_facts(checkpoint.directory)
        self.agreed = agree(named.name, named.model, facts, options.frontend, options.pooling)
        self.contract = self.agreed.contract
        self.entries: dict[str, FileEntry] = {}
        (directory / TOKENIZER).write_bytes(facts.tokenizer.content)
        if self.contract.weighted:
            np.savez(directory / MODULES, allow_pickle=False, **facts.weights)
        self.tokenizer = Tokenizer.of(directory, self.contract)
        facts.check_rows(self.tokenizer.tokens)
        self.calibration: Calibration | None = None
        if "int8" in options.precisions:  # first of all: what will not do costs nobody a minute
            if options.int8_inputs == "dynamic":
                available_kernels()  # a word in the environment
            self.calibration = open_calibration(options.calibration, self.tokenizer, self.contract.roles)

    def write(self, collection: JudgedCollection | None) -> None:
        """Write all files, certify every precision, and write the manifest.

        Args:
            collection: what certificates say the cost of a search over, where there is one.

        Raises:
            ExportError: the network cannot be exported, or not in one of the precisions.
            ParityError: tokens or vectors are not the checkpoint's.
            BundleError: onnxruntime cannot run a graph.
        """
        reading = open_second_reading(self.facts.directory, lowercase=self.facts.lowercase)
        chosen = self.probes(reading)
        self.report(f"tokens: as {reading.name} has them")
        self.report(f"graph: {self.options.frontend} front-end")
        self.report(f"reference: {len(chosen)} probes through the checkpoint")
        with ThreadPoolExecutor(1) as pool:
            # Digests, and much of the reference, are work for one core: 3 s less of 18 side by side.
            judging = pool.submit(reference_numpy, self.facts, self.contract, chosen)
            variants = self.graphs()
            for variant in variants.values():
                for name in variant.files:
                    self.entry(name)
        reference, reference_name = self.reference(chosen, judging)
        save_reference(self.directory, chosen, reference)
        for precision, variant in variants.items():
            certificate = self.certify(precision, variant, chosen, reference, reference_name, reading.name)
            variants[precision] = replace(variant, certificate=certificate)
            self.report(f"certified: {precision}")
        (self.directory / SIMULATED).unlink(missing_ok=True)
        if collection is not None:
            self.judge(variants, collection)
        (self.directory / MANIFEST).write_bytes(manifest_bytes(self.manifest(variants)))

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

    def graphs(self) -> dict[Precision, Variant]:
        writer = GraphWriter(self.facts, self.contract, self.options.frontend, self.directory, self.report)
        bound, inputs = self.named.model.bound("int8"), self.options.int8_inputs
        return writer.write(self.options.precisions, self.calibration, bound, inputs)

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
        variant: Variant,
        chosen: list[Probe],
        reference: NDArray[np.float32],
        reference_name: str,
        tokens: str,
    ) -> Certificate:
        """Run each graph of a precision, what accelerators make of theirs too; the worse one counts."""
        tried = [variant]
        if precision == "fp16":
            tried.append(replace(variant, cpu_graph=SIMULATED, unpadded_graph=SIMULATED))
        try:
            runs = [
                certify(
                    self.draft({precision: each}),
                    precision,
                    chosen,
                    reference,
                    bound=self.named.model.bound(precision),
                    reference_name=reference_name,
                    tokens=tokens,
                )
                for each in tried
            ]
        except BundleError as error:
            if precision == "fp32":
                raise
            raise ExportError(
                f"{self.named.name}: {precision} cannot be made of this network, its graph does not run; "
                f"export without {precision}: {error}"
            ) from error
        return worse(*runs)

    def judge(self, variants: dict[Precision, Variant], collection: JudgedCollection) -> None:
        """Add to each certificate what its precision costs a search."""
        self.report(f"judging: {len(collection.documents)} documents, {len(collection.queries)} queries")
        compared = compare_retrieval(self.draft(variants), list(variants), collection)
        for precision, retrieval in compared.items():
            certificate = replace(variants[precision].certified, retrieval=retrieval)
            variants[precision] = replace(variants[precision], certificate=certificate)

    def draft(self, variants: Mapping[Precision, Variant]) -> Bundle:
        return Bundle.draft(self.directory, self.manifest(variants))

    def manifest(self, variants: Mapping[Precision, Variant]) -> Manifest:
        names = [TOKENIZER, PROBES, REFERENCE, *([MODULES] if self.contract.weighted else [])]
        for variant in variants.values():
            names += variant.names()
        return Manifest(
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
            frontend=self.options.frontend,
            tools={**versions(), "onnx": metadata.version("onnx")},
            precisions=dict(variants),
            files={name: self.entry(name) for name in names},
            similarity=self.agreed.similarity,
            origins=self.agreed.origins,
        )

    def entry(self, name: str) -> FileEntry:
        if name not in self.entries:  # several drafts are of the same files
            path = self.directory / name
            self.entries[name] = FileEntry(sha256=digest(path), size_bytes=path.stat().st_size)
        return self.entries[name]

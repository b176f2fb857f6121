"""From a model's name to a certified bundle, or to nothing at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from paritas.arguments import pathname, wrong
from paritas.engine.bundle.directory import Bundle
from paritas.engine.bundle.manifest import InputSteps
from paritas.errors import BundleError, ExportError
from paritas.export.build import Build
from paritas.export.certificate.retrieval import read_collection
from paritas.export.checkpoint.sources import open_checkpoint, pin, resolve
from paritas.export.contract import Frontend
from paritas.export.options import ExportOptions
from paritas.export.target import check_target, workplace_beside
from paritas.registry import Precision, Registry, load_registry
from paritas.workplace import put


def export_model(
    name: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    frontend: Frontend = "native",
    calibration: str | os.PathLike[str] | None = None,
    int8_inputs: InputSteps = "dynamic",
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
        int8_inputs: when INT8 chooses the steps of a layer's inputs. "dynamic": for each token anew, by
            paritas's own operators; as slow as FP32 where those do not run. "static": once, by calibration,
            for onnxruntime's own operators; further from FP32.
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
    options = ExportOptions(
        source=_path("source", source),
        pooling=pooling,
        precisions=precisions,
        frontend=frontend,
        calibration=_path("calibration", calibration),
        int8_inputs=int8_inputs,
        judgements=_path("judgements", judgements),
        out=_path("out", out),
    )
    if registry is not None and not isinstance(registry, Registry):
        raise wrong("registry", registry, "what load_registry(path) returns, or None")
    if not callable(report):
        raise wrong("report", report, "a function that takes a line, such as print")
    return _export(name, options, registry if registry is not None else load_registry(), report)


def _path(option: str, value: str | os.PathLike[str] | None) -> str | None:
    return None if value is None else pathname(option, value, "a path, or None")


def _export(
    name: str | os.PathLike[str], options: ExportOptions, registry: Registry, report: Callable[[str], None]
) -> Bundle:
    named = resolve(name, registry, options.source)
    collection = read_collection(Path(options.judgements)) if options.judgements is not None else None
    # Resolved, so that a link's target is replaced and not the link, and "." has a name.
    target = (Path(options.out) if options.out is not None else named.bundle).resolve()
    check_target(target)
    with (
        open_checkpoint(named.name, named.model, named.source) as checkpoint,
        workplace_beside(target) as work,
    ):
        report(f"{named.name}: {checkpoint.kind} {checkpoint.location} {checkpoint.revision or ''}".rstrip())
        try:
            Build(named, checkpoint, options, work, report).write(collection)
        except BundleError as error:
            raise ExportError(f"{named.name}: the exported graph does not run: {error}") from error
        pin(named.name, checkpoint)
        check_target(target)  # files may have come there meanwhile
        put(work, target)
    return Bundle(target)

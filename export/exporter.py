"""From a model's name to a certified bundle, or to nothing at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from paritas import store
from paritas.engine.bundle import (
    FORMAT,
    MANIFEST,
    PROBES,
    REFERENCE,
    TOKENIZER,
    Bundle,
    Certificate,
    Contract,
    Figures,
    FileEntry,
    Manifest,
    Source,
    Variant,
    digest,
)
from paritas.engine.tokenizer import Tokenizer
from paritas.errors import BundleError, ExportError
from paritas.export.certify import certify_graphs, save_reference, versions
from paritas.export.checkpoint import CONFIG, MODULES, POOLING, read_json
from paritas.export.half import half_compute, half_weights
from paritas.export.native import export_native
from paritas.export.networks import read_network
from paritas.export.optimum import export_optimum
from paritas.export.probes import Probe, probes
from paritas.export.reference import reference_numpy, reference_torch
from paritas.export.sources import Checkpoint, open_checkpoint
from paritas.export.weights_file import WeightsFile
from paritas.registry import PRECISIONS, Bound, Model, Precision, Registry, load_registry

Frontend = Literal["native", "optimum"]

_FILES: dict[Precision, tuple[str, str, str]] = {
    # graph, graph for CPUs, weights
    "fp32": ("model.fp32.onnx", "model.fp32.onnx", "model.fp32.onnx.data"),
    "fp16": ("model.fp16.onnx", "model.fp16.cpu.onnx", "model.fp16.onnx.data"),
}


def export_model(
    name: str,
    *,
    source: str | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    frontend: Frontend = "native",
    out: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    report: Callable[[str], None] = lambda _step: None,
) -> Bundle:
    """Export a model into a bundle, certify it, and put it in place whole.

    Args:
        name: a registry id.
        source: "hub", "package" or a checkpoint directory; where None the package if installed, else the hub.
        precisions: one or more of "fp32", "fp16".
        frontend: "native" (BERT and MPNet, no torch) or "optimum" (any network optimum-onnx knows).
        out: the bundle directory; the store's place for this model where None. A bundle that is already
            there is replaced once the new one is certified.
        registry: the models; the built-in ones and PARITAS_REGISTRY's where None.
        report: called with a line of text at each step.

    Raises:
        RegistryError: unknown model.
        SourceError: the checkpoint cannot be fetched, read or trusted.
        ExportError: it cannot be exported; ParityError: its vectors are not the checkpoint's.
        MissingExtraError: an optional dependency is absent.
    """
    model = (registry if registry is not None else load_registry())[name]
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ExportError(f"unknown precision {precision!r}; expected {', '.join(PRECISIONS)}")
    if not precisions:
        raise ExportError("no precision given; expected fp32, fp16 or both")
    # Resolved, so that a link's target is replaced and not the link, and "." has a name.
    target = (Path(out) if out is not None else store.bundle_path(name)).resolve()
    _check_target(target)
    with open_checkpoint(name, model, source) as checkpoint, _workplace(target) as work:
        report(f"{name}: {checkpoint.kind} {checkpoint.location} {checkpoint.revision or ''}".rstrip())
        _check_contract(name, model, checkpoint, frontend)
        try:
            _Build(name, model, checkpoint, frontend, precisions, work, report).write()
        except BundleError as error:
            raise ExportError(f"{name}: the exported graph does not run: {error}") from error
        _replace(work, target)
    return Bundle(target)


class _Build:
    """One bundle under construction in a directory of its own."""

    def __init__(
        self,
        name: str,
        model: Model,
        checkpoint: Checkpoint,
        frontend: Frontend,
        precisions: Sequence[Precision],
        directory: Path,
        report: Callable[[str], None],
    ) -> None:
        self.name, self.model, self.checkpoint, self.frontend = name, model, checkpoint, frontend
        self.precisions = [precision for precision in PRECISIONS if precision in precisions]
        self.directory, self.report = directory, report
        self.contract = Contract(
            network=model.network,
            dim=model.dim,
            pooling=model.pooling,
            normalize=model.normalize,
            roles=model.roles,
            settings=_settings(read_json(checkpoint.directory / CONFIG)),
        )

    def write(self) -> None:
        shutil.copyfile(self.checkpoint.directory / TOKENIZER, self.directory / TOKENIZER)
        self.report(f"graph: {self.frontend} front-end")
        self.graphs()
        chosen = probes(self.model.roles)
        self.report(f"reference: {len(chosen)} probes through the checkpoint")
        reference, reference_name = self.reference(chosen)
        save_reference(self.directory, chosen, reference)
        # The engine only loads what a manifest vouches for, so one is written before the certificates.
        pending = {precision: _pending(self.model.bound(precision)) for precision in self.precisions}
        self.manifest(pending)
        certificates = {}
        for precision in self.precisions:
            certificates[precision] = certify_graphs(
                Bundle(self.directory),
                precision,
                chosen,
                reference,
                bound=self.model.bound(precision),
                reference_name=reference_name,
            )
            self.report(f"certified: {precision}")
        self.manifest(certificates)

    def graphs(self) -> None:
        export = export_native if self.frontend == "native" else export_optimum
        graph, _, weights = _FILES["fp32"]
        with WeightsFile(self.directory / weights) as file:
            model = export(self.checkpoint.directory, file)
        _save(model, self.directory / graph)
        if "fp16" in self.precisions:
            graph16, cpu_graph16, weights16 = _FILES["fp16"]
            with WeightsFile(self.directory / weights16) as file:
                _save(half_weights(model, self.directory, file), self.directory / cpu_graph16)
                _save(half_compute(model, self.directory, file), self.directory / graph16)
        if "fp32" not in self.precisions:
            (self.directory / graph).unlink()
            (self.directory / weights).unlink()

    def reference(self, chosen: list[Probe]) -> tuple[NDArray[np.float32], str]:
        if self.frontend == "native":
            tokenizer = Tokenizer(self.directory / TOKENIZER, self.contract.roles)
            vectors = reference_numpy(self.checkpoint.directory, self.contract, tokenizer, chosen)
            return vectors, "NumPy float64"
        return reference_torch(self.checkpoint.directory, self.contract, chosen), "PyTorch float32"

    def manifest(self, certificates: dict[Precision, Certificate]) -> None:
        variants: dict[Precision, Variant] = {}
        names = [TOKENIZER, PROBES, REFERENCE]
        for precision, certificate in certificates.items():
            graph, cpu_graph, weights = _FILES[precision]
            variants[precision] = Variant(graph, cpu_graph, [weights], certificate)
            names += dict.fromkeys([graph, cpu_graph, weights])
        manifest = Manifest(
            format=FORMAT,
            model=self.name,
            contract=self.contract,
            source=Source(
                kind=self.checkpoint.kind,
                location=self.checkpoint.location,
                revision=self.checkpoint.revision,
                digests=self.checkpoint.digests,
            ),
            frontend=self.frontend,
            tools={**versions(), "onnx": metadata.version("onnx")},
            precisions=variants,
            files={name: self.entry(name) for name in names},
        )
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        (self.directory / MANIFEST).write_bytes(data + b"\n")

    def entry(self, name: str) -> FileEntry:
        path = self.directory / name
        return FileEntry(sha256=digest(path), size_bytes=path.stat().st_size)


def _settings(config: dict[str, Any]) -> dict[str, str]:
    """What of config.json changes the vectors of given weights and shows in no tensor's shape."""
    keys = ("num_attention_heads", "n_heads", "layer_norm_eps", "hidden_act", "activation")
    return {key: str(config[key]) for key in keys if key in config}


def _pending(bound: Bound) -> Certificate:
    figures = Figures(probes=0, max_abs_diff=0.0, min_cosine=0.0, mean_cosine=0.0, worst_probe=0)
    return Certificate("pending", bound, figures, {}, "", {}, "")


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())


def _check_contract(name: str, model: Model, checkpoint: Checkpoint, frontend: Frontend) -> None:
    """Refuse a registry entry that does not fit the checkpoint."""
    config = read_json(checkpoint.directory / CONFIG)
    for key, expected in (("model_type", model.network), ("hidden_size", model.dim)):
        # Networks that are not exported natively may name their width otherwise; the graph's is checked.
        if config.get(key, expected) != expected:
            raise ExportError(
                f"{checkpoint.directory / CONFIG}: {key} is {config.get(key)!r}, the registry's entry of "
                f"{name} says {expected!r}"
            )
    _check_pooling(name, model, checkpoint.directory)
    if frontend == "native":
        longest = read_network(config, str(checkpoint.directory / CONFIG)).max_length
    else:
        longest = int(config.get("max_position_embeddings", 1 << 30))
    for role, rule in model.roles.items():
        if rule.max_length > longest:
            raise ExportError(
                f"{name}: roles.{role}.max_length is {rule.max_length}; the checkpoint's position table "
                f"serves {longest} tokens"
            )


def _check_pooling(name: str, model: Model, directory: Path) -> None:
    """sentence-transformers checkpoints say what follows the network; the registry must not contradict it."""
    if (directory / POOLING).exists():
        modes = _pooling_modes(read_json(directory / POOLING))
        if modes and modes != {model.pooling}:
            raise ExportError(
                f"{directory / POOLING}: the checkpoint pools by {', '.join(sorted(modes))}, the registry's "
                f"entry of {name} says {model.pooling!r}"
            )
    if (directory / MODULES).exists():
        further = _further_modules(directory / MODULES)
        if further:
            raise ExportError(
                f"{directory / MODULES}: the checkpoint goes on with {', '.join(further)} after pooling, "
                "which is not exported"
            )


def _pooling_modes(stated: dict[str, Any]) -> set[str]:
    """Read both forms: flags such as pooling_mode_mean_tokens, and from release 5 on one name or several."""
    named = stated.get("pooling_mode")
    if named is not None:
        return {named} if isinstance(named, str) else set(named)
    flags = {key.removeprefix("pooling_mode_") for key, on in stated.items() if on is True}
    short = {"cls_token": "cls", "mean_tokens": "mean"}
    return {short.get(flag, flag) for flag in flags if f"pooling_mode_{flag}" in stated}


def _further_modules(path: Path) -> list[str]:
    try:
        modules = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except (OSError, msgspec.DecodeError) as error:
        raise ExportError(f"{path}: cannot be read: {error}") from error
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    return [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]


def _check_target(target: Path) -> None:
    """Refuse a place that holds anything but a bundle, since what is there will be replaced."""
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target}: is a file; --out names the bundle's directory")
    if not target.is_dir() or not any(target.iterdir()):
        return
    try:
        known = {MANIFEST, *Bundle(target).manifest.files}
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
    """Yield a new directory beside the target; whatever goes wrong, it does not outlive the block."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        work.chmod(0o755)
    except OSError as error:
        raise ExportError(f"{target}: cannot be written: {error}") from error
    try:
        yield work
    except OSError as error:
        raise ExportError(f"{target}: cannot be written: {error}; nothing was left there") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(work: Path, target: Path) -> None:
    """Put the finished bundle in the target's place; a former bundle is set aside until it is."""
    if not target.exists():
        work.rename(target)
        return
    former = work.with_name(work.name.replace(".partial-", ".former-"))
    target.rename(former)
    try:
        work.rename(target)
    except BaseException:  # a signal between the two renames must not cost the former bundle either
        former.rename(target)
        raise
    shutil.rmtree(former, ignore_errors=True)  # the new bundle is in place whatever becomes of it

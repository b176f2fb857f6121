"""What manifest.json holds: what the vectors are, where they come from, and the proof of each precision.

How the schema grows:

- A new field stands at the end of its struct and has a default, so bundles of every older format are read.
- A field that only describes needs no new format. `Manifest`, `Source`, `Certificate` and `Quantization`
  ignore fields that they do not know.
- A field that changes vectors, or which files are loaded, raises `FORMAT`. Its default gives the vectors and
  the fingerprint of before. `Contract`, `Module` and `Variant` refuse fields that they do not know, and a
  newer format is refused as a whole.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from paritas.errors import BundleError
from paritas.registry import Bound, Pooling, Precision, Role, check_pooling

FORMAT = 4
"""What `paritas export` writes."""
TOKENIZER = "tokenizer.json"
PROBES = "probes.json"
REFERENCE = "reference.npy"
MODULES = "modules.npz"
"""The weights of a contract's modules, float32: "0.weight" (out, in) and "0.bias" (out,) of its first."""
# The manifest's own digest. It may be missing: bundles had none before 0.1.0, and whoever edits a manifest by
# hand removes it.
_SEAL = "manifest_sha256"


class Module(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One step after pooling, before the last normalisation."""

    kind: Literal["dense", "layer_norm", "normalize", "truncate"]
    """x W' + b and an activation; LayerNorm over the vector; unit length; the first `dim` channels."""
    activation: Literal["", "tanh", "relu", "gelu", "sigmoid"] = ""
    """Of "dense"."""
    epsilon: float = 0.0
    """Of "layer_norm"."""
    dim: int = 0
    """Of "truncate"."""

    @property
    def weighted(self) -> bool:
        """It has weights."""
        return self.kind in ("dense", "layer_norm")


class Contract(Struct, frozen=True, forbid_unknown_fields=True):
    """What the vectors are: everything that changes them, precision aside."""

    network: str
    dim: int
    """The width of the vectors."""
    pooling: Pooling
    normalize: bool
    """The vectors are scaled to unit length at the end."""
    roles: dict[str, Role]
    settings: dict[str, str] = {}
    """What of the checkpoint's configuration changes the vectors and shows in no tensor's shape."""
    truncation_side: Literal["right", "left"] = "right"
    """Where tokens beyond max_length are cut off."""
    pool_prompt: bool = True
    """The tokens of a role's prompt are pooled like the text's."""
    modules: list[Module] = []
    """Steps after pooling; the weights of those that have any are in `MODULES`."""

    @property
    def weighted(self) -> bool:
        """A module has weights."""
        return any(module.weighted for module in self.modules)

    def facts(self) -> dict[str, Any]:
        """Return the contract for the fingerprint: fields since format 4 only where they say something.

        So a bundle that uses none of them has the fingerprint it had before.
        """
        facts: dict[str, Any] = msgspec.to_builtins(self)
        for field in msgspec.structs.fields(Contract):
            default = field.default_factory() if callable(field.default_factory) else field.default
            if field.name in SINCE_4 and facts[field.name] == default:
                del facts[field.name]
        return facts


SINCE_4 = ("truncation_side", "pool_prompt", "modules")


class Source(Struct, frozen=True):
    """The checkpoint a bundle was made from."""

    kind: str
    """hub, package or directory"""
    location: str
    revision: str | None
    digests: dict[str, str]
    """sha256 by file name"""
    absent: list[str] = []
    """Files that were looked for and not there: with one of them it would be another checkpoint."""
    named_by: Literal["registry", "hub", "directory"] = "registry"
    """What the model's name is: a registry id, a hub id, or the name of the checkpoint's directory."""


class FileEntry(Struct, frozen=True):
    """One file of the bundle."""

    sha256: str
    size_bytes: int


class Figures(Struct, frozen=True):
    """How far one precision's vectors are from the reference's, over some probes."""

    probes: int
    max_abs_diff: float
    min_cosine: float
    mean_cosine: float
    worst_probe: int
    """Its place among the probes."""
    p1_cosine: float = 0.0
    """The 1st percentile; 0 in bundles of format 1, which did not take it."""


class Retrieval(Struct, frozen=True):
    """What one precision costs a search over a judged collection."""

    collection: str
    documents: int
    queries: int
    ndcg_fp32: float
    """nDCG@10 of FP32, in points of 100."""
    ndcg: float
    """nDCG@10 of this precision."""
    recall: float
    """Of FP32's ten nearest documents, the share that is among this precision's ten."""


InputSteps = Literal["static", "dynamic"]


class Certificate(Struct, frozen=True):
    """The proof of one precision: what was compared with what, where, and the outcome."""

    reference: str
    bound: Bound
    figures: Figures
    by_role: dict[str, Figures]
    cpu: str
    versions: dict[str, str]
    date: str
    by_length: dict[str, Figures] = {}
    """By tokens, as in "65-128"."""
    instructions: list[str] = []
    """What of the CPU the result depends on; see `cpus.instructions`."""
    retrieval: Retrieval | None = None
    """Where judgements were given."""
    tokens: str = ""
    """Whose token ids the engine's were equal to, for every probe; empty before format 4."""
    kernels: list[str] = []
    """Whose kernels ran, each in turn; see `paritas.engine.runtime.kernels`."""


class Quantization(Struct, frozen=True):
    """How an INT8 graph was made."""

    calibration: str
    """Where its texts are from."""
    calibration_sha256: str
    texts: int
    tokens: int
    truncated: int
    held_out: Figures
    """INT8 against FP32 on texts of the same origin that calibration did not see."""
    layers: int
    """Linear layers of the graph."""
    kept_fp32: list[str]
    """Those that stayed FP32."""
    fp32_budget: float
    """The share of the linear layers' weights that might have."""
    overflow_columns: int
    inputs: InputSteps = "static"
    """When the steps of the linear layers' inputs are chosen: by calibration, or for each token anew."""


class Variant(Struct, frozen=True, forbid_unknown_fields=True):
    """One precision of a bundle."""

    graph: str
    cpu_graph: str
    """The graph for CPUs; the same file where one serves both."""
    files: list[str]
    certificate: Certificate | None
    """None while it is being exported; a manifest without it is never written, and none is read."""
    unpadded_graph: str = msgspec.field(default="", name="equal_length_graph")
    """The graph for CPUs where no batch is padded, without `attention_mask`; empty: `cpu_graph` serves."""
    quantization: Quantization | None = None

    def graph_for(self, *, on_cpu: bool, max_padding: float = 0.0) -> str:
        """Return the graph that serves batches of at most so much padding."""
        if not on_cpu:
            return self.graph
        return self.cpu_graph if max_padding else self.unpadded_graph or self.cpu_graph

    @property
    def certified(self) -> Certificate:
        """The certificate of a precision whose export has ended."""
        assert self.certificate is not None
        return self.certificate

    def names(self) -> list[str]:
        """Return the names of all its files, each once."""
        names = [self.graph, self.cpu_graph, self.unpadded_graph or self.cpu_graph, *self.files]
        return list(dict.fromkeys(names))


class Manifest(Struct, frozen=True):
    """What manifest.json holds."""

    format: Annotated[int, Meta(ge=1)]
    model: str
    contract: Contract
    source: Source
    frontend: str
    tools: dict[str, str]
    precisions: Annotated[dict[Precision, Variant], Meta(min_length=1)]
    files: dict[str, FileEntry]
    similarity: str | None = None
    """How the checkpoint says its vectors are compared: cosine, dot, euclidean or manhattan."""
    origins: dict[str, str] = {}
    """The file and key, or the registry's entry, that each fact of the contract is from."""

    def names(self) -> list[str]:
        """Return the names of all files that a bundle with this manifest has, its own aside."""
        names = [*self.files, TOKENIZER, PROBES, REFERENCE]
        names += [MODULES] if self.contract.weighted else []
        for variant in self.precisions.values():
            names += variant.names()
        return names


def read_manifest(path: Path, content: bytes) -> Manifest:
    """Return the manifest that a file holds, checked.

    Args:
        path: the file's, for messages.
        content: the file's bytes.

    Raises:
        BundleError: it does not parse, is of a newer format, was changed, or names a file out of the bundle.
    """
    document = _parse(path, content)
    _check_format(path, document)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {error}; export the model again") from error
    if fault := check_pooling(manifest.contract.pooling):
        raise BundleError(f"{path}: {fault}; export the model again")
    _check_names(path, manifest)
    for precision, variant in manifest.precisions.items():
        if variant.certificate is None:
            raise BundleError(f"{path}: {precision} has no certificate; export the model again")
    if _SEAL in document and document[_SEAL] != _seal(document):
        raise BundleError(f"{path}: changed since the export; restore the file or export the model again")
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return what manifest.json holds: the manifest, and at its end a digest of all that is before it."""
    assert all(variant.certificate for variant in manifest.precisions.values())
    document: dict[str, Any] = json.loads(msgspec.json.encode(manifest))
    sealed = {**document, _SEAL: _seal(document)}
    return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"


def _seal(document: dict[str, Any]) -> str:
    content = {key: value for key, value in document.items() if key != _SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _parse(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON: {error}; export the model again") from error


def _check_format(path: Path, document: Any) -> None:
    """Tell a bundle of a newer paritas from a damaged one, and one of format 4 from one that lost a field."""
    if not isinstance(document, dict):
        return
    number = document.get("format")
    if isinstance(number, int) and number > FORMAT:
        tools = document.get("tools")
        version = tools.get("paritas") if isinstance(tools, dict) else None
        newer = f"'paritas>={version}'" if isinstance(version, str) else "--upgrade paritas"
        raise BundleError(
            f"{path}: bundle format {number}, this paritas reads up to {FORMAT}; type: pip install {newer}"
        )
    contract = document.get("contract")
    if number == FORMAT and isinstance(contract, dict):
        missing = [field for field in SINCE_4 if field not in contract]
        if missing:
            raise BundleError(f"{path}: contract: {missing[0]} is missing; export the model again")


def _check_names(path: Path, manifest: Manifest) -> None:
    names = manifest.names()
    for name in names:
        if name in ("", ".", "..") or name != Path(name).name or "\\" in name or "\0" in name:
            raise BundleError(f"{path}: {name!r} leads out of the bundle; expected a plain file name")
    undigested = sorted(set(names) - set(manifest.files))
    if undigested:
        raise BundleError(f"{path}: no digest of {', '.join(undigested)}; export the model again")

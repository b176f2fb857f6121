"""Certificates: the distance between vectors, the bound on it, and the reference itself."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.tokenize.tokenizer import Tokenizer
from paritas.errors import BundleError, ParityError, ProviderError
from paritas.export.certificate.certify import (
    certify,
    compare,
    encode_probes,
    load_reference,
    save_reference,
    verify,
)
from paritas.export.certificate.probes import Probe, probes, tokenized
from paritas.export.certificate.reference import reference_numpy, reference_torch
from paritas.export.checkpoint.facts import read_facts
from paritas.export.networks.reference import _erf
from paritas.export.second_reading.reading import open_second_reading
from paritas.registry import Bound, Role
from tests.unit.files import change_byte

NAMES = pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet"])


def rows(*values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


# The distance.


def test_equal_vectors_have_no_distance() -> None:
    vectors = rows([1, 0], [0, 1], [0.6, 0.8])
    figures = compare(vectors, vectors.copy())
    assert (figures.probes, figures.max_abs_diff) == (3, 0.0)
    assert figures.min_cosine == pytest.approx(1, abs=1e-7)
    assert figures.mean_cosine == pytest.approx(1, abs=1e-7)


def test_the_figures_are_those_of_the_worst_row() -> None:
    figures = compare(rows([1, 0], [0.6, 0.8], [0, 1]), rows([1, 0], [0.8, 0.6], [0, 1]))
    assert figures.max_abs_diff == pytest.approx(0.2)
    assert figures.min_cosine == pytest.approx(0.96)
    assert figures.mean_cosine == pytest.approx((1 + 0.96 + 1) / 3)
    assert figures.worst_probe == 1


def test_opposite_vectors_have_cosine_minus_one() -> None:
    figures = compare(rows([1, 0]), rows([-1, 0]))
    assert (figures.max_abs_diff, figures.min_cosine) == (2.0, -1.0)


def test_lengths_do_not_change_the_cosine() -> None:
    figures = compare(rows([3, 4]), rows([6, 8]))
    assert figures.max_abs_diff == pytest.approx(0.4)  # in units of the reference's length, 10
    assert figures.min_cosine == pytest.approx(1)


def test_differences_below_float32s_last_bit_of_one_are_seen() -> None:
    figures = compare(rows([1e-9, 1]), rows([3e-9, 1]))
    assert figures.max_abs_diff == pytest.approx(2e-9)


def test_a_row_of_zeros_is_no_division_by_zero() -> None:
    figures = compare(rows([0, 0], [0, 1]), rows([0, 1], [0, 1]))
    assert (figures.max_abs_diff, figures.min_cosine, figures.worst_probe) == (1.0, 0.0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["ours", "theirs", "both"])
def test_a_row_that_is_not_finite_is_infinitely_far(value: float, side: str) -> None:
    good, bad = rows([1, 0], [0, 1], [1, 0]), rows([1, 0], [0, value], [1, 0])
    figures = compare(good if side == "theirs" else bad, good if side == "ours" else bad)
    assert figures.max_abs_diff == math.inf
    assert figures.worst_probe == 1
    assert figures.min_cosine == -1
    assert math.isfinite(figures.mean_cosine)


# The bound.


def probes_of(bundle: Bundle) -> list[Probe]:
    tokenizer = Tokenizer.of(bundle.directory, bundle.manifest.contract)
    return probes(bundle.manifest.contract.roles, tokens=tokenizer.added)


def test_a_certificate_holds_the_figures_of_each_role(bert: Encoder, bundles: dict[str, Bundle]) -> None:
    chosen, reference = load_reference(bundles["tiny-bert"])
    bound = Bound(max_abs_diff=1e-5, min_cosine=0.9999)
    certificate = certify(bert.bundle, "fp32", chosen, reference, bound=bound, reference_name="a test's")
    assert (certificate.reference, certificate.bound) == ("a test's", bound)
    assert list(certificate.by_role) == ["query", "passage"]
    parts = certificate.by_role.values()
    assert sum(part.probes for part in parts) == certificate.figures.probes == len(chosen)
    assert max(part.max_abs_diff for part in parts) == certificate.figures.max_abs_diff
    for role, part in certificate.by_role.items():
        assert chosen[part.worst_probe].role == role


def test_what_padding_does_counts_in_both_figures(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A padded vector may be the further one by its angle and not by its largest component."""
    chosen, reference = load_reference(bundles["tiny-bert"])
    exact = reference.copy()
    exact[:, 0] += 0.1
    padded = reference.copy()
    padded[:, :] = -padded * 0.01

    def encode(encoder: Encoder, probes: list[Probe]) -> NDArray[np.float32]:
        return (padded if encoder.max_padding else exact)[[chosen.index(probe) for probe in probes]]

    monkeypatch.setattr("paritas.export.certificate.certify.encode_probes", encode)
    loose = Bound(max_abs_diff=10)
    certificate = certify(bundles["tiny-bert"], "fp32", chosen, reference, bound=loose, reference_name="")
    assert certificate.figures.min_cosine == pytest.approx(-1)
    assert certificate.figures.probes == len(chosen)
    assert sum(part.probes for part in certificate.by_role.values()) == len(chosen)


@NAMES
def test_probes_are_encoded_in_their_order(name: str, bundles: dict[str, Bundle]) -> None:
    chosen, reference = load_reference(bundles[name])
    shuffled = np.random.default_rng(0).permutation(len(chosen))
    with Encoder(bundles[name].directory) as encoder:
        vectors = encode_probes(encoder, [chosen[row] for row in shuffled])
    np.testing.assert_allclose(vectors, reference[shuffled], rtol=0, atol=1e-6)


def test_a_difference_beyond_the_bound_names_the_worst_probe(
    bert: Encoder, bundles: dict[str, Bundle]
) -> None:
    chosen, reference = load_reference(bundles["tiny-bert"])
    reference = reference.copy()
    worst = next(row for row, probe in enumerate(chosen) if probe.text == "Why is the sky blue?")
    reference[worst, 0] += 0.5
    with pytest.raises(
        ParityError,
        match=r"^tiny-bert fp32: largest difference 0\.\d+ > 1e-05 over 65 probes; "
        rf"worst: #{worst}, role query, 'Why is the sky blue\?'; #\d+",
    ):
        certify(bert.bundle, "fp32", chosen, reference, bound=Bound(max_abs_diff=1e-5), reference_name="")


def test_a_cosine_below_the_bound_is_refused(bert: Encoder, bundles: dict[str, Bundle]) -> None:
    chosen, reference = load_reference(bundles["tiny-bert"])
    reference = reference.copy()
    reference[7] = -reference[7]
    with pytest.raises(ParityError, match=r"fp32: smallest cosine -1\.000000 < 0\.9999 over .*worst: #7,"):
        certify(bert.bundle, "fp32", chosen, reference, bound=Bound(min_cosine=0.9999), reference_name="")


def test_every_broken_bound_is_named(bert: Encoder, bundles: dict[str, Bundle]) -> None:
    chosen, reference = load_reference(bundles["tiny-bert"])
    bound = Bound(max_abs_diff=0.1, min_cosine=0.9)
    with pytest.raises(ParityError, match=r"largest difference \S+ > 0\.1 and smallest cosine \S+ < 0\.9 "):
        certify(bert.bundle, "fp32", chosen, -reference, bound=bound, reference_name="")


def test_a_reference_that_is_not_finite_passes_no_bound(bert: Encoder, bundles: dict[str, Bundle]) -> None:
    chosen, reference = load_reference(bundles["tiny-bert"])
    reference = reference.copy()
    reference[3] = np.nan
    for bound in (Bound(max_abs_diff=1e9), Bound(min_cosine=-0.999)):
        with pytest.raises(ParityError, match=r"worst: #3, "):
            certify(bert.bundle, "fp32", chosen, reference, bound=bound, reference_name="")


def test_a_figure_on_the_bound_is_inside(bert: Encoder, bundles: dict[str, Bundle]) -> None:
    chosen, reference = load_reference(bundles["tiny-bert"])
    loose = Bound(max_abs_diff=1)
    figures = certify(bert.bundle, "fp32", chosen, reference, bound=loose, reference_name="").figures
    bound = Bound(max_abs_diff=figures.max_abs_diff, min_cosine=figures.min_cosine)
    assert certify(bert.bundle, "fp32", chosen, reference, bound=bound, reference_name="").figures == figures
    tighter = Bound(max_abs_diff=math.nextafter(figures.max_abs_diff, 0))
    with pytest.raises(ParityError, match="largest difference"):
        certify(bert.bundle, "fp32", chosen, reference, bound=tighter, reference_name="")


def test_what_is_shown_of_a_probe_is_short(bert: Encoder, bundles: dict[str, Bundle]) -> None:
    chosen, reference = load_reference(bundles["tiny-bert"])
    longest = max(range(len(chosen)), key=lambda row: len(chosen[row].text))
    reference = reference.copy()
    reference[longest] += 1
    with pytest.raises(ParityError) as caught:
        certify(bert.bundle, "fp32", chosen, reference, bound=Bound(max_abs_diff=1e-5), reference_name="")
    assert len(str(caught.value)) < 400


# A bundle verified anew.


def copied(bundle: Bundle, directory: Path) -> Path:
    shutil.copytree(bundle.directory, directory)
    return directory


@NAMES
def test_a_bundle_verifies_again_as_it_was_certified(name: str, bundles: dict[str, Bundle]) -> None:
    bundle = bundles[name]
    certificates = verify(bundle)
    for precision, certificate in certificates.items():
        stored = bundle.variant(precision).certified
        assert (certificate.reference, certificate.bound) == (stored.reference, stored.bound)
        assert certificate.figures.probes == stored.figures.probes
    full, half = (bundle.variant(precision).certified for precision in ("fp32", "fp16"))
    assert certificates["fp32"].figures == full.figures
    assert certificates["fp32"].by_role == full.by_role
    # The stored one is of the worse graph, which is the accelerators'; here the CPU's is run.
    assert certificates["fp16"].figures.max_abs_diff < half.figures.max_abs_diff


def test_a_provider_that_is_not_there_is_refused(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(ProviderError, match="not in the installed onnxruntime"):
        verify(bundles["tiny-bert"], provider="qnn")


@pytest.mark.parametrize(
    "file", ["reference.npy", "probes.json", "tokenizer.json", "model.fp16.onnx", "model.fp32.onnx.data"]
)
def test_a_bundle_with_a_changed_file_is_refused(
    tmp_path: Path, bundles: dict[str, Bundle], file: str
) -> None:
    directory = copied(bundles["tiny-bert"], tmp_path / "bundle")
    content = bytearray((directory / file).read_bytes())
    content[-3] ^= 1
    (directory / file).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{file}: changed since the export \(sha256 "):
        verify(Bundle(directory))


def test_a_bundle_without_its_reference_is_refused(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    directory = copied(bundles["tiny-bert"], tmp_path / "bundle")
    (directory / "reference.npy").unlink()
    with pytest.raises(BundleError, match=r"reference\.npy: missing from the bundle"):
        verify(Bundle(directory))


def resigned(directory: Path) -> Bundle:
    """Give a bundle's probes and reference the digests they have now."""
    from paritas.engine.bundle.digests import digest
    from paritas.engine.bundle.manifest import FileEntry

    manifest = Bundle(directory).manifest
    for name in ("probes.json", "reference.npy"):
        path = directory / name
        manifest.files[name] = FileEntry(sha256=digest(path), size_bytes=path.stat().st_size)
    (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return Bundle(directory)


def test_a_reference_that_does_not_fit_its_probes_is_refused(
    tmp_path: Path, bundles: dict[str, Bundle]
) -> None:
    directory = copied(bundles["tiny-bert"], tmp_path / "bundle")
    chosen, reference = load_reference(Bundle(directory))
    save_reference(directory, chosen[:-1], reference)
    with pytest.raises(BundleError, match=r"reference\.npy: shape \(65, 16\), expected \(64, 16\)"):
        verify(resigned(directory))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("probes.json", b"{}"),
        ("probes.json", b'[{"role": "query"}]'),
        ("reference.npy", b"not an array"),
        ("reference.npy", b""),
    ],
)
def test_a_reference_that_cannot_be_read_is_refused(
    tmp_path: Path, bundles: dict[str, Bundle], file: str, content: bytes
) -> None:
    directory = copied(bundles["tiny-bert"], tmp_path / "bundle")
    (directory / file).write_bytes(content)
    with pytest.raises(BundleError, match=r"probes\.json or reference\.npy cannot be read"):
        verify(resigned(directory))


def test_a_pickled_reference_is_not_unpickled(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    directory = copied(bundles["tiny-bert"], tmp_path / "bundle")
    np.save(directory / "reference.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BundleError, match=r"reference\.npy cannot be read"):
        load_reference(resigned(directory))


def test_a_bundle_is_held_against_the_vectors_given(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["tiny-mpnet"]
    _, reference = load_reference(bundle)
    certificates = verify(bundle, reference)
    assert {certificate.reference for certificate in certificates.values()} == {"PyTorch float32"}
    with pytest.raises(ParityError, match=r"^tiny-mpnet fp32: largest difference"):
        verify(bundle, -reference)


def test_probes_and_reference_survive_being_saved(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        chosen, reference = load_reference(bundle)
        assert [(probe.role, probe.text) for probe in chosen] == [
            (probe.role, probe.text) for probe in probes_of(bundle)
        ]
        assert all(probe.input_ids for probe in chosen)
        save_reference(tmp_path, chosen, reference)
        for name in ("probes.json", "reference.npy"):
            assert (tmp_path / name).read_bytes() == (bundle.directory / name).read_bytes()


# The probes.


def test_every_role_of_another_rule_has_probes() -> None:
    rule = Role(max_length=16)
    chosen = probes({"query": rule, "passage": rule, "title": Role(max_length=20)})
    assert list(dict.fromkeys(probe.role for probe in chosen)) == ["query", "title"]


def test_pairs_are_probed_as_pairs_too() -> None:
    alone = probes({"passage": Role(max_length=16)})
    pairs = probes({"passage": Role(max_length=16, pair=True)})
    assert all(isinstance(probe.text, str) for probe in alone)
    assert pairs[: len(alone)] == alone
    assert all(isinstance(probe.text, tuple) for probe in pairs[len(alone) :])
    assert len(pairs) > len(alone)


@NAMES
def test_probes_reach_every_length_that_matters(name: str, bundles: dict[str, Bundle]) -> None:
    contract = bundles[name].manifest.contract
    tokenizer = Tokenizer(bundles[name].directory / "tokenizer.json", contract.roles)
    for role, rule in contract.roles.items():
        texts = [probe.text for probe in probes_of(bundles[name]) if probe.role == role]
        if not texts:
            continue  # an earlier role has the same rule
        if rule.pair:
            texts = [text if isinstance(text, tuple) else (rule.default_title, text) for text in texts]
        tokens = tokenizer.encode(texts, role)
        assert tokens.lengths.max() == rule.max_length
        assert tokens.truncated.any()
        assert tokens.lengths.min() <= 4


# The reference.


@NAMES
def test_the_reference_is_pytorchs(
    name: str, bundles: dict[str, Bundle], checkpoints: dict[str, Path]
) -> None:
    contract = bundles[name].manifest.contract
    chosen, stored = load_reference(bundles[name])
    facts = read_facts(checkpoints[name])
    ours = reference_numpy(facts, contract, chosen)
    theirs = reference_torch(facts, contract, chosen)
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours, stored)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@NAMES
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_reference_pools_as_pytorch_does(
    name: str, pooling: str, normalize: bool, bundles: dict[str, Bundle], checkpoints: dict[str, Path]
) -> None:
    contract = msgspec.structs.replace(bundles[name].manifest.contract, pooling=pooling, normalize=normalize)
    facts = read_facts(checkpoints[name])
    texts = [Probe("query", "Why is the sky blue?"), Probe("passage", "The ferry leaves the island.")]
    chosen = tokenized(texts, contract, open_second_reading(facts.directory))
    ours = reference_numpy(facts, contract, chosen)
    theirs = reference_torch(facts, contract, chosen)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6) == normalize


def test_a_pair_with_an_empty_text_is_a_pair_to_pytorch_too(
    bundles: dict[str, Bundle], checkpoints: dict[str, Path]
) -> None:
    contract, facts = bundles["tiny-bert"].manifest.contract, read_facts(checkpoints["tiny-bert"])
    texts = [Probe("passage", ""), Probe("passage", ("ferry", ""))]
    chosen = tokenized(texts, contract, open_second_reading(facts.directory))
    np.testing.assert_allclose(
        reference_torch(facts, contract, chosen), reference_numpy(facts, contract, chosen), rtol=0, atol=1e-6
    )


def test_pytorch_judges_a_bundle_where_onnx_is_not_installed() -> None:
    """`paritas verify --reference` needs torch and transformers, and nothing of the export extra."""
    code = (
        "import sys; sys.modules['onnx'] = None; "
        "from paritas.export.certificate.reference import reference_again; print(reference_again.__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "reference_again\n"), result.stderr


def test_the_error_function_is_exact_to_13_digits() -> None:
    grid = np.concatenate([np.linspace(-8, 8, 20_001), [0.0, 1e-300, 1e-12, 5.9999, 6.0, 6.0001, 100.0]])
    expected = np.array([math.erf(value) for value in grid])
    np.testing.assert_allclose(_erf(grid), expected, rtol=0, atol=1e-13)


def test_the_error_function_is_odd() -> None:
    grid = np.linspace(0, 8, 999)
    np.testing.assert_array_equal(_erf(-grid), -_erf(grid))


def test_a_damaged_optimized_graph_is_found(bundles: dict[str, Bundle], home: Path) -> None:
    """By reading it all, whatever was remembered of it."""
    bundle = bundles["tiny-bert"]
    Encoder(bundle).close()
    verify(bundle)
    (path,) = home.glob("cache/prepared/*/model.onnx")
    change_byte(path)
    with pytest.raises(BundleError, match=r"model\.onnx: changed since it was optimized.*; or type: rm -r "):
        verify(bundle)
    Encoder(bundle).close()
    verify(bundle)

"""The vectors are PyTorch's: transformers' AutoModel in FP32, pooled as the model cards do."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from paritas.engine.encoder import Encoder
from paritas.engine.pool.pooling import pool
from paritas.engine.runtime.session import PROVIDERS as PROVIDER_NAMES
from paritas.engine.runtime.session import Session
from paritas.engine.tokenize.tokenizer import Tokenizer, check_texts
from paritas.export.certificate.certify import compare
from paritas.export.fp16.simulate import simulate_fp16
from paritas.registry import Precision
from tests.parity.conftest import MODELS, TWINS, Zoo
from tests.parity.texts import prose, texts

ROLES = [(name, role) for name in MODELS for role in ("query", "passage")]
# Three of the four models have one rule for both roles: their passages would repeat the queries.
DISTINCT = [(name, role) for name, role in ROLES if role == "query" or name.startswith("simlm")]
FRONTENDS = [
    # The real weights of both networks go through optimum's front-end each time, the twins now and then.
    pytest.param(name, role, frontend, marks=[pytest.mark.slow] * (frontend == "optimum" and name in TWINS))
    for name, role in DISTINCT
    for frontend in ("native", "optimum")
]

# With the gpu extra and a card the same tests run there too.
PROVIDERS = ["cpu", *(["cuda"] if PROVIDER_NAMES["cuda"] in onnxruntime.get_available_providers() else [])]


def assert_parity(
    vectors: NDArray[np.float32], reference: NDArray[np.float32], precision: str, what: str
) -> None:
    """The one measure of all parity tests: FP32 by the largest difference, FP16 by the smallest cosine."""
    figures = compare(vectors, reference)
    print(f"{what} {precision}: max diff {figures.max_abs_diff:.2e}, min cosine {figures.min_cosine:.8f}")
    assert np.isfinite(vectors).all()
    if precision == "fp32":
        assert figures.max_abs_diff <= 1e-5, f"{what}: text #{figures.worst_probe}"
    else:
        assert figures.min_cosine >= 0.9999, f"{what}: text #{figures.worst_probe}"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("name", "role", "frontend"), FRONTENDS)
def test_vectors_are_pytorchs(
    zoo: Zoo, name: str, role: str, frontend: str, precision: str, provider: str
) -> None:
    bundle = zoo.bundle(name, frontend).directory
    with Encoder(bundle, precision=precision, provider=provider) as encoder:
        vectors = encoder.encode(zoo.texts(name, role), role=role)
    assert_parity(vectors, zoo.pytorch(name, role), precision, f"{name} {role} {frontend} {provider}")


@pytest.mark.parametrize(("name", "role"), DISTINCT)
def test_token_ids_are_those_of_transformers(zoo: Zoo, name: str, role: str) -> None:
    from transformers import AutoTokenizer

    bundle = zoo.bundle(name, "native")
    rule = bundle.manifest.contract.roles[role]
    theirs = AutoTokenizer.from_pretrained(zoo.checkpoint(name), local_files_only=True)
    ours = Tokenizer.of(bundle.directory, bundle.manifest.contract)
    for text in check_texts(zoo.texts(name, role), rule):
        parts = [[part] for part in (text if isinstance(text, tuple) else (text,))]
        expected = theirs(*parts, truncation=True, max_length=rule.max_length)
        tokens = ours.encode([text], role)
        assert tokens.input_ids.tolist() == expected["input_ids"][0], text[:80]
        if "token_type_ids" in expected:
            assert tokens.token_type_ids.tolist() == expected["token_type_ids"][0], text[:80]


@pytest.mark.parametrize(
    ("name", "frontend"), [*((name, "native") for name in MODELS), ("all-MiniLM-L6-v2", "optimum")]
)
def test_a_vector_is_the_same_bits_alone_and_in_any_batch(zoo: Zoo, name: str, frontend: str) -> None:
    role = "passage"
    # Every length class once, the longest once: eight encodings of 512 tokens by ten texts take minutes.
    short = [text for text in zoo.texts(name, role) if len(str(text).split()) < 130 or len(str(text)) > 9999]
    chosen = [*short[::2], prose(600)]
    bundle = zoo.bundle(name, frontend).directory
    with Encoder(bundle) as encoder:
        together = encoder.encode(chosen, role=role)
        order = np.random.default_rng(7).permutation(len(chosen))
        assert np.array_equal(encoder.encode([chosen[i] for i in order], role=role), together[order])
        for size in (1, 7, 33):
            parts = [
                encoder.encode(chosen[start : start + size], role=role)
                for start in range(0, len(chosen), size)
            ]
            assert np.array_equal(np.concatenate(parts), together), size
        repeated = encoder.encode([chosen[5]] * 40, role=role)
        assert (repeated == together[5]).all()
    for options in ({"max_batch_tokens": 64}, {"max_batch_tokens": 8192}, {"threads": 1}):
        with Encoder(bundle, **options) as other:
            assert np.array_equal(other.encode(chosen, role=role), together), options


@pytest.mark.parametrize(("name", "precision"), [("all-MiniLM-L6-v2", "int8"), ("all-mpnet-base-v2", "fp32")])
def test_an_optimized_graph_gives_the_same_bits(
    zoo: Zoo, cache: Path, name: str, precision: Precision
) -> None:
    """As it is made, and as it is loaded from what was made."""
    bundle = zoo.int8(name, "native") if precision == "int8" else zoo.bundle(name, "native")
    chosen = zoo.texts(name, "query")[::4]
    with Encoder(bundle, precision=precision, cache=False) as encoder:
        plain = encoder.encode(chosen, role="query")
    for _ in range(2):
        with Encoder(bundle, precision=precision) as encoder:
            assert np.array_equal(encoder.encode(chosen, role="query"), plain)
    assert len(list((cache / "prepared").iterdir())) == 1


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "all-mpnet-base-v2"])
def test_padding_moves_a_vector_by_rounding_only(zoo: Zoo, name: str) -> None:
    """Padded batches (accelerators) sum the softmax over more, zero, terms: other roundings, same vector.

    Measured on these texts: 2e-7; the bound leaves room for other kernels.
    """
    chosen = texts(zoo.models[name].roles["query"].max_length)
    bundle = zoo.bundle(name, "native").directory
    with Encoder(bundle) as exact, Encoder(bundle, max_padding=0.9, max_batch_tokens=4096) as padded:
        expected = exact.encode(chosen, role="query")
        found = padded.encode(chosen, role="query")
        assert padded.last_stats is not None
        assert padded.last_stats.padding > 0
    assert np.abs(found - expected).max() < 2e-6


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "all-mpnet-base-v2"])
def test_the_accelerators_fp16_graph_is_pytorchs_too(zoo: Zoo, name: str, tmp_path: Path) -> None:
    """The graph that computes in FP16, every result rounded as an accelerator rounds it."""
    bundle = zoo.bundle(name, "native")
    contract = bundle.manifest.contract
    for file in ("model.fp16.onnx", "model.fp16.onnx.data"):
        shutil.copy(bundle.directory / file, tmp_path)
    graph = onnx.load(tmp_path / "model.fp16.onnx", load_external_data=False)
    (tmp_path / "rounded.onnx").write_bytes(simulate_fp16(graph).SerializeToString())
    session = Session(tmp_path / "rounded.onnx", provider="cpu", threads=2)
    tokenizer = Tokenizer(bundle.directory / "tokenizer.json", contract.roles)
    rows = [row for row, text in enumerate(zoo.texts(name, "query")) if len(text) < 2000]
    vectors = []
    for row in rows:
        tokens = tokenizer.encode([zoo.texts(name, "query")[row]], "query")
        ids, mask, types = tokens.arrays(np.arange(1), int(tokens.lengths[0]))
        hidden = session.run(ids, mask, types)
        vectors.append(pool(hidden, mask, pooling=contract.pooling, normalized=contract.normalize))
    assert_parity(
        np.concatenate(vectors), zoo.pytorch(name, "query")[rows], "fp16", f"{name} on accelerators"
    )


def test_a_title_of_nothing_is_simlms_dash(zoo: Zoo) -> None:
    with Encoder(zoo.bundle("simlm-base-msmarco-finetuned", "native").directory) as encoder:
        forms = ["some text", ("", "some text"), ("-", "some text")]
        vectors = encoder.encode(forms, role="passage")
    assert (vectors == vectors[0]).all()


def test_a_pad_inside_a_text_moves_mpnets_positions(zoo: Zoo) -> None:
    """transformers does not count padding ids, wherever they stand: a word after one keeps its position."""
    with Encoder(zoo.bundle("all-mpnet-base-v2", "native").directory) as encoder:
        plain, padded = encoder.encode(["harbour ferry", "harbour <pad> ferry"], role="query")
    assert 0.5 < float(plain @ padded) < 0.9999

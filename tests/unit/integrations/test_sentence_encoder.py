"""The class that stands in for a SentenceTransformer; tests/integrations holds it against the real one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from paritas import Encoder
from paritas.engine.bundle.directory import Bundle
from paritas.errors import InputError, MissingExtraError
from paritas.export import export_model
from paritas.integrations.sentence_encoder import SentenceEncoder
from tests.unit.tiny import write_prompted_bert

TEXTS = ["the river", "", "a city in the north", "the river", "why 😀"]


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    checkpoint = write_prompted_bert(tmp_path_factory.mktemp("prompted"))
    return export_model(str(checkpoint), out=tmp_path_factory.mktemp("bundle") / "prompted")


def test_a_text_gives_its_vector_and_several_give_rows(bert: Encoder) -> None:
    model, expected = SentenceEncoder(bert), bert.encode(TEXTS, role="passage")
    assert np.array_equal(model.encode(TEXTS), expected)
    assert np.array_equal(model.encode(np.array(TEXTS)), expected)
    assert np.array_equal(model.encode(TEXTS[0]), expected[0])
    assert model.encode([]).shape == (0, 16)
    assert np.array_equal(model.encode(sentences=TEXTS), expected)
    pairs = [("Rivers", text) for text in TEXTS]
    assert np.array_equal(model.encode_document(pairs), bert.encode(pairs, role="passage"))


def test_arguments_by_place_are_sentence_transformers(bert: Encoder) -> None:
    model = SentenceEncoder(bert)
    packed = model.encode(TEXTS, "query", None, 8, False, "sentence_embedding", "ubinary")
    assert np.array_equal(packed, np.packbits(bert.encode(TEXTS, role="query") > 0, axis=1))
    assert np.array_equal(model.encode_query(TEXTS, None, None, 8), bert.encode(TEXTS, role="query"))


def test_prompts_mean_roles(prompted: Bundle) -> None:
    encoder = Encoder(prompted)
    model = SentenceEncoder(encoder)
    assert model.prompts == {"query": "query: ", "passage": "passage: ", "document": "passage: "}
    for found in (
        model.encode(TEXTS, prompt="query: "),
        model.encode(TEXTS, prompt_name="query"),
        model.encode_query(TEXTS),
    ):
        assert np.array_equal(found, encoder.encode(TEXTS, role="query"))
    assert np.array_equal(model.encode(TEXTS), encoder.encode(TEXTS, role="passage"))
    with pytest.raises(InputError, match="exported with 'query: ', 'passage: ' alone"):
        model.encode(TEXTS, prompt="")
    with pytest.raises(InputError, match="prompt_name is 'passages'; did you mean 'passage'"):
        model.encode(TEXTS, prompt_name="passages")


def test_any_prompt_goes_in_front_where_a_role_has_none(bert: Encoder) -> None:
    model = SentenceEncoder(bert)
    assert np.array_equal(model.encode(["b"], prompt="a "), model.encode(["a b"]))
    titled = model.encode_document([("b", "c")], prompt="a ")
    assert np.array_equal(titled, model.encode_document([("a b", "c")]))


def test_a_prompt_keeps_its_side(bert: Encoder) -> None:
    found = SentenceEncoder(bert).encode_query(["b"], prompt="a ")
    assert np.array_equal(found, bert.encode(["a b"], role="query"))


@pytest.mark.parametrize("texts", [["a", None], ["a", 3], [("a", None)]])
def test_what_is_no_text_is_refused_behind_a_prompt_too(bert: Encoder, texts: list[object]) -> None:
    with pytest.raises(InputError, match=r"NoneType|int|None\)"):
        SentenceEncoder(bert).encode(texts, prompt="a ")


def test_widths_and_lengths(bert: Encoder) -> None:
    model = SentenceEncoder(bert, truncate_dim=8)
    full = bert.encode(TEXTS, role="passage")
    assert np.array_equal(model.encode(TEXTS), full[:, :8])
    assert np.array_equal(model.encode(TEXTS, truncate_dim=4), full[:, :4])
    unit = model.encode(TEXTS, normalize_embeddings=True)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert model.get_embedding_dimension() == model.get_sentence_embedding_dimension() == 8
    assert model.max_seq_length == 24
    model.max_seq_length = 24
    with pytest.raises(InputError, match="the bundle takes 24 tokens"):
        model.max_seq_length = 512


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities(bert: Encoder, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(SentenceEncoder, "similarity_fn_name", name)
    model = SentenceEncoder(bert)
    first, second = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)]
    expected = {
        "cosine": unit[0] @ unit[1].T,
        "dot": first @ second.T,
        "euclidean": -np.sqrt(((first[:, None] - second) ** 2).sum(-1)),
        "manhattan": -np.abs(first[:, None] - second).sum(-1),
    }[name]
    assert np.allclose(model.similarity(first, second), expected, atol=1e-5)
    assert np.allclose(model.similarity_pairwise(first, second), np.diag(expected), atol=1e-5)
    assert model.similarity(first[0], second).shape == (1, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int4"}, "precision is 'int4'; expected one of float32"),
        ({"device": "cuda"}, "device is 'cuda'; expected 'cpu'"),
        ({"truncate_dim": 17}, "truncate_dim is 17; expected 1 to 16"),
        ({"output_value": None}, "encode_tokens"),
        ({"pool": {}}, "leave it out"),
    ],
)
def test_what_it_cannot_do_is_refused(bert: Encoder, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SentenceEncoder(bert).encode(TEXTS, **options)


def test_none_among_texts_is_refused_by_its_place(bert: Encoder) -> None:
    with pytest.raises(InputError, match="text 1 is NoneType"):
        SentenceEncoder(bert).encode(["a", None])


def test_tensors_need_torch(bert: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="torch is not installed"):
        SentenceEncoder(bert).encode(TEXTS, convert_to_tensor=True)


def test_a_path_is_taken_as_well(bundles: dict[str, Bundle]) -> None:
    directory: Path = bundles["tiny-mpnet"].directory
    assert SentenceEncoder(directory, device="cpu", threads=1).encode("a").shape == (16,)

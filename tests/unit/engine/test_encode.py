"""What `Encoder.encode` takes, what it gives back, and what it promises about both."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.schedule import call
from paritas.errors import InputError, ShapeError

TEXTS = ["the river", "night train to the north", "a", "", "water", "light of the city", "the river"] * 5


def test_vectors_come_in_the_callers_order(mpnet: Encoder) -> None:
    together = mpnet.encode(TEXTS, role="query")
    alone = np.concatenate([mpnet.encode([text], role="query") for text in TEXTS])
    assert np.array_equal(together, alone)
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS), 16)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        np.array,
        lambda texts: np.array(texts, dtype=object),
        lambda texts: np.array(texts, dtype=np.dtypes.StringDType()),
        lambda texts: (text for text in texts),
        lambda texts: dict.fromkeys(texts).keys() if len(set(texts)) == len(texts) else texts,
    ],
    ids=["list", "tuple", "iterator", "str array", "object array", "StringDType", "generator", "keys view"],
)
def test_any_iterable_of_strings_gives_the_same_vectors(mpnet: Encoder, form) -> None:
    texts = ["the river", "a night", "north water"]
    assert np.array_equal(mpnet.encode(form(texts), role="query"), mpnet.encode(texts, role="query"))


def test_an_array_of_pairs_is_taken_as_pairs(bert: Encoder) -> None:
    pairs = [("the city", "light of the city"), ("north", "a train")]
    expected = bert.encode(pairs, role="passage")
    assert np.array_equal(bert.encode(np.array(pairs), role="passage"), expected)
    assert np.array_equal(bert.encode([list(pair) for pair in pairs], role="passage"), expected)


def test_no_texts_give_zero_by_dim(mpnet: Encoder) -> None:
    assert mpnet.encode([], role="query").shape == (0, 16)
    assert mpnet.encode(iter(()), role="query").dtype == np.float32


def test_a_text_has_the_default_title_of_its_role(bert: Encoder) -> None:
    vectors = bert.encode(["the river", ("", "the river"), ("-", "the river")], role="passage")
    assert (vectors == vectors[0]).all()
    assert not np.array_equal(vectors[:1], bert.encode([("north", "the river")], role="passage"))


def test_many_texts_cross_the_tokenizers_chunks(mpnet: Encoder) -> None:
    texts = [f"river {number % 7}" for number in range(5000)]
    vectors = mpnet.encode(iter(texts), role="query")
    assert np.array_equal(vectors[:7], vectors[4998 - 4998 % 7 - 7 : 4998 - 4998 % 7])


def test_out_is_filled_and_returned(mpnet: Encoder) -> None:
    out = np.full((len(TEXTS), 16), np.nan, np.float32)
    assert mpnet.encode(TEXTS, role="query", out=out) is out
    assert np.array_equal(out, mpnet.encode(TEXTS, role="query"))


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, 16), np.float32),
        np.zeros((3, 17), np.float32),
        np.zeros((3, 16), np.float64),
        np.zeros((3, 32), np.float32)[:, ::2],
        np.zeros((16, 3), np.float32).T,
        [[0.0] * 16] * 3,
    ],
    ids=["too few rows", "too wide", "float64", "strided", "transposed", "a list"],
)
def test_an_out_that_does_not_fit_is_refused(mpnet: Encoder, out) -> None:
    with pytest.raises(ShapeError, match="out"):
        mpnet.encode(["a", "b", "c"], role="query", out=out)


def test_a_read_only_out_is_refused(mpnet: Encoder) -> None:
    out = np.zeros((1, 16), np.float32)
    out.setflags(write=False)
    with pytest.raises(ShapeError, match="writeable"):
        mpnet.encode(["a"], role="query", out=out)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one string", "single string"),
        (np.array("one string"), "single string"),
        (b"bytes", "single string"),
        (["fine", None], "text 1 is NoneType None; expected a string"),
        (["fine", 7], "text 1 is int 7"),
        (["fine", float("nan")], "text 1 is float nan"),
        (["fine", b"bytes"], "text 1 is bytes"),
        (["fine", "half \ud83d"], "text 1 holds half a surrogate pair"),
        ([("a", "pair")], "text 0 is a pair"),
        ([["nested"]], r"text 0 is list \['nested'\]"),
        (42, "expected an iterable"),
        (None, "expected an iterable"),
        (np.array(7), "expected an iterable"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(mpnet: Encoder, texts, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mpnet.encode(texts, role="query")


@pytest.mark.parametrize("pair", [("a",), ("a", "b", "c"), ("a", None), (None, "b"), (1, 2)])
def test_what_is_no_pair_is_refused(bert: Encoder, pair) -> None:
    with pytest.raises(InputError, match=r"text 0 is tuple .*; expected a string or a"):
        bert.encode([pair], role="passage")


def test_the_place_of_a_bad_text_counts_through_chunks(mpnet: Encoder) -> None:
    def texts() -> Iterator[object]:
        yield from ["river"] * 3000
        yield None

    with pytest.raises(InputError, match="text 3000 is NoneType"):
        mpnet.encode(texts(), role="query")


def test_an_unknown_role_names_the_nearest(bert: Encoder) -> None:
    with pytest.raises(InputError, match="unknown role 'pasage'; did you mean 'passage'"):
        bert.encode(["a"], role="pasage")


def test_stats_say_what_the_last_call_did(mpnet: Encoder) -> None:
    mpnet.encode(["the river", "the", "the north " * 40], role="query")
    stats = mpnet.last_stats
    assert stats is not None
    assert (stats.texts, stats.truncated, stats.padding, stats.batches) == (3, 1, 0, 3)
    assert stats.tokens == 4 + 3 + 40
    assert stats.padding_share == 0
    assert stats.total_s >= stats.run_s + stats.pool_s
    assert (stats + stats).tokens == 2 * stats.tokens


def test_a_repeated_text_is_computed_once(mpnet: Encoder) -> None:
    alone = [mpnet.encode([text], role="query")[0] for text in TEXTS]
    together = mpnet.encode(TEXTS, role="query")
    assert np.array_equal(together, alone)
    stats = mpnet.last_stats
    assert stats is not None
    distinct = list(dict.fromkeys(TEXTS))
    assert len(distinct) < len(TEXTS)
    mpnet.encode(distinct, role="query")
    assert mpnet.last_stats is not None
    assert (stats.texts, stats.tokens, stats.batches) == (
        len(TEXTS),
        mpnet.last_stats.tokens,
        mpnet.last_stats.batches,
    )


def test_each_repeat_of_a_truncated_text_counts(mpnet: Encoder) -> None:
    mpnet.encode(["the north " * 40, "a", "the north " * 40], role="query")
    assert mpnet.last_stats is not None
    assert mpnet.last_stats.truncated == 2


def test_a_pair_is_no_repeat_of_another_pair(bert: Encoder) -> None:
    pairs = [("the city", "light"), ("the", "city light"), ("the city", "light")]
    vectors = bert.encode(pairs, role="passage")
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


def test_windows_are_tokenised_while_others_run(mpnet: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"river {number} {'north ' * (number % 9)}" for number in range(100)]
    expected = mpnet.encode(texts, role="query")
    monkeypatch.setattr(call, "WINDOW", 16)
    assert np.array_equal(
        mpnet.encode(texts + texts[::-1], role="query"), np.vstack([expected, expected[::-1]])
    )
    assert mpnet.last_stats is not None
    assert mpnet.last_stats.texts == 200


def test_stats_are_each_threads_own(mpnet: Encoder) -> None:
    mpnet.encode(["the river"], role="query")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: mpnet.last_stats).result() is None
        pool.submit(mpnet.encode, ["a", "b"], role="query").result()
    assert mpnet.last_stats is not None
    assert mpnet.last_stats.texts == 1


def test_concurrent_encode_matches_serial(bert: Encoder) -> None:
    batches = [[f"{text} {seed}" for text in TEXTS[:seed]] for seed in range(1, 25)]
    serial = [bert.encode(batch, role="query") for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda batch: bert.encode(batch, role="query"), batches))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(threaded, serial, strict=True))


def test_progress_goes_to_standard_error(mpnet: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    mpnet.encode(TEXTS, role="query", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "35/35" in captured.err


# The vectors of tokens.


def test_the_mean_of_the_tokens_is_the_texts_vector(bundles: dict[str, Bundle]) -> None:
    texts = ["the river", "a city in the north", "", "the river"]
    for padding in (0.0, 0.9):
        with Encoder(bundles["tiny-mpnet"], max_padding=padding) as encoder:
            found = encoder.encode_tokens(iter(texts), role="query")
            stats = encoder.last_stats
            lengths = encoder.stages.tokenizer.encode(texts, "query").lengths
            means = np.stack([vectors.mean(axis=0) for vectors in found])
            expected = encoder.encode(texts, role="query")
        assert [len(vectors) for vectors in found] == lengths.tolist()
        assert stats is not None
        assert (stats.texts, stats.tokens) == (4, int(lengths[:3].sum()))
        assert found[0] is not found[3]
        assert np.array_equal(found[0], found[3])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        assert np.allclose(means, expected, atol=1e-6)


def test_no_texts_have_no_tokens(mpnet: Encoder) -> None:
    assert mpnet.encode_tokens([], role="query") == []


def test_a_graph_of_the_first_token_alone_has_no_vectors_of_tokens(bert: Encoder) -> None:
    with pytest.raises(InputError, match="there are no vectors of tokens"):
        bert.encode_tokens(["the river"], role="query")
    assert bert.encode(["the river"], role="query").shape == (1, 16)

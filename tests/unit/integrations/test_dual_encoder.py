"""An encoder as frameworks see one: roles, one bundle a process, event loops, copies."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from paritas import AsyncEncoder, Encoder
from paritas.engine.bundle.directory import Bundle
from paritas.errors import BundleError, InputError, Overloaded
from paritas.integrations import dual_encoder
from paritas.integrations.dual_encoder import DualEncoder, as_options, shared_encoder

TEXTS = ["the river", "", "a city in the north", "the river", "why 😀"]


@pytest.fixture
def bundle(bundles: dict[str, Bundle]) -> Path:
    return bundles["tiny-bert"].directory


def test_each_side_has_its_role(bundle: Path, bert: Encoder) -> None:
    both = DualEncoder(bundle)
    assert np.array_equal(both.queries(TEXTS), bert.encode(TEXTS, role="query"))
    assert np.array_equal(both.passages(TEXTS), bert.encode(TEXTS, role="passage"))
    swapped = DualEncoder(bundle, query_role="passage", passage_role="query")
    assert np.array_equal(swapped.queries(TEXTS), bert.encode(TEXTS, role="passage"))
    assert both.takes_titles and not both.is_symmetric and not swapped.takes_titles


def test_a_role_that_the_model_lacks_is_named_with_those_it_has(bundle: Path) -> None:
    with pytest.raises(
        InputError, match="tiny-bert has no role 'question', but query, passage; type: query_role='query'"
    ):
        DualEncoder(bundle, query_role="question")
    with pytest.raises(InputError, match="passage_role="):
        DualEncoder(bundle, passage_role="document")


def test_of_one_role_the_error_names_the_callers_argument(bundle: Path, bert: Encoder) -> None:
    one = DualEncoder.of_one_role(bundle, "role", "query")
    assert np.array_equal(one.passages(TEXTS), bert.encode(TEXTS, role="query"))
    assert np.array_equal(one.queries(TEXTS), bert.encode(TEXTS, role="query"))
    with pytest.raises(InputError, match="no role 'text', but query, passage; type: role='query'"):
        DualEncoder.of_one_role(bundle, "role", "text")


def test_an_encoder_has_its_options_already(bert: Encoder) -> None:
    assert DualEncoder(bert).encoder is bert
    with pytest.raises(InputError, match="leave out precision"):
        DualEncoder(bert, precision="fp32")


def test_a_title_makes_a_pair_where_the_model_takes_pairs(bert: Encoder, mpnet: Encoder) -> None:
    assert DualEncoder(bert).titled("Rivers", "the river") == ("Rivers", "the river")
    assert DualEncoder(mpnet).titled("Rivers", "the river") == "Rivers the river"
    assert DualEncoder(bert).titled("", "the river") == "the river"  # with the model's own default title
    assert DualEncoder(bert).titled(None, None) is None  # for the encoder to refuse
    with pytest.raises(InputError, match="a document's text is NoneType; expected a string"):
        DualEncoder(mpnet).titled("Rivers", None)
    with pytest.raises(InputError, match="a document's title is float"):
        DualEncoder(mpnet).titled(float("nan"), "the river")


def test_a_process_loads_a_bundle_once_for_the_same_options(bundle: Path) -> None:
    first = DualEncoder(bundle, threads=1)
    assert DualEncoder(str(bundle), threads=1).encoder is first.encoder
    assert DualEncoder(bundle, threads=1, query_role="passage").encoder is first.encoder
    assert DualEncoder(bundle).encoder is not first.encoder
    assert shared_encoder(Bundle(bundle), {"threads": 1}) is first.encoder


def test_an_encoder_that_nobody_holds_is_let_go(bundle: Path) -> None:
    gone = id(DualEncoder(bundle, threads=1, max_batch_tokens=77).encoder)
    gc.collect()
    again = DualEncoder(bundle, threads=1, max_batch_tokens=77).encoder
    assert again.settings.max_batch_tokens == 77
    assert gone is not None


def test_calls_of_several_event_loops(bundle: Path, bert: Encoder) -> None:
    both = DualEncoder(bundle)

    async def many() -> None:
        rows = await asyncio.gather(*[both.queries_async([text]) for text in TEXTS])
        assert np.array_equal(np.concatenate(rows), bert.encode(TEXTS, role="query"))
        assert np.array_equal(await both.passages_async(iter(TEXTS)), bert.encode(TEXTS, role="passage"))

    asyncio.run(many())
    asyncio.run(many())


def test_a_call_waits_where_the_queue_is_full(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = DualEncoder(bundle)
    encode, refusals = AsyncEncoder.encode, iter([Overloaded("full", 0.001)] * 3)

    async def full(self: AsyncEncoder, texts: list[str], *, role: str) -> object:
        if (error := next(refusals, None)) is not None:
            raise error
        return await encode(self, texts, role=role)

    monkeypatch.setattr(AsyncEncoder, "encode", full)
    assert np.array_equal(asyncio.run(both.queries_async(TEXTS)), both.queries(TEXTS))
    assert next(refusals, None) is None


def test_an_event_loop_does_not_wait_for_a_bundle_that_another_thread_loads(bundle: Path) -> None:
    both, found = DualEncoder(bundle), []
    loop = Thread(target=lambda: found.append(asyncio.run(both.queries_async(["a"]))), daemon=True)
    with dual_encoder._sharing:
        loop.start()
        loop.join(60)
    assert found[0].shape == (1, 16)


@pytest.mark.parametrize("texts", ["the river", {"a": 1}, {"a"}])
def test_calls_of_event_loops_are_checked_alike(bundle: Path, texts: object) -> None:
    with pytest.raises(InputError, match="texts is"):
        asyncio.run(DualEncoder(bundle).passages_async(texts))


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"fingerprint": "0" * 64}, "another model than the table was made with"),
        (
            {"family": "int8"},
            'the table has vectors with family .int8., and not .float.; type: precision="int8"',
        ),
        ({"dim": 8}, "with dim 8, and not 16; type: truncate_dim=8"),
        ({"query_role": "passage"}, "type: query_role='passage'"),
    ],
)
def test_vectors_of_another_encoder_are_told_from_these(
    bundle: Path, kept: dict[str, object], said: str
) -> None:
    both = DualEncoder(bundle)
    both.check_facts(both.facts, "the table")
    both.check_facts({"fingerprint": "", "model": "another"}, "the table")  # nothing that is compared
    with pytest.raises(BundleError, match=said):
        both.check_facts({**both.facts, **kept}, "the table")


def test_roles_that_encode_alike_have_the_same_vectors(mpnet: Encoder) -> None:
    assert DualEncoder(mpnet).is_symmetric
    DualEncoder(mpnet, query_role="passage").check_facts(DualEncoder(mpnet).facts, "the table")


def test_what_auto_became_is_the_encoder_of_that_precision(bundle: Path) -> None:
    first = DualEncoder(bundle, precision="auto", max_batch_tokens=77)
    assert DualEncoder(bundle, **first.options).encoder is first.encoder
    assert DualEncoder(bundle, precision="auto", max_batch_tokens=77).encoder is first.encoder


def test_options_that_are_kept_name_the_precision_that_runs(bundle: Path) -> None:
    assert DualEncoder(bundle).options == {"precision": "fp32"}
    options = {"precision": "auto", "truncate_dim": np.int64(8), "threads": 1}
    kept = DualEncoder(bundle, **options).options
    assert kept == {"precision": "fp32", "truncate_dim": 8, "threads": 1}
    assert type(kept["truncate_dim"]) is int


def test_an_option_that_there_is_not_is_named_with_the_nearest(bundle: Path) -> None:
    with pytest.raises(InputError, match="unknown option 'precison'; did you mean 'precision'"):
        DualEncoder(bundle, precison="fp32")
    assert as_options(None) == {}
    with pytest.raises(InputError, match="options is str; expected a dictionary"):
        as_options("int8")


def test_a_name_keeps_its_meaning(bundle: Path) -> None:
    both = DualEncoder(bundle)
    both.check_name("x", None)
    both.check_name("x", DualEncoder(bundle, threads=1))
    with pytest.raises(InputError, match="'x' is tiny-bert already"):
        both.check_name("x", DualEncoder(bundle, truncate_dim=8))


def test_copies(bundle: Path) -> None:
    both = DualEncoder(bundle)
    asyncio.run(both.queries_async(["a"]))
    assert copy.deepcopy(both) is both
    again = pickle.loads(pickle.dumps(both))
    assert np.array_equal(again.queries(TEXTS), both.queries(TEXTS))
    asyncio.run(again.queries_async(["a"]))

"""What callers pass: taken as it is meant, or refused with what was expected."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from paritas.errors import InputError, ShapeError, VectorIndexError
from tests.unit.vectors import filled, unit_vectors


class Name(str, Enum):  # noqa: UP042 - str() of a StrEnum's member is its value, of this one's it is not
    A = "a"
    B = "the value"


def test_an_enumerations_members_are_their_values(bert: Encoder) -> None:
    with VectorIndex(bert) as index:
        index.add([Name.A, Name.B], unit_vectors(2), titles=[Name.B, Name.A], texts=[Name.A, Name.B])
        hit = index.search(unit_vectors(2)[1:], 1)[0][0]
        assert (hit.id, hit.title, hit.text) == ("the value", "a", "the value")
        assert {type(hit.id), type(hit.title), type(hit.text)} == {str}
        assert Name.A in index
        assert "a" in index
        assert "Name.A" not in index
        index.remove([Name.B, np.str_("a")])
        assert len(index) == 0


@pytest.mark.parametrize(
    "ids", ["ab", b"ab", {"a": 1, "b": 2}, {"a", "b"}, iter(["a", "b"]), 7, None, np.array([["a", "b"]])]
)
def test_what_is_no_list_of_ids_is_refused(bert: Encoder, ids: Any) -> None:
    with filled(bert, 3) as index:
        with pytest.raises(InputError, match=r"ids are .*; expected a list of strings, for one: \[id\]"):
            index.add(ids, unit_vectors(2))
        with pytest.raises(InputError, match="expected a list of strings"):
            index.remove(ids)
        for name in ("titles", "texts"):
            if ids is not None:
                with pytest.raises(InputError, match=f"{name} are "):
                    index.add(["a", "b"], unit_vectors(2), **{name: ids})
        assert len(index) == 3


def test_none_is_no_id(bert: Encoder) -> None:
    with filled(bert, 3) as index, pytest.raises(InputError, match="id None is NoneType; expected a string"):
        index.add(["a", None], unit_vectors(2))


@pytest.mark.parametrize("k", [2.5, True, "3", None, [3], np.float32(3)])
def test_k_is_a_whole_number(bert: Encoder, k: Any) -> None:
    with filled(bert, 3) as index:
        for use in (index.search, index.recall):
            with pytest.raises(InputError, match=r"k is .*; expected a whole number of 1 or more"):
                use(unit_vectors(1), k)
        with pytest.raises(InputError, match=r"count is .*; expected a whole number of 0 or more"):
            index.sample(k)
        with pytest.raises(InputError, match=r"seed is .*; expected a whole number of 0 or more"):
            index.sample(1, seed=k)


def test_numpys_whole_numbers_and_truths_are_taken(bert: Encoder) -> None:
    with filled(bert, 5) as index:
        assert len(index.search(unit_vectors(1), np.int64(3), exact=np.True_)[0]) == 3
        assert len(index.search(unit_vectors(1), 10**30)[0]) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"connectivity": "16"}, r"connectivity is '16'; expected a whole number of 2 or more"),
        ({"connectivity": True}, "connectivity is True"),
        ({"expansion_add": 12.0}, r"expansion_add is 12\.0; expected"),
        ({"expansion_search": None}, "expansion_search is None"),
        ({"metric": 7}, "unknown metric 7; expected one of ip, cos, l2sq"),
        ({"metric": ["ip"]}, "unknown metric"),
        ({"dtype": None}, "unknown dtype None; expected one of f32, f16, bf16"),
    ],
)
def test_options_of_another_type_are_refused(bert: Encoder, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VectorIndex(bert, **options)


def test_flags_and_paths_of_another_type_are_refused(bert: Encoder, tmp_path: Path) -> None:
    with filled(bert, 3) as index:
        uses: list[tuple[Callable[[], object], str]] = [
            (lambda: index.search(unit_vectors(1), exact="no"), "exact is 'no'"),
            (lambda: VectorIndex.load(tmp_path, mmap=None), "mmap is None"),
            (lambda: VectorIndex.load(None), "the index's directory is None"),
            (lambda: index.save(7), "the index's directory is 7"),
            (lambda: index.save("a\0b"), "holds a NUL character"),
        ]
        for use, message in uses:
            with pytest.raises(InputError, match=message):
                use()
        with pytest.raises(ShapeError, match="vectors are no array"):
            index.search([[1.0], [1.0, 2.0]])


def test_what_is_no_string_is_in_no_index(bert: Encoder) -> None:
    with VectorIndex(bert) as index:
        index.add(["7"], unit_vectors(1))
        assert 7 not in index
        assert None not in index
        assert "\ud83d" not in index


def test_numbers_beyond_f16_are_refused(bert: Encoder) -> None:
    vectors = np.full((1, 16), 1e6, np.float32)
    with VectorIndex(bert, dtype="f16") as index, pytest.raises(InputError, match=r"beyond 65,504"):
        index.add(["a"], vectors)
    with VectorIndex(bert, dtype="bf16") as index:
        index.add(["a"], vectors)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_vectors_too_long_to_be_compared_are_refused(bert: Encoder, dtype: Any) -> None:
    """Their products are infinite, and what is found by them stands in no order."""
    vectors = np.full((1, 16), 3e38, np.float32)
    with VectorIndex(bert, dtype=dtype) as index:
        index.add(["a"], unit_vectors(1))
        for use in (lambda: index.add(["b"], vectors), lambda: index.search(vectors)):
            with pytest.raises(InputError, match="too l"):
                use()


@pytest.mark.parametrize("name", ["connectivity", "expansion_add", "expansion_search"])
def test_numbers_beyond_any_use_are_refused(bert: Encoder, name: str) -> None:
    for number in (2**31, 2**64):
        with pytest.raises(InputError, match=rf"{name} is {number}; expected \d+ or less"):
            VectorIndex(bert, **{name: number})  # type: ignore[arg-type]


def test_a_mapped_index_is_pickled_as_its_directory(bert: Encoder, tmp_path: Path) -> None:
    with filled(bert, 9) as index:
        with pytest.raises(VectorIndexError, match=r"cannot be pickled; save it"):
            pickle.dumps(index)
        index.save(tmp_path / "index")
    with VectorIndex.load(tmp_path / "index") as index:
        for other in (pickle.loads(pickle.dumps(index)), copy.copy(index)):
            assert other.search(unit_vectors(2), 3) == index.search(unit_vectors(2), 3)
            other.close()

"""What callers hand over: texts of every kind, options and arguments of a wrong type."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.errors import InputError, RegistryError
from paritas.export import export_model
from paritas.registry import Model, Registry, load_registry


class Colour(str, Enum):  # noqa: UP042 - StrEnum's str() is its value
    """Its str() is "Colour.RED", its value is a text."""

    RED = "the river"


class Loud(str):
    """Says something else of itself, in every way it can."""

    def __str__(self) -> str:
        return "loud"

    def isascii(self) -> bool:
        return True


@pytest.mark.parametrize("text", [Colour.RED, Loud("the river"), np.str_("the river")])
def test_a_kind_of_string_is_encoded_as_what_it_holds(mpnet: Encoder, bert: Encoder, text: str) -> None:
    (expected,) = mpnet.encode(["the river"], role="query")
    np.testing.assert_array_equal(mpnet.encode([text], role="query")[0], expected)
    (expected,) = bert.encode([("the river", "the river")], role="passage")
    np.testing.assert_array_equal(bert.encode([(text, text)], role="passage")[0], expected)


def test_half_a_character_is_found_in_every_kind_of_string(mpnet: Encoder) -> None:
    with pytest.raises(InputError, match="text 0 holds half a surrogate pair"):
        mpnet.encode([Loud("\ud83d")], role="query")


class Column:
    """As PyArrow's: what it yields are no strings."""

    def __iter__(self) -> Iterator[object]:
        return iter([object()])

    def to_pylist(self) -> list[str]:
        return ["the river", "the north"]


@pytest.mark.parametrize(
    "texts",
    [
        deque(["the river", "the north"]),
        (text for text in ["the river", "the north"]),
        dict.fromkeys(["the river", "the north"]).keys(),
        {1: "the river", 2: "the north"}.values(),
        np.array(["the river", "the north"], dtype=object),
        Column(),
    ],
)
def test_whatever_yields_texts_in_order_is_encoded(mpnet: Encoder, texts: Any) -> None:
    expected = mpnet.encode(["the river", "the north"], role="query")
    np.testing.assert_array_equal(mpnet.encode(texts, role="query"), expected)


def test_an_array_of_two_columns_holds_pairs(bert: Encoder) -> None:
    found = bert.encode(np.array([["the river", "the north"]]), role="passage")
    np.testing.assert_array_equal(found, bert.encode([("the river", "the north")], role="passage"))


class Table:
    """As pandas', Polars' and PyArrow's: iterating it yields its columns, or their names."""

    columns = ("text",)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "the river"}, r"texts is dict, which yields its keys; type: list\(texts.values\(\)\)$"),
        (
            Table(),
            r'texts is Table, a table, .*; give one of them, as in encode\(texts\["text"\], role=...\)$',
        ),
        ({"the river"}, r"texts is set, which has no order.*; type: sorted\(texts\)$"),
        (frozenset(["the river"]), "texts is frozenset, which has no order"),
        (io.StringIO("the river\n"), r'an open file.*; type: \[line.rstrip\("\\n"\) for line in texts\]$'),
        (bytearray(b"ab"), "texts is bytearray, a single string"),
        (memoryview(b"ab"), "texts is memoryview, a single string"),
        (Colour.RED, "texts is Colour, a single string"),
        (
            np.array([["a", "b", "c"]]),
            r"texts is ndarray, of shape \(1, 3\); expected \(texts,\), or \(texts, 2\)",
        ),
        (np.array(["fine", None], dtype=object), "text 1 is NoneType None"),
    ],
)
def test_what_yields_something_else_than_its_texts_is_refused(
    mpnet: Encoder, texts: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mpnet.encode(texts, role="query")


@pytest.mark.parametrize("role", [None, 1, ["query"], b"query"])
def test_a_role_that_is_no_string_is_refused(mpnet: Encoder, role: Any) -> None:
    with pytest.raises(InputError, match=r"^role is .*; expected one of query, passage$"):
        mpnet.encode(["the river"], role=role)


WRONG_TYPES = {
    "precision": [None, ["fp32"], 32, b"fp32", np.array(["fp32", "fp16"])],
    "provider": [None, 1, ["cpu"], ""],
    "threads": ["2", 2.0, True, -1, [2], 2**40, float("nan")],
    "workers": ["2", 2.0, True, [], 10**30],
    "max_batch_tokens": ["512", 512.0, False, 2**40],
    "max_padding": ["0", float("nan"), float("inf"), -0.1, True, [], 1j],
    "memory_limit": [[], {}, float("nan"), b"512MiB", "9" * 400, True],
    "cache": ["no", 1, None, []],
    "truncate_dim": [[], "8", 8.0, True, 10**30],
}


@pytest.mark.parametrize("option", WRONG_TYPES)
def test_an_option_of_a_wrong_type_is_one_error_that_names_it(
    bundles: dict[str, Bundle], option: str
) -> None:
    for value in WRONG_TYPES[option]:
        with pytest.raises(InputError, match=rf"^(unknown )?{option} .*; expected "):
            Encoder(bundles["tiny-mpnet"], **{option: value})


@pytest.mark.parametrize("model", [None, 5, b"tiny-mpnet", ["tiny-mpnet"], "tiny\0mpnet"])
def test_a_model_that_is_no_name_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match=r"^model is .*; expected a registry id, a hub id or a directory$"):
        Encoder(model)


def test_numbers_of_numpy_are_numbers(bundles: dict[str, Bundle], mpnet: Encoder) -> None:
    options: dict[str, Any] = {
        "threads": np.int64(2),
        "workers": np.int32(1),
        "max_batch_tokens": np.uint16(64),
    }
    options |= {"max_padding": np.float32(0.25), "truncate_dim": np.int64(8), "cache": np.True_}
    with Encoder(bundles["tiny-mpnet"], **options) as encoder:
        assert (encoder.settings.threads, encoder.settings.workers, encoder.dim) == (2, 1, 8)
        assert {type(number) for number in (encoder.settings.threads, encoder.dim)} == {int}
        assert encoder.encode(["the river"], role="query").shape == (1, 8)


@pytest.mark.parametrize("path", [5, b"models.yaml", ["models.yaml"], "models\0.yaml", {}])
def test_a_registry_is_loaded_from_a_path(path: Any) -> None:
    with pytest.raises(InputError, match=r"^path is .*; expected a YAML file's path, or None$"):
        load_registry(path)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (None, r"models is None; expected models by id; for a file type: load_registry\(path\)"),
        ("models.yaml", "models is 'models.yaml'; expected models by id"),
        ({"tiny": {}}, r"models\['tiny'\] is dict \{\}; expected a Model under its id"),
        ({7: Model()}, r"models\[7\] is Model .*; expected a Model under its id"),
    ],
)
def test_a_registry_holds_models_by_id(models: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Registry(models)


def test_a_registry_is_asked_as_a_mapping_is() -> None:
    registry = Registry({"tiny": Model()})
    assert registry.get("tiny") == Model()
    assert registry.get("tinier") is None
    assert registry.get("tinier", Model()) == Model()
    assert ["tiny"] not in registry
    for name in (None, 7, ["tiny"]):
        with pytest.raises(RegistryError, match="unknown model "):
            registry[name]  # type: ignore[index]


EXPORTED_FROM = {
    "source": [5, b"hub", ["hub"], "a\0b"],
    "precisions": ["fp32", None, 32],
    "calibration": [["a text"], 5],
    "judgements": [5, b"scifact"],
    "out": [5, b"out", "a\0b"],
    "registry": ["models.yaml", {}, 5],
    "report": [None, "print"],
    "name": [None, 5, b"tiny-bert", ["tiny-bert"]],
}


@pytest.mark.parametrize("option", EXPORTED_FROM)
def test_an_argument_of_an_export_of_a_wrong_type_is_named(option: str, tiny_registry: Registry) -> None:
    for value in EXPORTED_FROM[option]:
        with pytest.raises(InputError, match=rf"^{option} is .*; expected "):
            export_model(**{"name": "tiny-bert", "registry": tiny_registry, option: value})


def test_a_source_may_be_a_path(
    checkpoints: dict[str, Path], tiny_registry: Registry, tmp_path: Path
) -> None:
    made = export_model(
        "tiny-bert", source=checkpoints["tiny-bert"], registry=tiny_registry, out=tmp_path / "out"
    )
    assert made.manifest.model == "tiny-bert"

"""The models registry: what is built in, what a user may add, and what every mistake is answered with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paritas.errors import ParitasError, RegistryError
from paritas.registry import Bound, Model, Registry, RoleEntry, load_registry

ENTRY = "{network: bert, dim: 16, pooling: cls, roles: {query: {max_length: 8}}}"


def mine(more: str = "", *, name: str = "mine", put: tuple[str, str] = ("", "")) -> str:
    """A registry of one model: the entry above, with keys added or one part of it replaced."""
    entry = ENTRY.replace(*put)
    return f"models: {{{name}: {entry[:-1]}{', ' if more else ''}{more}}}}}"


def write(directory: Path, text: str) -> Path:
    path = directory / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(directory: Path, text: str) -> str:
    """Load a registry that is refused; return what the error says."""
    with pytest.raises(RegistryError) as caught:
        load_registry(write(directory, text))
    assert str(directory / "models.yaml") in str(caught.value)
    return str(caught.value)


def test_four_models_are_built_in() -> None:
    assert list(load_registry()) == [
        "simlm-base-msmarco-finetuned",
        "multi-qa-mpnet-base-cos-v1",
        "all-mpnet-base-v2",
        "all-MiniLM-L6-v2",
    ]


@pytest.mark.parametrize(
    ("name", "network", "dim", "pooling", "roles"),
    [
        (
            "simlm-base-msmarco-finetuned",
            "bert",
            768,
            "cls",
            {
                "query": RoleEntry(max_length=32),
                "passage": RoleEntry(max_length=144, pair=True, default_title="-"),
            },
        ),
        (
            "multi-qa-mpnet-base-cos-v1",
            "mpnet",
            768,
            "mean",
            {"query": RoleEntry(max_length=512), "passage": RoleEntry(max_length=512)},
        ),
        (
            "all-mpnet-base-v2",
            "mpnet",
            768,
            "mean",
            {"query": RoleEntry(max_length=384), "passage": RoleEntry(max_length=384)},
        ),
        (
            "all-MiniLM-L6-v2",
            "bert",
            384,
            "mean",
            {"query": RoleEntry(max_length=256), "passage": RoleEntry(max_length=256)},
        ),
    ],
)
def test_a_built_in_model_is_described_as_its_card_does(
    name: str, network: str, dim: int, pooling: str, roles: dict[str, RoleEntry]
) -> None:
    model = load_registry()[name]
    assert (model.network, model.dim, model.pooling, model.normalize) == (network, dim, pooling, True)
    assert model.roles == roles


def test_every_built_in_model_has_a_hub_source_at_one_commit() -> None:
    for name, model in load_registry().items():
        assert model.sources.hub is not None, name
        assert model.sources.hub.repo.endswith("/" + name)
        assert re.fullmatch("[0-9a-f]{40}", model.sources.hub.revision), name


def test_the_models_that_come_as_packages_have_known_digests() -> None:
    registry = load_registry()
    assert registry["all-mpnet-base-v2"].digests == {
        "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
    }
    assert registry["all-MiniLM-L6-v2"].digests == {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    }
    packaged = [name for name, model in registry.items() if model.sources.package is not None]
    assert packaged == ["all-mpnet-base-v2", "all-MiniLM-L6-v2"]


def test_the_built_in_bounds_hold_unless_an_entry_has_its_own(tmp_path: Path) -> None:
    model = load_registry(write(tmp_path, mine("bounds: {fp16: {min_cosine: 0.5}}")))["mine"]
    assert model.bound("fp32") == Bound(max_abs_diff=1e-5)
    assert model.bound("fp16") == Bound(min_cosine=0.5)
    assert load_registry()["all-mpnet-base-v2"].bound("fp16") == Bound(min_cosine=0.9999)


def test_a_file_given_adds_models_after_the_built_in_ones(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, mine()))
    assert list(registry) == [*load_registry(), "mine"]
    assert registry["mine"] == Model(network="bert", dim=16, pooling="cls", roles={"query": RoleEntry(8)})


def test_a_file_given_overrides_a_built_in_model_in_its_place(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, mine(name="all-mpnet-base-v2")))
    assert registry["all-mpnet-base-v2"].dim == 16
    assert list(registry) == list(load_registry())


def test_the_environment_names_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITAS_REGISTRY", str(write(tmp_path, mine())))
    assert "mine" in load_registry()


def test_a_file_given_is_taken_instead_of_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITAS_REGISTRY", str(tmp_path / "absent.yaml"))
    registry = load_registry(write(tmp_path, mine()))
    assert "mine" in registry


def test_an_empty_environment_variable_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITAS_REGISTRY", "")
    assert len(load_registry()) == 4


def test_one_registry_does_not_change_another(tmp_path: Path) -> None:
    path = write(tmp_path, mine())
    assert len(load_registry(path)) == 5
    assert len(load_registry()) == 4
    path.write_text("models: {}", encoding="utf-8")
    assert len(load_registry(path)) == 4


@pytest.mark.parametrize(
    ("text", "place", "nearest"),
    [
        ("modles: {}", "unknown field `modles`", "models"),
        (
            mine(put=("pooling", "poolling")),
            ": mine: Object contains unknown field `poolling`",
            "pooling",
        ),
        (
            mine(put=("max_length", "max_lenght")),
            "unknown field `max_lenght` - at `$.roles[...]`",
            "max_length",
        ),
        (
            mine("sources: {hub: {repo: a/b, revison: x}}"),
            "unknown field `revison` - at `$.sources.hub`",
            "revision",
        ),
        (
            mine("bounds: {fp32: {max_abs_dif: 1.0}}"),
            "unknown field `max_abs_dif` - at `$.bounds[...]`",
            "max_abs_diff",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_name(
    tmp_path: Path, text: str, place: str, nearest: str
) -> None:
    message = refused(tmp_path, text)
    assert place in message
    assert f"did you mean '{nearest}'?" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "Expected `object`, got `null`"),
        ("models: [a]", "Expected `object`, got `array` - at `$.models`"),
        ("models: {1: {}}", "Expected `str`, got `int` - at `key` in `$.models`"),
        (mine(put=("16", "'16'")), ": mine: Expected `int | null`, got `str` - at `$.dim`"),
        (mine(put=("16", "0")), "`int` >= 1 - at `$.dim`"),
        (mine(put=("cls", "maxx")), ": mine: pooling is 'maxx'; expected one of cls, max, mean, "),
        (mine(put=("cls", "cls+")), ": mine: pooling is 'cls+'; expected one of cls, max, mean, "),
        (mine(put=("8", "3")), "`int` >= 4 - at `$.roles[...].max_length`"),
        (mine("digests: {model.safetensors: abc}"), "at `$.digests[...]`"),
        (mine("bounds: {int4: {max_abs_diff: 1.0}}"), "'int4'"),
        (mine("overrides: [dim]"), "Invalid enum value 'dim' - at `$.overrides[0]`"),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(tmp_path, text)


@pytest.mark.parametrize("name", ["a/b", "../a", "..", ".hidden", "/root", "a\\b", '""', "a b"])
def test_an_id_that_is_no_plain_name_is_refused(tmp_path: Path, name: str) -> None:
    assert "at `key` in `$.models`" in refused(tmp_path, mine(name=name))


@pytest.mark.parametrize("text", ["models: [a\nb: }", "\tmodels: {}", "models: \x00", "since: 2024-13-45"])
def test_what_is_not_yaml_is_refused(tmp_path: Path, text: str) -> None:
    assert "not YAML" in refused(tmp_path, text)


def test_a_file_of_python_objects_makes_none(tmp_path: Path) -> None:
    assert "not YAML" in refused(tmp_path, "models: !!python/object/apply:os.getcwd []")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"absent\.yaml: cannot be read"):
        load_registry(tmp_path / "absent.yaml")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        load_registry(tmp_path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"models: {} # caf\xe9")
    with pytest.raises(RegistryError, match=r"latin\.yaml: cannot be read"):
        load_registry(path)


def test_a_default_title_is_refused_for_a_role_without_pairs(tmp_path: Path) -> None:
    message = refused(tmp_path, mine(put=("8", "8, default_title: '-'")))
    assert "mine: roles.query: default_title is for roles with `pair: true`" in message


def test_a_bound_that_bounds_nothing_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, mine("bounds: {fp16: {}}"))
    assert "mine: bounds.fp16: give max_abs_diff, min_cosine or mean_cosine" in message


def test_an_unknown_model_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(RegistryError, match="'all-mpnet-base-v1'; did you mean 'all-mpnet-base-v2'"):
        load_registry()["all-mpnet-base-v1"]


def test_a_model_like_no_other_is_answered_with_all_names() -> None:
    with pytest.raises(RegistryError, match="'zzzz'; known: all-MiniLM-L6-v2, all-mpnet-base-v2, "):
        load_registry()["zzzz"]


def test_an_empty_registry_has_nothing_to_offer() -> None:
    with pytest.raises(RegistryError, match=r"^unknown model 'a'$"):
        Registry({})["a"]


def test_asking_whether_a_model_is_known_raises_nothing() -> None:
    registry = load_registry()
    assert "all-mpnet-base-v2" in registry
    assert "all-mpnet-base-v1" not in registry
    assert 7 not in registry


def test_records_are_frozen() -> None:
    model = load_registry()["all-mpnet-base-v2"]
    for record, field in ((model, "dim"), (model.roles["query"], "max_length"), (model.sources, "hub")):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(record, field, None)


def test_registry_errors_are_paritas_errors() -> None:
    assert issubclass(RegistryError, ParitasError)


def test_an_id_given_twice_is_refused(tmp_path: Path) -> None:
    text = mine() + "\n"
    twice = text.replace("models: {mine: ", "models: {mine: {}, mine: ")
    assert "'mine' is given twice" in refused(tmp_path, twice)


def test_a_merge_may_be_overridden(tmp_path: Path) -> None:
    text = (
        "models:\n"
        "  first: &first {network: bert, dim: 16, pooling: cls, roles: {query: {max_length: 8}}}\n"
        "  second: {<<: *first, dim: 32}\n"
    )
    registry = load_registry(write(tmp_path, text))
    assert (registry["first"].dim, registry["second"].dim) == (16, 32)


@pytest.mark.parametrize("key", ["max_abs_diff", "min_cosine", "mean_cosine"])
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1.5", "2.5"])
def test_a_bound_that_no_vectors_can_be_held_to_is_refused(tmp_path: Path, key: str, value: str) -> None:
    message = refused(tmp_path, mine(f"bounds: {{fp16: {{{key}: {value}}}}}"))
    assert f"mine: bounds.fp16.{key} is {float(value.replace('.n', 'n').replace('.i', 'i'))}; " in message


@pytest.mark.parametrize("depth", [40, 400, 900, 100_000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ("{a: ", "}")])
def test_nesting_without_end_is_refused_with_its_place(
    tmp_path: Path, left: str, right: str, depth: int
) -> None:
    message = refused(tmp_path, mine(f"license: {left * depth}1{right * depth}"))
    assert re.search(r"not YAML: nested deeper than 32 levels in line 1, column \d+$", message)


def test_half_a_character_is_refused_with_its_place(tmp_path: Path) -> None:
    message = refused(tmp_path, mine('license: "\\ud83d"'))
    assert re.search(r"half a surrogate pair, which is no character in line 1, column \d+$", message)


@pytest.mark.parametrize("number", [2**31, 10**30])
def test_numbers_beyond_all_models_are_refused(tmp_path: Path, number: int) -> None:
    assert "`$.dim`" in refused(tmp_path, mine(put=("dim: 16", f"dim: {number}")))
    assert "max_length`" in refused(tmp_path, mine(put=("max_length: 8", f"max_length: {number}")))

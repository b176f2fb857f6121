"""What a bundle's vectors are: the checkpoint's facts, and what the registry's entry or the caller adds.

An entry may leave everything out. What it says must be what the checkpoint says, or be marked as meant to
differ; else the error names both places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

from paritas.engine.bundle.manifest import Contract
from paritas.errors import ExportError, SourceError
from paritas.export.checkpoint.facts import Facts
from paritas.export.checkpoint.files import CONFIG, Fact
from paritas.export.networks.config import read_network
from paritas.registry import POOLINGS, Model, Overridable, Role, RoleEntry, check_pooling

Frontend = Literal["native", "optimum"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Agreed:
    """A contract, and where each part of it is from."""

    contract: Contract
    origins: dict[str, str]
    similarity: str | None


def agree(name: str, model: Model, facts: Facts, frontend: Frontend, pooling: str | None = None) -> Agreed:
    """Return the contract of a bundle made from a checkpoint.

    Args:
        name: what messages call the model.
        model: its registry entry; an empty one where it has none.
        facts: the checkpoint's.
        frontend: how its graph will be made; the native one serves as many positions as it has rows for.
        pooling: what the caller says of it.

    Raises:
        ExportError: entry or caller contradict the checkpoint, or nobody says what must be known.
    """
    return _Agreement(name, model, facts, frontend, pooling).reach()


class _Agreement:
    def __init__(
        self, name: str, model: Model, facts: Facts, frontend: Frontend, pooling: str | None
    ) -> None:
        self.name, self.model, self.facts, self.frontend, self.asked = name, model, facts, frontend, pooling
        self.origins: dict[str, str] = {}

    def reach(self) -> Agreed:
        facts, head = self.facts, self.facts.head
        network = self.settle("network", facts.network, self.model.network)
        pooling = self.pooling()
        ends = self.settle("normalize", head.normalize if head else None, self.model.normalize, default=True)
        dim = self.settle("dim", self.dim(pooling), self.model.dim)
        contract = Contract(
            network=network,
            dim=dim,
            pooling=pooling,
            normalize=ends and facts.truncate_dim is None,
            roles=self.roles(),
            settings=_settings(facts),
            truncation_side=cast(Literal["right", "left"], facts.tokenizer.truncation_side),
            pool_prompt=head.pool_prompt.value if head else True,
            modules=facts.modules(ends),
        )
        self.origins["tokenizer"] = facts.tokenizer.kind
        similarity = facts.similarity.value if facts.similarity is not None else None
        here = f"{facts.root}/"
        return Agreed(
            contract, {key: place.replace(here, "") for key, place in self.origins.items()}, similarity
        )

    def settle(
        self,
        key: str,
        stated: Fact[_T] | None,
        entered: _T | None,
        *,
        part: str = "",
        default: _T | None = None,
    ) -> _T:
        """Return what holds of one fact, and note where it is from.

        Args:
            key: the fact, as `Model.overrides` calls it.
            stated: the checkpoint's word.
            entered: the entry's.
            part: what the manifest calls it, where that is not the key.
            default: where both are silent.
        """
        entry = f"the registry's entry of {self.name}"
        if entered is not None:
            if stated is not None and stated.value != entered and key not in self.model.overrides:
                meant = (
                    f"; if the entry means it, add it there: overrides: [{key}]" if key in _MAY_DIFFER else ""
                )
                raise ExportError(f"{stated.place} is {stated.value!r}, {entry} says {entered!r}{meant}")
            self.origins[part or key] = entry if stated is None or stated.value != entered else stated.place
            return entered
        if stated is not None:
            self.origins[part or key] = stated.place
            return stated.value
        if default is None:
            place = self.facts.directory / CONFIG
            raise ExportError(f"{place}: nothing there says its {key} (hidden_size); write it into {entry}")
        self.origins[part or key] = "no file says; the default"
        return default

    def pooling(self) -> str:
        stated = self.facts.head.pooling if self.facts.head is not None else None
        if self.asked is None:
            if stated is None and self.model.pooling is None:
                raise ExportError(
                    f"{self.facts.directory}: no file says how vectors are pooled (modules.json is missing), "
                    f"but its model card may; type: --pooling cls, or one of {', '.join(POOLINGS[1:])}"
                )
            return self.settle("pooling", stated, self.model.pooling)
        if fault := check_pooling(self.asked):
            raise ExportError(f"--pooling: {fault}")
        for other, place in (
            (stated.value if stated else None, stated.place if stated else ""),
            (self.model.pooling, f"the registry's entry of {self.name}: pooling"),
        ):
            if other not in (None, self.asked):
                raise ExportError(
                    f"{place} is {other!r}, --pooling says {self.asked!r}; leave the option out"
                )
        self.origins["pooling"] = stated.place if stated else "--pooling"
        return self.asked

    def dim(self, pooling: str) -> Fact[int] | None:
        """Return the width of the vectors, where files tell."""
        facts = self.facts
        whole = None
        if facts.head is not None and facts.head.dim is not None:
            whole = facts.head.dim
        elif facts.width is not None:
            whole = Fact(facts.width.value * len(pooling.split("+")), facts.width.place)
        cut = facts.truncate_dim
        return cut if cut is not None and whole is not None and cut.value < whole.value else whole

    def roles(self) -> dict[str, Role]:
        entries = self.model.roles or dict.fromkeys(_role_names(self.facts), RoleEntry())
        longest = self.longest()
        return {name: self.role(name, entry, longest) for name, entry in entries.items()}

    def role(self, name: str, entry: RoleEntry, longest: int) -> Role:
        part = f"roles.{name}"
        length = self.length(name, entry, longest)
        if length < _LEAST:
            raise ExportError(
                f"{self.origins[f'{part}.max_length']} is {length}; expected {_LEAST} tokens or more, "
                "special ones included"
            )
        if length > longest:
            raise ExportError(
                f"{self.name}: {part}.max_length is {length} ({self.origins[f'{part}.max_length']}); the "
                f"checkpoint's position table serves {longest} tokens"
            )
        stated = _prompt(self.facts, name)
        prompt = self.settle("prompt", stated, entry.prompt, part=f"{part}.prompt", default="")
        if entry.pair and prompt:
            raise ExportError(
                f"{self.origins[f'{part}.prompt']} is {prompt!r}, for single texts; {part} of {self.name} "
                "takes pairs; add to the entry: prompt: '', overrides: [prompt]"
            )
        tokenizer = self.facts.tokenizer
        doubt = tokenizer.doubtful_pairs or (tokenizer.doubtful_types if self.types_count() else None)
        if entry.pair and doubt is not None:
            raise ExportError(doubt)
        if not prompt:
            del self.origins[f"{part}.prompt"]
        return Role(length, pair=entry.pair, default_title=entry.default_title, prompt=prompt)

    def length(self, role: str, entry: RoleEntry, longest: int) -> int:
        """Return where a role's texts are cut."""
        facts, part = self.facts, f"roles.{role}.max_length"
        own = {"query": "query", "passage": "document", "document": "document"}.get(role, "")
        stated = facts.lengths.get(own, facts.max_length) or Fact(longest, "the position table")
        if stated.place.endswith("max_position_embeddings"):  # some of which no token ever has
            stated = Fact(min(stated.value, longest), stated.place)
        # A checkpoint of transformers' own leaves it to the caller where texts are cut.
        binding = facts.head is not None
        if entry.max_length is None and not binding:
            stated = Fact(min(stated.value, longest), stated.place)
        return self.settle(
            "max_length", stated if binding or entry.max_length is None else None, entry.max_length, part=part
        )

    def longest(self) -> int:
        """Return the most tokens that the position table serves."""
        facts = self.facts
        try:
            return read_network(facts.config, str(facts.directory / CONFIG)).max_length
        except (ExportError, SourceError):  # no network that is known here, which optimum does not mind
            if self.frontend == "native":
                raise
        positions = facts.config.get("max_position_embeddings")
        return positions if isinstance(positions, int) and positions > 0 else 1 << 30

    def types_count(self) -> bool:
        """Say whether the network tells token types apart."""
        facts = self.facts
        if self.frontend == "native":
            return read_network(facts.config, str(facts.directory / CONFIG)).token_types > 1
        return int(facts.config.get("type_vocab_size", 0)) > 1


# As `registry.Role` asks for.
_LEAST = 4
_MAY_DIFFER = get_args(Overridable)


def _role_names(facts: Facts) -> list[str]:
    """Return the roles where no entry does: queries, passages, and each prompt of another name."""
    return list(dict.fromkeys(["query", "passage", *facts.prompts]))


def _prompt(facts: Facts, role: str) -> Fact[str] | None:
    """Return a role's prompt: that of its name, for passages else the documents', else the default one."""
    names = [role, "document"] if role == "passage" else [role]
    return next((facts.prompts[name] for name in names if name in facts.prompts), facts.default_prompt)


def _settings(facts: Facts) -> dict[str, str]:
    """What of config.json changes the vectors of given weights and shows in no tensor's shape."""
    depth = ("num_hidden_layers", "n_layers")  # of a checkpoint's layers, those that are used
    keys = (*depth, "num_attention_heads", "n_heads", "layer_norm_eps", "hidden_act", "activation")
    config: Any = facts.config
    return {key: str(config[key]) for key in keys if key in config}

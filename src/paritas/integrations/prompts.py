"""sentence-transformers' prompts, and the roles of a bundle that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paritas import errors
from paritas.integrations.dual_encoder import DualEncoder


class Prompts:
    """Which role a call of sentence-transformers' means, and what it puts in front of each text besides.

    There a text has a prompt and no role. A role has the prompt that the model was trained with.
    """

    def __init__(self, encoder: DualEncoder) -> None:
        """Take the encoder whose roles are meant."""
        self._contract = encoder.encoder.contract
        self._roles = {
            **{name: name for name in self._contract.roles},
            "query": encoder.query_role,
            "document": encoder.passage_role,
        }
        by_choice = [encoder.passage_role, encoder.query_role, *self._contract.roles]
        bare = [role for role in by_choice if not self._contract.roles[role].prompt]
        self._bare = bare[0] if bare else None
        self._plain = self._bare or encoder.passage_role

    @property
    def by_name(self) -> dict[str, str]:
        """The prompts by name, as a `SentenceTransformer` has them."""
        return {name: self._contract.roles[role].prompt for name, role in self._roles.items()}

    def resolve(self, prompt: str | None, name: str | None, task: str | None = None) -> tuple[str, str]:
        """Return the role that is meant, and what else stands in front of each text.

        Args:
            prompt: a text, or None.
            name: a prompt's name, or None; `prompt` goes before it.
            task: "query" or "document" where it was `encode_query` or `encode_document` that was called.

        Raises:
            InputError: no such name, or a prompt that this bundle cannot put in front of texts.
        """
        if name is not None and prompt is None:
            if name not in self._roles:
                raise errors.InputError(f"prompt_name is {name!r}{errors.did_you_mean(name, self._roles)}")
            return self._roles[name], ""
        meant = self._roles.get(task or "", self._plain)
        if prompt is None or prompt == self._contract.roles[meant].prompt:
            return meant, ""
        for role, rule in self._contract.roles.items():
            if rule.prompt == prompt and prompt:
                return role, ""
        return self._with_a_prompt_of_its_own(meant, prompt)

    def check_meant(self, prompt: str | None, task: str | None) -> None:
        """Make sure that a prompt which was named, and came as a text, says which role is meant.

        Raises:
            InputError: several roles have it, and encode differently; or it is empty, as all are where
                sentence-transformers was not told of the model's.
        """
        rules = [rule for rule in self._contract.roles.values() if prompt in ("", rule.prompt)]
        if task is None and any(rule != rules[0] for rule in rules):
            raise errors.InputError(
                f"the prompt {prompt!r} does not say which role is meant; use encode_query or encode_document"
            )

    def _with_a_prompt_of_its_own(self, meant: str, prompt: str) -> tuple[str, str]:
        if self._bare is None or not self._contract.pool_prompt:
            known = ", ".join(repr(text) for text in dict.fromkeys(self.by_name.values()))
            raise errors.InputError(f"prompt is {prompt!r}; this model was exported with {known} alone")
        return self._bare if self._contract.roles[meant].prompt else meant, prompt


def check_task(task: str | None) -> None:
    """Make sure that a task is one of sentence-transformers'.

    Raises:
        InputError: it is none.
    """
    if task not in (None, "query", "document"):
        raise errors.InputError(f"task is {task!r}; expected 'query', 'document' or None")


def prefixed(prefix: str, texts: Sequence[Any]) -> Sequence[Any]:
    """Return texts with something in front of each; of a pair, in front of its first half."""
    if not prefix:
        return texts
    return [_prefixed(prefix, text) for text in texts]


def _prefixed(prefix: str, text: Any) -> Any:
    if isinstance(text, str):
        return prefix + text
    if isinstance(text, (tuple, list)) and text and isinstance(text[0], str):
        return (prefix + text[0], *text[1:])
    return text  # for the encoder to refuse

"""Real checkpoints by their directory, without an entry: what their own files say is all there is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from paritas.engine.encoder import Encoder
from paritas.export import export_model
from tests.parity.conftest import Zoo
from tests.parity.texts import ODD, prose

# What is longer than any limit costs PyTorch more than it shows.
TEXTS = [text for text in ODD if len(text) < 10_000] + [prose(count) for count in (3, 40, 200, 400)]


def directory_of(name: str, zoo: Zoo) -> Path:
    if name in zoo.models:
        return zoo.checkpoint(name)
    spec = importlib.util.find_spec(name)  # not imported: it would ask for what it has not declared
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model_weights"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sre_embedding_model"])
def test_a_real_checkpoint_says_all_of_itself(name: str, zoo: Zoo, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    directory = directory_of(name, zoo)
    bundle = export_model(directory, out=tmp_path / "bundle")
    expected = SentenceTransformer(str(directory), device="cpu", local_files_only=True).encode(TEXTS)
    with Encoder(bundle) as encoder:
        for role in ("query", "passage"):
            np.testing.assert_allclose(encoder.encode(TEXTS, role=role), expected, rtol=0, atol=1e-5)


def test_an_entry_that_leaves_nothing_out_changes_nothing(zoo: Zoo, tmp_path: Path) -> None:
    """Registry and directory give one fingerprint: an index of either opens with both."""
    name = "all-MiniLM-L6-v2"
    by_directory = export_model(zoo.checkpoint(name), out=tmp_path / "bundle")
    assert by_directory.fingerprint == zoo.bundle(name, "native").fingerprint

"""The servers that the clients ask, and the file that tiktoken would download."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.index import VectorIndex
from tests.clients.running import TEXTS, Running, running

_TOKENS = "cl100k_base.tiktoken"
# tiktoken names a file of its cache by the digest of its address, and checks the digest of its content.
_ADDRESS = f"https://openaipublic.blob.core.windows.net/encodings/{_TOKENS}"


@pytest.fixture(scope="session")
def server(
    bundles: dict[str, Bundle], bert: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Two models, and an index of the first."""
    directory = tmp_path_factory.mktemp("clients")
    index = VectorIndex(bert)
    index.add([str(number) for number in range(len(TEXTS))], bert.encode(TEXTS, role="passage"), texts=TEXTS)
    index.save(directory / "texts.index")
    with running(bundles, directory, "--index", str(directory / "texts.index")) as server:
        yield server


@pytest.fixture(scope="session")
def server_of_ids(
    bundles: dict[str, Bundle], tiktoken_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The same models; token ids of OpenAI's are taken."""
    directory = tmp_path_factory.mktemp("ids")
    cache = str(tiktoken_cache)
    with running(bundles, directory, "--token-input", "cl100k", TIKTOKEN_CACHE_DIR=cache) as server:
        yield server


@pytest.fixture(scope="session")
def tiktoken_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with OpenAI's token ids, where tiktoken looks before it downloads them."""
    folder = Path(os.environ["PARITAS_CLIENTS"]) / "langchain-openai"
    (tokens,) = folder.glob(f"lib/python*/site-packages/tiktoken_ext/data/{_TOKENS}")
    cache = tmp_path_factory.mktemp("tiktoken")
    shutil.copy(tokens, cache / hashlib.sha1(_ADDRESS.encode(), usedforsecurity=False).hexdigest())
    return cache

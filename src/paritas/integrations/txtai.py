"""txtai: settings for `txtai.Embeddings`, and the class of vectors that they name."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paritas import errors
from paritas.engine.tokenize.inputs import listed
from paritas.integrations import check
from paritas.integrations.dual_encoder import DualEncoder

check(__name__)
from txtai.vectors.base import Vectors

# A setting of this kind is there once for each encoder that an index has known.
_KNOWN = "paritas-"
# The last one of `settings`, until txtai asks for it: a bundle is loaded once.
_last: deque[DualEncoder] = deque(maxlen=1)


def settings(
    model: str | os.PathLike[str],
    *,
    query_role: str = "query",
    passage_role: str = "passage",
    **options: Any,
) -> dict[str, Any]:
    """Return settings for `txtai.Embeddings`: what is indexed is a passage, and what is asked a query.

    An index keeps them, so that it is opened without naming them again.

    Args:
        model: as for `Encoder`; in another process the same name or directory must mean the same model.
        query_role: the role that queries have.
        passage_role: the role that what is indexed has.
        **options: of `Encoder`.

    Raises:
        ParitasError: as `Encoder`.
        InputError: the model has no such role.
    """
    encoder = DualEncoder(model, query_role=query_role, passage_role=passage_role, **options)
    _last.append(encoder)
    digest = hashlib.sha256(json.dumps(encoder.facts, sort_keys=True).encode()).hexdigest()
    return {
        "method": f"{__name__}.{ParitasVectors.__name__}",
        "path": os.fspath(model),
        "vectors": {"options": encoder.options, **encoder.facts},
        _KNOWN + digest[:12]: True,
    }


class ParitasVectors(Vectors):
    """What txtai makes of `settings`.

    The bundle is loaded when vectors are first asked for: of an error before that, txtai hides the message.
    """

    _encoder: DualEncoder | None = None

    def loadmodel(self, path: str) -> None:
        """Load nothing."""

    def close(self) -> None:
        """Let go of the encoder; its memory is free once nobody else holds it."""
        super().close()
        self._encoder = None

    def encode(self, data: Any, category: str | None = None) -> NDArray[np.float32]:
        """Return the vectors of queries, or of what is indexed where the category is "data".

        Raises:
            ParitasError: as `Encoder.encode`.
            BundleError: what would run is not what the index was made with.
        """
        if len(data) and isinstance(data[0], np.ndarray):  # vectors already
            return np.array(data, np.float32)
        encoder = self._loaded()
        return encoder.passages(listed(data)) if category == "data" else encoder.queries(listed(data))

    def _loaded(self) -> DualEncoder:
        if self._encoder is None:
            kept = self.config["vectors"]
            if sum(name.startswith(_KNOWN) for name in self.config) > 1:
                raise errors.BundleError(
                    "the index was made with other settings than it was opened with; type: "
                    "embeddings.load(path), which finds its own"
                )
            roles = {name: kept[name] for name in ("query_role", "passage_role")}
            encoder = DualEncoder(self.config["path"], **roles, **kept["options"])
            encoder.check_facts(kept, "the index")
            self._encoder = encoder
            _last.clear()
        return self._encoder

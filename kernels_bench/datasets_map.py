"""sentence-transformers over a corpus by the `map` of Hugging Face datasets, in an environment of its own.

    python datasets_map.py CHECKPOINT CORPUS OUT

CORPUS is JSON Lines with "_id" and "text". For each "go" that it reads it writes OUT, Parquet, and answers
with the seconds that this took. It does not import paritas, which its environment lacks.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main(checkpoint: str, corpus: str, out: str) -> None:
    """Load the model, say so, and encode the corpus for each "go"."""
    import datasets
    import sentence_transformers

    datasets.disable_caching()
    datasets.disable_progress_bars()
    model = sentence_transformers.SentenceTransformer(checkpoint, device="cpu")

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        return {"vector": model.encode(batch["text"], normalize_embeddings=True)}

    print(json.dumps({"datasets": datasets.__version__}), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        begun = time.perf_counter()
        rows = datasets.Dataset.from_json(corpus, keep_in_memory=True)
        rows.map(encode, batched=True, batch_size=1000, remove_columns=["text"]).to_parquet(out)
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    print(json.dumps({}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

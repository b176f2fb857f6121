"""What a service does without a server made for it: FastAPI, and sentence-transformers in a plain function.

    python naive_server.py CHECKPOINT PORT

FastAPI runs the function in one of 40 threads. Each request is encoded by itself, in FP32.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI


def service(checkpoint: str) -> FastAPI:
    """Return the service of a model."""
    from sentence_transformers import SentenceTransformer

    app, model = FastAPI(), SentenceTransformer(checkpoint, device="cpu")

    @app.post("/v1/embeddings")
    def embeddings(body: dict[str, Any]) -> dict[str, Any]:
        """Return vectors as OpenAI's dialect writes them in base64."""
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        vectors = model.encode(texts, show_progress_bar=False)
        return {
            "data": [
                {"index": index, "embedding": base64.b64encode(vector.tobytes()).decode()}
                for index, vector in enumerate(vectors)
            ]
        }

    @app.get("/health")
    def health() -> dict[str, str]:
        """Say that the model is there."""
        return {}

    return app


if __name__ == "__main__":
    uvicorn.run(service(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")

"""A job on a Ray cluster, and an encoder for anybody's own Ray datasets.

Ray Data hands shards to actors, each of which loads the encoder once. Which shards are done the job's folder
tells, here as elsewhere: what a lost node was at is done again, and what it had written stays.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from paritas.bulk.folders import DirectoryFolder
from paritas.bulk.job import Summary, done_rows, finish, is_done
from paritas.bulk.ledger import done
from paritas.bulk.outputs import check_output
from paritas.bulk.preparing import Prepared, bundle_digest, prepared
from paritas.bulk.progress import Progress, Silent, Stopped
from paritas.bulk.request import Request
from paritas.bulk.stages import Stages
from paritas.documents import Document
from paritas.engine.encoder import Encoder
from paritas.errors import InputError, JobError, MissingExtraError

# What a node has to know of the one that began: where stores and bundles are, and how to reach them.
_PASSED = ("AWS_", "GOOGLE_", "AZURE_", "PARITAS_", "HF_")
# Shards that wait at an actor, so that it has the next one when one is done.
_IN_FLIGHT = 2


def encode(
    encoder: Encoder,
    request: Request,
    *,
    address: str,
    cpus: int = 2,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Encode a corpus on a Ray cluster; the shards are those of `paritas.bulk.encode`, byte by byte.

    Every node needs paritas, and bundle, input and output by the same paths or URLs.

    Args:
        encoder: what the actors load too.
        request: as `paritas.bulk.encode` takes it.
        address: of the cluster, such as "auto" or "10.0.0.1:6379"; "local" begins one here.
        cpus: of each actor, whose encoder has so many threads. There are as many as the cluster has room for.
        progress: is told how it goes.
        stop: when set, no other shard is begun.

    Returns:
        What was done.

    Raises:
        MissingExtraError: ray is not installed.
        InputError, JobError, Stopped, OSError: as `paritas.bulk.encode`; or an actor failed.
    """
    progress, stop = progress or Silent(), stop or threading.Event()
    check_output(encoder, request)
    with prepared(encoder, request, progress, stop) as ready:
        if "-" in request.inputs and not isinstance(ready.folder, DirectoryFolder):
            raise InputError(
                "standard input is kept on this machine, where no other finds it; put it in a file"
            )
        if not is_done(ready):
            with _cluster(address) as ray:
                _work(ray, ready, encoder, request, cpus, progress, stop)
            progress.finishing()
        return finish(encoder, ready, progress, stop)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Yield Ray, connected; disconnected afterwards, unless it was before."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            f"ray is not installed; type: pip install 'paritas[ray]' ({error})"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
    try:
        ray.init(
            address=address, runtime_env={"env_vars": passed}, log_to_driver=False, logging_level="ERROR"
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise JobError(f"{address}: no Ray cluster answers: {error}; type: ray status") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _work(
    ray: Any,
    ready: Prepared,
    encoder: Encoder,
    request: Request,
    cpus: int,
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Let actors do the shards that are left."""
    folder, plan = ready.folder, ready.plan
    actors = int(ray.cluster_resources().get("CPU", 0)) // cpus
    if not actors:
        raise JobError(f"the cluster has no {cpus} CPUs for an actor; type: --ray-cpus 1")
    before = done(folder, plan)
    progress.begin(plan.rows, done_rows(folder, plan))
    left = [{"shard": number} for number in range(len(plan.shards)) if number not in before]
    ray.data.DataContext.get_current().enable_progress_bars = False
    results = ray.data.from_items(left, override_num_blocks=len(left)).map_batches(
        ShardActor,
        fn_constructor_kwargs={
            "model": str(encoder.bundle.directory.resolve()),
            "options": {"precision": encoder.precision, "truncate_dim": encoder.dim, "threads": cpus},
            "ready": ready,
            "request": request,
        },
        batch_size=1,
        num_cpus=cpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=actors, max_tasks_in_flight_per_actor=_IN_FLIGHT
        ),
    )
    try:
        for row in results.iter_rows():
            progress.encoded(int(row["rows"]), int(row["tokens"]))
            if stop.is_set():
                raise Stopped(len(done(folder, plan)), len(plan.shards))
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error


def _cause(error: Any) -> Exception:
    """Return what an actor raised, where it is one of ours."""
    cause = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(cause, (InputError, JobError, OSError)):
        return cause
    return JobError(f"an actor failed: {str(cause).strip().splitlines()[-1]}")


class ShardActor:
    """Does a job's shards in a Ray actor."""

    def __init__(self, model: str, options: dict[str, Any], ready: Prepared, request: Request) -> None:
        """Load the encoder.

        Raises:
            JobError: the bundle here is another one.
        """
        self._encoder = Encoder(model, **options)
        if bundle_digest(self._encoder) != ready.plan.spec.bundle:
            raise JobError(f"{model}: on this node it is another bundle; copy the one of the job there")
        self._stages = Stages(self._encoder, ready.plan, ready.sources, ready.folder, request, Silent())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the shards of a batch, and return how many rows and tokens each has."""
        rows, tokens = [], []
        for number in batch["shard"].tolist():
            shard = None
            if number not in done(self._stages.folder, self._stages.plan):
                shard = self._stages.encode(self._stages.read(number))
                self._stages.write(number, shard)
            rows.append(self._stages.plan.shards[number].rows)
            tokens.append(0 if shard is None else int(shard.tokens.sum()))
        return {"rows": np.array(rows), "tokens": np.array(tokens)}


class EncodeBatch:
    """Encodes a column of text, for `map_batches` of a Ray dataset.

    dataset.map_batches(
        EncodeBatch,
        fn_constructor_kwargs={"model": "all-MiniLM-L6-v2", "cpus": 2},
        num_cpus=2,
        compute=ray.data.ActorPoolStrategy(size=4),
    )
    """

    def __init__(
        self,
        model: str,
        *,
        cpus: int,
        role: str = "passage",
        text: str = "text",
        title: str | None = None,
        vector: str = "vector",
        **options: Any,
    ) -> None:
        """Load the encoder, once in each actor.

        Args:
            model: as `Encoder` takes it; every node has it.
            cpus: threads of the encoder; what `num_cpus` is.
            role: of the texts.
            text: their column.
            title: of titles, where there is one.
            vector: of the vectors, which is added.
            options: more options of `Encoder`.
        """
        self._encoder = Encoder(model, threads=cpus, **options)
        self._pair = self._encoder.stages.tokenizer.role(role).pair
        self._role, self._text, self._title, self._vector = role, text, title, vector

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with the column of vectors, float32, (rows, dim)."""
        texts = batch[self._text].tolist()
        titles = batch[self._title].tolist() if self._title is not None else [""] * len(texts)
        made = [
            Document("", title or "", text).as_text(pair=self._pair)
            for title, text in zip(titles, texts, strict=True)
        ]
        return {**batch, self._vector: self._encoder.encode(made, role=self._role)}

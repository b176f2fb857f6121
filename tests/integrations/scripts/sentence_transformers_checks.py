"""sentence-transformers, 5 and 6: a SentenceTransformer of ours, and the class that stands in for one."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from harness import Given, error_of, run
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    util,
)
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.modules import Dense

from paritas import Encoder, errors
from paritas.integrations.sentence_encoder import SentenceEncoder
from paritas.integrations.sentence_transformers import ParitasModule, load


def queries_and_documents(given: Given) -> None:
    for bundle in (given.minilm, given.pairs, given.prompted):
        for model in (load(bundle), SentenceEncoder(bundle)):
            given.check(model.encode_query(given.queries), "query", bundle)
            given.check(model.encode_document(given.texts), "passage", bundle)
            given.check([model.encode_query(query) for query in given.queries], "query", bundle)
            given.check(model.encode(given.queries, prompt_name="query"), "query", bundle)
            given.check(model.encode(given.texts, prompt_name="document"), "passage", bundle)
            assert model.get_embedding_dimension() == given.vectors(bundle, "query").shape[1]
    titled = list(zip(given.titles, given.texts, strict=True))
    for model in (load(given.pairs), SentenceEncoder(given.pairs)):
        given.check(model.encode_document(titled), "titled", given.pairs)


def it_is_sentence_transformers_own(given: Given) -> None:
    """The model that was exported, in sentence-transformers itself, has these vectors."""
    for model in (load(given.minilm), SentenceEncoder(given.minilm)):
        assert model.similarity_fn_name == "cosine"
        assert model.prompts.keys() >= {"query", "document"}
        vectors = model.encode(given.texts)
        given.check(vectors, "passage")
        # Where all texts have the same prompts, any text may have one of its own.
        given.check(model.encode(given.texts, prompt=""), "passage")
        prompted = model.encode(["the river"], prompt="find: ")
        assert np.array_equal(prompted, model.encode(["find: the river"]))
        assert not np.array_equal(prompted, model.encode(["the river"]))


def prompts_mean_roles(given: Given) -> None:
    for model in (load(given.prompted), SentenceEncoder(given.prompted)):
        given.check(model.encode(given.queries, prompt="query: "), "query", given.prompted)
        given.check(model.encode(given.texts), "passage", given.prompted)
        error_of(errors.InputError, lambda model=model: model.encode(["a"], prompt="find: "), "'query: '")
        error_of(ValueError, lambda model=model: model.encode(["a"], prompt_name="x"), "x")


def a_prompt_keeps_its_side(given: Given) -> None:
    encoder = Encoder(given.pairs)
    expected = encoder.encode(["find: the river"], role="query")
    for model in (load(given.pairs), SentenceEncoder(given.pairs)):
        assert np.array_equal(model.encode_query(["the river"], prompt="find: "), expected)
    for model in (load(given.prompted), SentenceEncoder(given.prompted)):
        error_of(errors.InputError, lambda model=model: model.encode_query(["a"], prompt=""), "'query: '")
    plain = SentenceTransformer(modules=[load(given.prompted)[0]], device="cpu")
    given.check(plain.encode_query(given.queries), "query", given.prompted)
    given.check(plain.encode_document(given.texts), "passage", given.prompted)


def a_prompt_that_several_roles_have(given: Given) -> None:
    load(given.pairs).save("pairs")
    plain = SentenceTransformer("pairs", trust_remote_code=True, device="cpu")
    given.check(plain.encode_query(given.queries), "query", given.pairs)
    given.check(plain.encode(given.texts), "passage", given.pairs)
    model = load(given.pairs)
    model.default_prompt_name = "query"
    for encode in (
        lambda: plain.encode(["a"], prompt_name="query"),
        lambda: model.encode(["a"]),
        lambda: model.encode(["a"], prompt=""),
    ):
        error_of(errors.InputError, encode, "encode_query or encode_document")
    # A module alone has told sentence-transformers of no prompts.
    plain = SentenceTransformer(modules=[load(given.prompted)[0]], device="cpu")
    error_of(errors.InputError, lambda: plain.encode(["a"], prompt_name="query"), "encode_query")
    error_of(errors.InputError, lambda: load(given.prompted).encode(["a"], task="qeury"), "or None")


def losses_by_mini_batches(given: Given) -> None:
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[load(given.pairs)[0], Dense(16, 8)], device="cpu")
    features = [model.preprocess(texts) for texts in (given.queries[:12], given.texts[20:32])]
    found = [
        float(losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size)(features, None))
        for size in (64, 4)
    ]
    assert abs(found[0] - found[1]) < 1e-5, found


def forms(given: Given) -> None:
    """What sentence-transformers makes of the same vectors, the stand-in makes too."""
    real, ours = load(given.minilm), SentenceEncoder(given.minilm)
    for options in (
        {"truncate_dim": 64},
        {"truncate_dim": 64, "normalize_embeddings": True},
        {"precision": "binary"},
        {"precision": "ubinary"},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
    ):
        for texts in (given.texts, given.texts[0]):
            if "precision" in options and isinstance(texts, str):
                continue  # sentence-transformers quantises several at a time
            found, expected = ours.encode(texts, **options), real.encode(texts, **options)
            assert type(found) is type(expected), options
            as_arrays = [np.stack([np.asarray(one) for one in rows]) for rows in (found, expected)]
            assert np.allclose(*as_arrays, rtol=0, atol=1e-6), options
            assert as_arrays[0].dtype == as_arrays[1].dtype, options
    both = ours.encode(given.texts), ours.encode(given.queries)
    assert np.allclose(ours.similarity(*both), real.similarity(*both), atol=1e-5)
    pairs = both[0][:50], both[1]
    assert np.allclose(ours.similarity_pairwise(*pairs), real.similarity_pairwise(*pairs), atol=1e-5)
    eight = ours.encode(given.texts, precision="int8")
    assert eight.dtype == np.int8
    assert ours.encode(given.texts, precision="uint8").dtype == np.uint8
    scores, expected = eight.astype(np.float32) @ eight.T.astype(np.float32), both[0] @ both[0].T
    assert np.corrcoef(scores.ravel(), expected.ravel())[0, 1] > 0.999
    assert ours.encode([]).shape == (0, 384)
    assert ours.encode(sentences=given.texts[:2]).shape == (2, 384)
    assert real.encode(sentences=given.texts[:2]).shape == (2, 384)
    assert real.max_seq_length == ours.max_seq_length == 256


def semantic_search_and_evaluators(given: Given) -> None:
    model = load(given.minilm)
    documents = model.encode_document(given.texts, convert_to_tensor=True)

    def find(query: str, k: int) -> list[str]:
        hits = util.semantic_search(model.encode_query(query, convert_to_tensor=True), documents, top_k=k)
        return [given.texts[hit["corpus_id"]] for hit in hits[0]]

    given.check_search(find)
    evaluator = EmbeddingSimilarityEvaluator(
        given.texts[20:60], given.texts[60:100], np.linspace(0, 1, 40).tolist()
    )
    assert "spearman_cosine" in str(model.evaluate(evaluator))


def a_trainer_of_what_comes_after(given: Given) -> None:
    bundle = load(given.minilm)
    dense = Dense(384, 16)
    model = SentenceTransformer(modules=[bundle[0], dense], device="cpu")
    before = dense.linear.weight.detach().clone()
    rows = {"anchor": given.queries[:32], "positive": given.texts[20:52]}
    arguments = SentenceTransformerTrainingArguments(
        output_dir="trained",
        max_steps=3,
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    assert not torch.equal(before, dense.linear.weight.detach())
    model.save("dense")
    again = load("dense")
    assert np.allclose(again.encode(given.texts[:3]), model.encode(given.texts[:3]), atol=1e-6)


def saved_and_copied(given: Given) -> None:
    model = load(given.pairs)
    model.save("saved")
    assert not list(Path("saved").rglob("*.py"))
    for other in (load("saved"), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        given.check(other.encode_document(given.texts), "passage", given.pairs)
        assert isinstance(other[0], ParitasModule)
    error_of(errors.InputError, lambda: load("saved", threads=1), "leave out threads")
    error_of(errors.InputError, lambda: load("saved", query_role="x"), "leave out query_role")
    load("saved").save("saved")
    load(given.minilm, truncate_dim=64).save("cut")
    assert load("cut").get_embedding_dimension() == 64
    again = pickle.loads(pickle.dumps(SentenceEncoder(given.pairs)))
    given.check(again.encode_document(given.texts), "passage", given.pairs)


def threads(given: Given) -> None:
    given.check_threads(load(given.minilm).encode_query, "query")
    given.check_threads(SentenceEncoder(given.minilm).encode_query, "query")


def bad_input(given: Given) -> None:
    encoder = SentenceEncoder(given.minilm)
    for model in (encoder, load(given.minilm)):
        error_of(errors.InputError, lambda model=model: model.encode(["a", None]), "is NoneType")
    error_of(errors.InputError, lambda: encoder.encode(["a"], precision="int4"), "expected one of")
    error_of(errors.InputError, lambda: encoder.encode(["a"], truncate_dim=1000), "expected 1 to 384")
    error_of(errors.InputError, lambda: encoder.encode(["a"], device="cuda"), "provider='cuda'")
    error_of(
        errors.InputError, lambda: encoder.encode(["a"], output_value="token_embeddings"), "encode_tokens"
    )
    for value in (1000, 0, "64", 64.0, True):
        error_of(
            errors.InputError,
            lambda value=value: SentenceEncoder(given.minilm, truncate_dim=value),
            "1 to 384",
        )
    error_of(errors.InputError, lambda: encoder.encode(["a"], task="qeury"), "'query', 'document' or None")
    error_of(
        errors.InputError,
        lambda: load(given.minilm).encode("a", output_value="token_embeddings"),
        "encode_tokens",
    )
    shutil.copytree(given.pairs, "own")
    error_of(errors.InputError, lambda: load("own").save("own/saved"), "lies inside the bundle")
    assert not Path("own/saved").exists()
    error_of(errors.InputError, lambda: load(given.minilm, query_role="x"), "no role 'x'")
    for model in (encoder, load(given.minilm)):
        error_of(errors.InputError, lambda model=model: setattr(model, "max_seq_length", 12), "max_length")


if __name__ == "__main__":
    run(
        queries_and_documents,
        it_is_sentence_transformers_own,
        prompts_mean_roles,
        a_prompt_keeps_its_side,
        a_prompt_that_several_roles_have,
        losses_by_mini_batches,
        forms,
        semantic_search_and_evaluators,
        a_trainer_of_what_comes_after,
        saved_and_copied,
        threads,
        bad_input,
    )

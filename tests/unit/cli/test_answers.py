"""The command line, run as users run it: what it answers, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from paritas.cli import cli
from paritas.engine.bundle.directory import Bundle
from paritas.engine.encoder import Encoder
from paritas.engine.runtime.kernels import available_kernels
from paritas.engine.runtime.precision import fast_with
from tests.unit.cli.runs import Run, answer, command, refused, said
from tests.unit.files import change_byte, contents

COMMANDS = [
    "models",
    "export",
    "verify",
    "encode",
    "job",
    "compare",
    "index",
    "search",
    "recall",
    "serve",
    "demo",
    "tune",
    "doctor",
    "completion",
]


def test_models_lists_the_registry_the_users_own_models_and_what_is_exported(folder: Path, run: Run) -> None:
    shutil.copytree(folder / "bert.bundle", folder / "home" / "bundles" / "tiny-bert")
    rows = {row["model"]: row for row in answer(run("--registry", "tiny.yaml", "models", "--json"))}
    assert {"all-MiniLM-L6-v2", "tiny-bert", "tiny-mpnet"} < set(rows)
    assert rows["tiny-bert"]["precisions"] == ["fp32", "fp16"]
    assert rows["tiny-bert"]["roles"]["passage"] == {"max_length": 24, "pair": True, "default_title": "-"}
    assert rows["tiny-mpnet"]["precisions"] == []
    lines = {line.split()[0]: line for line in said(run("--registry", "tiny.yaml", "models")).splitlines()}
    assert lines["tiny-bert"].endswith("fp32, fp16")
    assert lines["tiny-mpnet"].endswith("-")


def test_models_shows_a_damaged_bundle_beside_the_others(folder: Path, run: Run) -> None:
    damaged = folder / "home" / "bundles" / "tiny-bert"
    shutil.copytree(folder / "bert.bundle", damaged)
    (damaged / "manifest.json").write_text("{", encoding="utf-8")
    rows = {row["model"]: row for row in answer(run("--registry", "tiny.yaml", "models", "--json"))}
    assert "not JSON" in rows["tiny-bert"]["error"]
    assert rows["tiny-mpnet"]["error"] is None


def test_models_takes_the_registry_from_the_environment_too(
    folder: Path, run: Run, environment: dict[str, str]
) -> None:
    environment["PARITAS_REGISTRY"] = "tiny.yaml"
    assert "tiny-mpnet" in said(run("models"))


@pytest.mark.parametrize("precisions", ["--precision fp16,fp32", "--precision fp16 --precision fp32"])
def test_export_prints_the_certificate_and_reports_its_steps_on_stderr(
    folder: Path, run: Run, precisions: str
) -> None:
    arguments = f"--registry tiny.yaml export tiny-bert --source bert.checkpoint {precisions}"
    result = run(*shlex.split(arguments), "--out", "new.bundle")
    out = said(result)
    assert [line.split()[:2] for line in out.splitlines()[1:5]] == [
        ["fp32", "query"],
        ["fp32", "passage"],
        ["fp16", "query"],
        ["fp16", "passage"],
    ]
    assert re.match(r"bundle: .*new\.bundle \(\d+ MB\)$", out.splitlines()[-1])
    assert "certified: fp16" in result.stderr
    assert "certified" not in out
    Bundle(folder / "new.bundle").verify()


def test_export_as_json_prints_the_manifest_and_nothing_else(folder: Path, run: Run) -> None:
    result = run(*shlex.split("--registry tiny.yaml export tiny-mpnet --source mpnet.checkpoint --json"))
    exported = answer(result)
    assert exported["bundle"] == str(folder / "home" / "bundles" / "tiny-mpnet")
    assert exported["manifest"]["precisions"]["fp32"]["certificate"]["figures"]["max_abs_diff"] < 1e-5
    assert "certified: fp32" in result.stderr


def test_verify_proves_every_precision_again(folder: Path, run: Run) -> None:
    assert said(run("verify", "bert.bundle")).splitlines()[-1] == "verified: bert.bundle"
    proof = answer(run("verify", "bert.bundle", "--json"))
    assert proof["verified"] is True
    assert proof["certificates"]["fp16"]["figures"]["min_cosine"] > 0.9999


def test_verify_as_json_is_one_document_also_where_it_fails(folder: Path, run: Run) -> None:
    change_byte(folder / "bert.bundle" / "reference.npy")
    result = run("verify", "bert.bundle", "--json")
    assert result.returncode == 2
    proof = json.loads(result.stdout)
    assert proof["verified"] is False
    assert (proof["error"]["type"], proof["error"]["exit_code"]) == ("BundleError", 2)
    assert "reference.npy: changed since the export" in proof["error"]["message"]
    assert result.stderr == f"paritas: error: {proof['error']['message']}\n"


def test_index_tells_what_it_did(folder: Path, run: Run) -> None:
    arguments = shlex.split("index corpus.jsonl --model mpnet.bundle --out new.index --dtype f16")
    result = run(*arguments)
    assert said(result).splitlines()[0].startswith("4 documents, ")
    assert said(result).splitlines()[-1] == "index: new.index"
    assert result.stderr == ""
    summary = answer(run(*arguments, "--json"))
    assert (summary["documents"], summary["index"]) == (4, "new.index")


def test_indexing_again_replaces_the_index_and_keeps_nothing_of_the_former(folder: Path, run: Run) -> None:
    before = sorted(path.name for path in (folder / "corpus.index").iterdir())
    said(run(*shlex.split("index - --model mpnet.bundle --out corpus.index"), stdin="a new text\n"))
    after = sorted(path.name for path in (folder / "corpus.index").iterdir())
    assert len(before) == len(after) == 3
    assert set(before) & set(after) == {"index.json"}
    assert hits(run, "corpus.index", "a new text") == ["1"]


def hits(run: Run, index: str, query: str) -> list[str]:
    (found,) = answer(run("search", index, query, "--json"))
    return [hit["id"] for hit in found["hits"]]


@pytest.mark.parametrize("how", ["file", "stdin"])
@pytest.mark.parametrize("form", ["jsonl", "text"])
def test_index_reads_json_lines_and_plain_text_from_files_and_stdin(
    folder: Path, run: Run, how: str, form: str
) -> None:
    texts = ["why is the sky blue", "", "the ferry leaves", "  ", "日本の川"]
    lines = {
        "text": texts,
        "jsonl": [
            json.dumps({"_id": str(number), "text": text}) if text.strip() else text
            for number, text in enumerate(texts, start=1)
        ],
    }[form]
    data = "\n".join(lines)
    (folder / f"input.{form}").write_text(data, encoding="utf-8")
    source = "-" if how == "stdin" else f"input.{form}"
    arguments = ["--model", "mpnet.bundle", "--out", "new.index", "--json"]
    assert answer(run("index", source, *arguments, stdin=data))["documents"] == 3
    assert sorted(hits(run, "new.index", "the ferry leaves")) == ["1", "3", "5"]
    assert hits(run, "new.index", "the ferry leaves")[0] == "3"


def test_index_of_a_model_with_pairs_encodes_titles_as_the_first_of_the_pair(
    folder: Path, run: Run, bert: Encoder
) -> None:
    said(run(*shlex.split("index corpus.jsonl --model bert.bundle --out new.index")))
    (found,) = answer(run("search", "new.index", "the river", "--json"))
    score = {hit["id"]: hit["score"] for hit in found["hits"]}["ferry"]
    query = bert.encode(["the river"], role="query")
    passage = bert.encode([("Island", "the ferry leaves in the morning")], role="passage")
    assert score == pytest.approx(float(query[0] @ passage[0]), abs=1e-5)


@pytest.mark.parametrize("exact", [[], ["--exact"]])
def test_search_finds_the_very_text_with_a_score_of_one(folder: Path, run: Run, exact: list[str]) -> None:
    queries = ["why is the sky blue", "what is the price of an apple"]
    found = answer(run("search", "corpus.index", *queries, "-k", "2", "--json", *exact))
    assert [answers["query"] for answers in found] == queries
    assert [answers["hits"][0]["id"] for answers in found] == ["sky", "7"]
    assert [len(answers["hits"]) for answers in found] == [2, 2]
    for answers in found:
        assert answers["hits"][0]["score"] == pytest.approx(1.0, abs=1e-5)
        assert answers["hits"][0]["text"] == answers["query"]


def test_search_prints_a_line_for_each_query_and_each_answer(folder: Path, run: Run) -> None:
    result = run("search", "corpus.index", "why is the sky blue", "-k", "2")
    query, first, second = said(result).splitlines()
    assert query == "why is the sky blue"
    assert first == "  1.000  sky  why is the sky blue"
    assert second.startswith("  0.")
    assert result.stderr == ""


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_search_prints_every_script_whatever_the_locale(
    folder: Path, run: Run, environment: dict[str, str], locale: str
) -> None:
    environment["LC_ALL"] = locale
    query = "Zürich 日本の川 🚆"
    assert "  zürich  Straße: the train to Zürich — 日本の川 🚆\n" in said(
        run("search", "corpus.index", query)
    )
    (found,) = answer(run("search", "corpus.index", query, "--json"))
    assert found["query"] == query
    by_id = {hit["id"]: hit for hit in found["hits"]}
    assert by_id["zürich"]["text"] == "the train to Zürich — 日本の川 🚆"


@pytest.mark.parametrize("queries", [[], ["--queries", "corpus.jsonl"]])
def test_recall_of_a_small_index_is_one(folder: Path, run: Run, queries: list[str]) -> None:
    line = "recall@3 1.0000 over 4 queries and 4 documents\n"
    assert said(run("recall", "corpus.index", "-k", "3", *queries)) == line
    measured = answer(run("recall", "corpus.index", "-k", "3", "--json", *queries))
    assert measured == {"index": "corpus.index", "documents": 4, "queries": 4, "k": 3, "recall": 1.0}


def test_recall_encodes_queries_under_the_role_and_precision_asked_for(folder: Path, run: Run) -> None:
    said(run(*shlex.split("index corpus.jsonl --model bert.bundle --out new.index")))
    asked = shlex.split("recall new.index --queries corpus.jsonl -k 1")
    for more in ([], ["--role", "passage"], ["--role", "passage", "--precision", "fp16"]):
        assert "over 4 queries and 4 documents" in said(run(*asked, *more))
    refused(run(*asked, "--role", "question"), "unknown role 'question'; known: passage, query")
    refused(run(*asked, "--precision", "int8"), "no precision 'int8'")
    for more in (["--role", "passage"], ["--precision", "fp16"], ["--model", "bert.bundle"]):
        refused(run("recall", "new.index", *more), f"{more[0]} is for the texts of --queries FILE")


def test_tune_measures_and_keeps_what_it_found_until_it_is_forgotten(folder: Path, run: Run) -> None:
    result = run(*shlex.split("tune bert.bundle --precision fp16 --seconds 0.01"))
    *_, race, verdict = said(result).split("\n\n")
    header, *rows = race.splitlines()
    assert header.split() == ["workers", "batch", "tokens", "tokens/s", "ratio", "rounds"]
    assert [row.split()[1] for row in rows] == ["512", "128", "256", "1024"]
    verdict, kept = verdict.splitlines()
    assert re.match(r"bert\.bundle in fp16 now runs with \d+ threads, \d+ workers and 512 tokens", verdict)
    record = Path(kept.removeprefix("kept: "))
    assert record.parent == folder / "home" / "tuned"
    assert "tokens a batch: 128, 256, 512, 1024" in result.stderr
    assert said(run(*shlex.split("tune bert.bundle --precision fp16 --forget"))) == f"forgotten: {record}\n"
    assert not record.exists()
    nothing = "nothing was tuned for bert.bundle in fp16\n"
    assert said(run(*shlex.split("tune bert.bundle --precision fp16 --forget"))) == nothing


def test_tune_as_json_is_the_record(folder: Path, run: Run) -> None:
    answered = answer(run(*shlex.split("tune mpnet.bundle --precision auto --seconds 0.01 --json")))
    assert (answered["bundle"], answered["precision"]) == ("mpnet.bundle", "fp32")
    assert json.loads(Path(answered["record"]).read_text(encoding="utf-8")) == answered["tuned"]
    assert {one["token_budget"] for one in answered["tuned"]["races"][-1]} == {128, 256, 512, 1024}
    forgotten = answer(run(*shlex.split("tune mpnet.bundle --forget --json")))
    assert forgotten["forgotten"] == answered["record"]
    assert answer(run(*shlex.split("tune mpnet.bundle --forget --json")))["forgotten"] is None


def test_doctor_shows_the_machine_the_bundles_and_what_to_load_them_with(folder: Path, run: Run) -> None:
    shutil.copytree(folder / "bert.bundle", folder / "home" / "bundles" / "tiny-bert")
    said(run(*shlex.split("tune tiny-bert --seconds 0.01")))
    result = run("doctor")
    machine, table, advice, problems = said(result).split("\n\n")
    facts = [line.split()[0] for line in machine.splitlines()]
    assert facts == ["CPU", "INT8", "kernels", "CPUs", "memory", "versions", "runtime", "store"]
    assert (
        f"\nINT8      {'' if fast_with(available_kernels())[0] else 'no '}faster than FP32; with" in machine
    )
    rows = [line.split() for line in table.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["tiny-bert", "whole", "fp32"], ["tiny-bert", "whole", "fp16"]]
    assert [row[-3:-1:2] + row[-1:] for row in rows] == [["yes", "tuned"], ["no", "default"]]
    assert advice.startswith("tiny-bert: take precision='fp32': the bundle has no INT8")
    assert "512 tokens a batch: tuned, nothing beat the defaults" in advice
    assert problems == "no problems\n"
    assert result.stderr == ""


def test_doctor_knows_that_int8_without_our_kernels_is_no_faster(
    run: Run, environment: dict[str, str]
) -> None:
    environment["PARITAS_KERNELS"] = "none"
    assert "\nINT8      no faster than FP32; with static inputs" in said(run("doctor"))


def test_doctor_as_json_is_one_document(folder: Path, run: Run) -> None:
    shutil.copytree(folder / "bert.bundle", folder / "home" / "bundles" / "tiny-bert")
    found = answer(run("doctor", "--json"))
    names = ["ok", "versions", "cpu", "memory", "onnxruntime", "store", "bundles", "problems"]
    assert list(found) == names
    (bundle,) = found["bundles"]
    assert (bundle["model"], bundle["error"], bundle["precision"]) == ("tiny-bert", None, "fp32")
    assert bundle["graphs"]["fp32"]["settings"]["origin"] == "default"
    assert found["ok"] is True
    assert found["store"]["path"] == str(folder / "home")


def test_doctor_without_bundles_says_how_to_get_one(run: Run) -> None:
    assert "no bundles; type: paritas export all-MiniLM-L6-v2" in said(run("doctor"))


def test_an_exported_id_serves_every_command(folder: Path, run: Run) -> None:
    registry = ["--registry", "tiny.yaml"]
    said(run(*registry, *shlex.split("export tiny-mpnet --source mpnet.checkpoint")))
    said(run(*registry, "verify", "tiny-mpnet"))
    said(run(*registry, *shlex.split("index corpus.jsonl --model tiny-mpnet --out new.index")))
    said(run(*registry, "tune", "tiny-mpnet", "--forget"))
    shutil.rmtree(folder / "mpnet.checkpoint")
    assert hits(run, "new.index", "why is the sky blue")[0] == "sky"


def test_an_index_whose_bundle_moved_is_searched_with_the_stores_or_the_one_given(
    folder: Path, run: Run
) -> None:
    said(run(*shlex.split("index corpus.jsonl --model mpnet.bundle --out new.index")))
    (folder / "mpnet.bundle").rename(folder / "moved.bundle")
    hint = f"gone from {folder / 'mpnet.bundle'}; give it with --model"
    refused(run("search", "new.index", "sky"), hint)
    refused(run("recall", "new.index", "--queries", "corpus.jsonl"), hint)
    said(run("search", "new.index", "sky", "--model", "moved.bundle"))
    said(run("recall", "new.index", "--queries", "corpus.jsonl", "--model", "moved.bundle"))
    shutil.copytree(folder / "moved.bundle", folder / "home" / "bundles" / "tiny-mpnet")
    said(run("search", "new.index", "sky"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_shows_an_example(run: Run, name: str) -> None:
    result = run(name, "--help")
    lines = [line.strip() for line in said(result).splitlines()]
    examples = [line for line in lines if f"paritas {name}" in line and not line.startswith("Usage:")]
    assert examples
    assert result.stderr == ""


def test_the_help_names_every_command_and_shows_how_they_follow(run: Run) -> None:
    out = said(run("--help"))
    assert sorted(cli.commands) == sorted(COMMANDS)
    for name in COMMANDS:
        assert f"\n  {name} " in out
    assert 'paritas search corpus.index "how does it work?"' in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(run: Run, shell: str) -> None:
    script = said(run("completion", shell))
    assert f"_PARITAS_COMPLETE={shell}_complete" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_completion_offers_the_registrys_models(run: Run, environment: dict[str, str]) -> None:
    environment.update(
        _PARITAS_COMPLETE="bash_complete", COMP_WORDS="paritas export all-Mini", COMP_CWORD="2"
    )
    assert run().stdout == "plain,all-MiniLM-L6-v2\n"


@pytest.mark.parametrize(
    "given", ["--registry tiny.yaml", "--registry=tiny.yaml", "--registry ~/tiny.yaml", ""]
)
def test_completion_offers_the_models_of_the_lines_own_registry(
    folder: Path, run: Run, environment: dict[str, str], given: str
) -> None:
    shutil.copy(folder / "tiny.yaml", folder / "scratch")
    words = f"paritas {given} export tiny-m"
    environment.update(
        _PARITAS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1)
    )
    if not given:
        environment["PARITAS_REGISTRY"] = "tiny.yaml"
    assert run().stdout == "plain,tiny-mpnet\n"


def test_a_registry_that_cannot_be_read_ends_no_completion(run: Run, environment: dict[str, str]) -> None:
    words = "paritas --registry none.yaml export tiny-m"
    environment.update(_PARITAS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="4")
    assert (run().stdout, run().stderr) == ("dir,tiny-m\n", "")


def test_a_reader_that_goes_away_ends_a_command_without_a_word(
    folder: Path, environment: dict[str, str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -1` does, only surely before the first line
    try:
        result = subprocess.run(
            [*command(), "search", "corpus.index", "sky", "ferry"],
            cwd=folder,
            env=environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (141, b"")


def test_verifying_and_searching_write_nothing_anywhere(folder: Path, run: Run) -> None:
    before = contents(folder)
    said(run("verify", "bert.bundle"))
    said(run("search", "corpus.index", "sky"))
    assert contents(folder) == before

"""The command line, run as users run it: answers, exit codes, messages, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paritas.cli import cli
from paritas.engine.bundle import Bundle
from paritas.engine.encoder import Encoder

DOCUMENTS = [
    {"_id": "sky", "title": "", "text": "why is the sky blue"},
    {"_id": "ferry", "title": "Island", "text": "the ferry leaves in the morning"},
    {"_id": "zürich", "title": "Straße", "text": "the train to Zürich — 日本の川 🚆"},
    {"_id": 7, "text": "what is the price of an apple"},
]
COMMANDS = ["models", "export", "verify", "index", "search", "recall", "demo", "completion"]

# Sets a limit or a signal, then becomes the command: preexec_fn is not safe beside the threads of a session.
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
BECOME = "; import os, sys; os.execv(sys.executable, [sys.executable, '-m', 'paritas', *sys.argv[1:]])"

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


def command(before: str | None = None) -> list[str]:
    return [sys.executable, "-m", "paritas"] if before is None else [sys.executable, "-c", before + BECOME]


@pytest.fixture
def environment(tmp_path: Path, home: Path) -> dict[str, str]:
    """Whatever a command may write without being asked lies in the test's own folder."""
    (tmp_path / "scratch").mkdir()
    # onnxruntime writes less where it takes itself for a test.
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    return {
        **kept,
        "PARITAS_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path / "scratch"),
        "XDG_CACHE_HOME": str(tmp_path / "scratch"),
        "TMPDIR": str(tmp_path / "scratch"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    def run(*arguments: str, before: str | None = None, stdin: str = "") -> Result:
        return subprocess.run(
            [*command(before), *arguments],
            input=stdin,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def template(
    tmp_path_factory: pytest.TempPathFactory,
    bundles: dict[str, Bundle],
    checkpoints: dict[str, Path],
    tiny_registry_path: Path,
) -> Path:
    """A folder with everything a command may be given: registry, checkpoints, bundles, corpus, index."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copy(tiny_registry_path, folder / "tiny.yaml")
    for model in ("bert", "mpnet"):
        shutil.copytree(checkpoints[f"tiny-{model}"], folder / f"{model}.checkpoint")
        shutil.copytree(bundles[f"tiny-{model}"].directory, folder / f"{model}.bundle")
    write_jsonl(folder / "corpus.jsonl", DOCUMENTS)
    arguments = shlex.split("index corpus.jsonl --model mpnet.bundle --out corpus.index --json")
    subprocess.run([*command(), *arguments], cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """The test's own copy of the template; commands run in it."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


def write_jsonl(path: Path, documents: list[dict[str, Any]]) -> None:
    lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in documents]
    path.write_text("".join(lines), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def answer(result: Result) -> Any:
    """The one JSON document a successful command printed."""
    assert (result.returncode, result.stderr.count("Traceback")) == (0, 0), result.stderr
    return json.loads(result.stdout)


def said(result: Result) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(result: Result, message: str) -> None:
    """A command that failed for what the user can mend: 2, and one line that says it."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    *progress, last = result.stderr.splitlines()
    assert last.startswith(("paritas: error: ", "Error: ")), result.stderr
    assert not [line for line in progress if "error" in line.lower()], result.stderr
    assert message in last
    assert result.stdout == ""


# Answers.


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


def test_export_prints_the_certificate_and_reports_its_steps_on_stderr(folder: Path, run: Run) -> None:
    arguments = "--registry tiny.yaml export tiny-bert --source bert.checkpoint --precision fp16,fp32"
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
    assert "reference.npy: changed since the export" in proof["error"]
    assert result.stderr == f"paritas: error: {proof['error']}\n"


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


def test_an_exported_id_serves_every_command(folder: Path, run: Run) -> None:
    registry = ["--registry", "tiny.yaml"]
    said(run(*registry, *shlex.split("export tiny-mpnet --source mpnet.checkpoint")))
    said(run(*registry, "verify", "tiny-mpnet"))
    said(run(*registry, *shlex.split("index corpus.jsonl --model tiny-mpnet --out new.index")))
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


# Bad input.


def change_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


BAD_INPUT = {
    "no such file": ("index none.jsonl {mpnet} --out new.index", "none.jsonl: no such file; expected JSON"),
    "a folder": ("index bert.bundle {mpnet} --out new.index", "bert.bundle: no such file"),
    "not JSON": ("index bad.jsonl {mpnet} --out new.index", "bad.jsonl:2: not JSON: "),
    "no text": ("index untexted.jsonl {mpnet} --out new.index", 'untexted.jsonl:1: "text" is missing'),
    "an id twice": (
        "index twice.jsonl {mpnet} --out new.index",
        "twice.jsonl:3: id 'a' was given before, in line 1",
    ),
    "an id twice, next to a good index": (
        "index twice.jsonl {mpnet} --out corpus.index",
        "twice.jsonl:3: id 'a' was given before",
    ),
    "empty": ("index empty.txt {mpnet} --out new.index", "there are no documents to index"),
    "only empty lines": ("index blank.txt {mpnet} --out new.index", "there are no documents to index"),
    "empty stdin": ("index - {mpnet} --out new.index", "there are no documents to index"),
    "binary": ("index binary.txt {mpnet} --out new.index", "binary.txt:2: not UTF-8: "),
    "half a character": ("index half.jsonl {mpnet} --out new.index", 'half.jsonl:1: "text" holds half a'),
    "unknown model": (
        "index corpus.jsonl --model all-MiniLM-L6-v3 --out new.index",
        "unknown model 'all-MiniLM-L6-v3'; did you mean 'all-MiniLM-L6-v2'?",
    ),
    "unknown model among the user's": (
        "--registry tiny.yaml index corpus.jsonl --model tiny-brt --out new.index",
        "unknown model 'tiny-brt'; did you mean 'tiny-bert'?",
    ),
    "no such bundle": ("index corpus.jsonl --model ./none --out new.index", "none: no such bundle directory"),
    "no bundle": ("index corpus.jsonl --model ./corpus.index --out new.index", "corpus.index: not a bundle"),
    "unknown precision": (
        "index corpus.jsonl {mpnet} --precision fp8 --out new.index",
        "Invalid value for '--precision': 'fp8' is not one of 'fp32', 'fp16'.",
    ),
    "unknown role": (
        "index corpus.jsonl {mpnet} --role document --out new.index",
        "unknown role 'document'; the model has query, passage",
    ),
    "no --out": ("index corpus.jsonl {mpnet}", "Missing option '--out'."),
    # Bad input as well, so that the message shows which is looked at first: nobody encodes in vain.
    "out is a file": (
        "index bad.jsonl {mpnet} --out tiny.yaml",
        "tiny.yaml: is a file; an index is a directory",
    ),
    "out is under a file": (
        "index bad.jsonl {mpnet} --out tiny.yaml/new.index",
        "tiny.yaml: is a file; an index is a directory",
    ),
    "out holds other files": (
        "index bad.jsonl {mpnet} --out bert.checkpoint",
        "bert.checkpoint: holds other files and no index; choose another directory",
    ),
    "search without an index": (
        "search none.index sky",
        "none.index: no index there; type: paritas index INPUT --model MODEL --out none.index",
    ),
    "search a file": ("search tiny.yaml sky", "tiny.yaml/index.json: "),
    "search a bundle": ("search bert.bundle sky", "bert.bundle: no index there"),
    "search with another model": (
        "search corpus.index sky --model bert.bundle",
        "the index was made by tiny-mpnet (fingerprint ",
    ),
    "search with an unknown model": (
        "search corpus.index sky --model all-MiniLM-L6-v3",
        "unknown model 'all-MiniLM-L6-v3'; did you mean 'all-MiniLM-L6-v2'?",
    ),
    "search with an unknown role": (
        "search corpus.index sky --role queries",
        "unknown role 'queries'; did you mean 'query'?",
    ),
    "search for bytes that are no text": ("search corpus.index \udcff", "text 0 holds half a surrogate pair"),
    "search for nothing": ("search corpus.index", "Missing argument 'QUERY...'."),
    "no answers wanted": (
        "search corpus.index sky -k 0",
        "Invalid value for '-k': 0 is not in the range x>=1.",
    ),
    "recall of no index": ("recall bert.bundle", "bert.bundle: no index there"),
    "recall of nothing": ("recall corpus.index --sample 0", "Invalid value for '--sample'"),
    "recall without queries": ("recall corpus.index --queries empty.txt", "recall needs at least one query"),
    "recall, no such file": (
        "recall corpus.index --queries none.txt",
        "none.txt: cannot be read: No such file",
    ),
    "recall with another model": (
        "recall corpus.index --queries blank.txt --model bert.bundle",
        "the index was made by tiny-mpnet",
    ),
    "verify nothing": ("verify ./none", "none: no such bundle directory"),
    "verify an unexported id": (
        "verify all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2 was not exported yet; type: paritas export all-MiniLM-L6-v2",
    ),
    "verify an unexported id of the user's": (
        "--registry tiny.yaml verify tiny-bert",
        "tiny-bert was not exported yet; type: paritas --registry tiny.yaml export tiny-bert",
    ),
    "verify with another checkpoint": (
        "verify bert.bundle --reference mpnet.checkpoint",
        "mpnet.checkpoint/config.json: sha256 ",
    ),
    "export an unknown model": (
        "{tiny} export tiny-brt --source bert.checkpoint",
        "unknown model 'tiny-brt'; did you mean 'tiny-bert'?",
    ),
    "export in an unknown precision": (
        "{tiny} export tiny-bert --source bert.checkpoint --precision fp32,int8",
        "--precision 'fp32,int8': expected one or more of fp32, fp16, comma between",
    ),
    "export from nowhere": ("{tiny} export tiny-bert", "tiny-bert has no hub source; type: --source DIR"),
    "export from no directory": (
        "{tiny} export tiny-bert --source none",
        "--source none: no such directory; expected hub, package or a directory",
    ),
    "export from an index": ("{tiny} export tiny-bert --source corpus.index", "corpus.index: no weights"),
    "export another network": (
        "{tiny} export tiny-bert --source mpnet.checkpoint",
        "model_type is 'mpnet', the registry's entry of tiny-bert says 'bert'",
    ),
    "config and weights differ": (
        "{tiny} export tiny-bert --source odd.checkpoint",
        "odd.checkpoint: the weights do not fit config.json: missing 'encoder.layer.2.",
    ),
    "export onto a file": (
        "{tiny} export tiny-bert --source bert.checkpoint --out tiny.yaml",
        "tiny.yaml: is a file; --out names the bundle's directory",
    ),
    "export onto other files": (
        "{tiny} export tiny-bert --source bert.checkpoint --out corpus.index",
        "corpus.index: holds other files and no bundle (",
    ),
    "registry with an unknown key": (
        "--registry odd.yaml models",
        "odd.yaml: Object contains unknown field `netwrok` - at `$.models[...]`; did you mean 'network'?",
    ),
    "registry that is no YAML": ("--registry torn.yaml models", "torn.yaml: not YAML: "),
    "no such registry": ("--registry none.yaml models", "none.yaml: cannot be read: "),
    "unknown command": ("serach corpus.index sky", "No such command 'serach'."),
    "unknown option": ("search corpus.index sky --topk 3", "No such option '--topk'."),
}


@pytest.fixture
def bad_files(folder: Path) -> None:
    documents = [{"_id": name, "text": "sky"} for name in ("a", "b", "a")]
    write_jsonl(folder / "twice.jsonl", documents)
    write_jsonl(folder / "untexted.jsonl", [{"_id": "a"}])
    (folder / "bad.jsonl").write_text('{"_id": "a", "text": "sky"}\n{"_id": "b",\n', encoding="utf-8")
    (folder / "half.jsonl").write_text('{"_id": "a", "text": "\\ud83d"}\n', encoding="utf-8")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_bytes(b"\n  \n\n")
    (folder / "binary.txt").write_bytes(b"a text\n\x00\xff\xfe\x80\n")
    registry = (folder / "tiny.yaml").read_text(encoding="utf-8")
    (folder / "odd.yaml").write_text(registry.replace("network:", "netwrok:", 1), encoding="utf-8")
    (folder / "torn.yaml").write_text("models: {tiny: [", encoding="utf-8")
    odd = shutil.copytree(folder / "bert.checkpoint", folder / "odd.checkpoint")
    config = json.loads((odd / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] += 1
    (odd / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.usefixtures("bad_files")
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_ends_with_2_one_message_and_nothing_left(folder: Path, run: Run, case: str) -> None:
    line, message = BAD_INPUT[case]
    before = contents(folder)
    result = run(*shlex.split(line.format(mpnet="--model mpnet.bundle", tiny="--registry tiny.yaml")))
    refused(result, message)
    left = contents(folder)
    # A store without a bundle in it is nothing half-written.
    assert {name for name in left if name not in ("home", "home/bundles")} == set(before)
    assert {name: left[name] for name in before} == before


@pytest.mark.parametrize(
    "line",
    [
        "verify mpnet.bundle",
        "index corpus.jsonl --model mpnet.bundle --out new.index",
        "search corpus.index sky --model mpnet.bundle",
    ],
)
def test_a_bundle_with_a_changed_file_is_refused_by_every_command(folder: Path, run: Run, line: str) -> None:
    change_byte(folder / "mpnet.bundle" / "model.fp32.onnx.data")
    before = contents(folder)
    refused(run(*shlex.split(line)), "mpnet.bundle/model.fp32.onnx.data: changed since the export (sha256 ")
    assert contents(folder) == before


def test_an_index_of_another_precision_family_is_not_searched(folder: Path, run: Run) -> None:
    info = folder / "corpus.index" / "index.json"
    text = info.read_text(encoding="utf-8")
    info.write_text(text.replace('"family": "float"', '"family": "byte"'), encoding="utf-8")
    refused(run("search", "corpus.index", "sky"), "whose vectors cannot be searched with those of fp32")


# Damaged indexes.


def truncate(pattern: str) -> Callable[[Path], None]:
    def damage(index: Path) -> None:
        (path,) = index.glob(pattern)
        path.write_bytes(path.read_bytes()[:-100])

    return damage


def remove(pattern: str) -> Callable[[Path], None]:
    def damage(index: Path) -> None:
        (path,) = index.glob(pattern)
        path.unlink()

    return damage


def info(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(index: Path) -> None:
        found = json.loads((index / "index.json").read_text(encoding="utf-8"))
        change(found)
        (index / "index.json").write_text(json.dumps(found), encoding="utf-8")

    return damage


def scribble(index: Path) -> None:
    """Overwrite all of the table but its first page; the size stays."""
    (path,) = index.glob("texts-*.sqlite")
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def forget_a_text(index: Path) -> None:
    """Delete a row; the size stays."""
    (path,) = index.glob("texts-*.sqlite")
    size = path.stat().st_size
    database = sqlite3.connect(path)
    database.execute("DELETE FROM documents WHERE id = 'sky'")
    database.commit()
    database.close()
    assert path.stat().st_size == size


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "vectors truncated": (truncate("vectors-*"), ".usearch: "),
    "texts truncated": (truncate("texts-*"), ".sqlite: "),
    "vectors gone": (remove("vectors-*"), ".usearch: missing; the index is damaged, index anew"),
    "texts gone": (remove("texts-*"), ".sqlite: missing; the index is damaged, index anew"),
    "texts overwritten": (scribble, ".sqlite: not a readable table of texts: "),
    "a text deleted": (forget_a_text, "a vector has no text; the index is damaged, index anew"),
    "index.json garbage": (
        lambda index: (index / "index.json").write_bytes(b"\x00garbage"),
        "index.json: JSON is malformed",
    ),
    "index.json empty": (
        lambda index: (index / "index.json").write_bytes(b""),
        "index.json: Input data was truncated; index anew",
    ),
    "index.json gone": (remove("index.json"), "corpus.index: no index there; type: paritas index"),
    "newer format": (
        info(lambda found: found.update(format=2)),
        "index.json: format 2, this paritas reads up to 1; upgrade it",
    ),
    "a generation that climbs": (
        info(lambda found: found.update(generation="../../x")),
        "index.json: '../../x' is no generation; index anew",
    ),
    "another count": (info(lambda found: found.update(count=5)), "does not hold what index.json says"),
    "another dim": (info(lambda found: found.update(dim=8)), "does not hold what index.json says"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_index_is_refused_and_left_as_it_is(folder: Path, run: Run, case: str) -> None:
    damage, message = DAMAGES[case]
    damage(folder / "corpus.index")
    before = contents(folder)
    refused(run("search", "corpus.index", "why is the sky blue"), message)
    assert contents(folder) == before


def test_a_table_damaged_in_its_middle_is_refused_when_a_search_comes_there(folder: Path, run: Run) -> None:
    write_jsonl(
        folder / "long.jsonl",
        [{"_id": str(number), "text": f"the river {number} " * 200} for number in range(40)],
    )
    said(run(*shlex.split("index long.jsonl --model mpnet.bundle --out long.index")))
    (path,) = (folder / "long.index").glob("texts-*.sqlite")
    data = bytearray(path.read_bytes())
    data[8 * 4096 : -8 * 4096] = bytes(len(data) - 16 * 4096)
    path.write_bytes(data)
    result = run("search", "long.index", "river", "-k", "40")
    refused(result, "the texts cannot be read: ")


# Full disks, signals and faults of ours.


@pytest.mark.parametrize(
    ("documents", "words"), [(400, 1), (40, 400)], ids=["while writing vectors", "while writing texts"]
)
@pytest.mark.parametrize("out", ["new.index", "corpus.index"])
def test_a_full_disk_while_indexing_leaves_nothing_and_keeps_the_former_index(
    folder: Path, run: Run, out: str, documents: int, words: int
) -> None:
    corpus = [{"_id": str(number), "text": "river " * words} for number in range(documents)]
    write_jsonl(folder / "large.jsonl", corpus)
    before = contents(folder)
    arguments = ["index", "large.jsonl", "--model", "mpnet.bundle", "--out", out]
    refused(run(*arguments, before=LIMIT.format(40_000)), f"{out}: the index cannot be written: ")
    assert contents(folder) == before


@pytest.mark.parametrize("out", ["new.bundle", "bert.bundle"])
def test_a_full_disk_while_exporting_leaves_nothing_and_keeps_the_former_bundle(
    folder: Path, run: Run, out: str
) -> None:
    before = contents(folder)
    arguments = "--registry tiny.yaml export tiny-bert --source bert.checkpoint --out"
    result = run(*shlex.split(arguments), out, before=LIMIT.format(8_000))
    refused(result, f"{out}: cannot be written: ")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("out", ["new.index", "corpus.index"])
def test_a_signal_while_reading_stdin_leaves_nothing_and_keeps_the_former_index(
    folder: Path, environment: dict[str, str], out: str, number: signal.Signals, code: int
) -> None:
    before = contents(folder)
    # Where the tests run in a shell's background, SIGINT is ignored; the command must not inherit that.
    reset = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    process = subprocess.Popen(
        [*command(reset), "index", "-", "--model", "mpnet.bundle", "--out", out],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        # Far more than a pipe holds: once it is written, the command is reading, and waits for more.
        process.stdin.write((b"river " * 200 + b"\n") * 1000)
        process.stdin.flush()
        process.send_signal(number)
        out_, error = process.communicate(timeout=120)
    assert process.returncode == code, error
    assert out_ == b""
    assert b"Traceback" not in error
    assert contents(folder) == before


def test_a_fault_of_ours_ends_with_1_and_its_traceback(folder: Path, environment: dict[str, str]) -> None:
    fault = (
        "from paritas import store\n"
        "def find(model): raise RuntimeError('a wheel came off')\n"
        "store.find = find\n"
        "from paritas.cli import main\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", fault, "verify", "bert.bundle"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert result.stderr.endswith("RuntimeError: a wheel came off\n")
    assert result.stdout == ""

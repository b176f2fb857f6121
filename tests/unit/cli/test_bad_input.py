"""What users can mend: exit code 2, one message, and nothing changed."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from paritas.engine.index.info import parse, written
from tests.unit.cli.runs import Run, refused, write_jsonl
from tests.unit.files import change_byte, contents

BAD_INPUT = {
    "no such file": ("index none.jsonl {mpnet} --out new.index", "none.jsonl: no such file; expected JSON"),
    "a folder": ("index bert.bundle {mpnet} --out new.index", "bert.bundle: no such file but a directory"),
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
        "Invalid value for '--precision': 'fp8' is not one of 'fp32', 'fp16', 'int8', 'auto'.",
    ),
    "unknown role": (
        "index corpus.jsonl {mpnet} --role document --out new.index",
        "unknown role 'document'; known: passage, query",
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
    "verify on hardware that is not there": (
        "verify bert.bundle --provider cuda",
        "provider 'cuda' (CUDAExecutionProvider) is not in the installed onnxruntime",
    ),
    "tune nothing": ("tune ./none", "none: no such bundle directory"),
    "tune an unexported id": (
        "tune all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2 was not exported yet; type: paritas export all-MiniLM-L6-v2",
    ),
    "tune a precision that is not there": (
        "tune bert.bundle --precision int8",
        "no precision 'int8', it has",
    ),
    "tune in no time": ("tune bert.bundle --seconds 0", "seconds is 0.0; expected more than 0"),
    "tune for ever": ("tune bert.bundle --seconds inf", "seconds is inf; expected more than 0"),
    "tune in what is no number": ("tune bert.bundle --seconds nan", "seconds is nan; expected more than 0"),
    "export an unknown model": (
        "{tiny} export tiny-brt --source bert.checkpoint",
        "unknown model 'tiny-brt'; did you mean 'tiny-bert'?",
    ),
    "export in an unknown precision": (
        "{tiny} export tiny-bert --source bert.checkpoint --precision fp32,int4",
        "--precision 'fp32,int4': expected one or more of fp32, fp16, int8, comma between",
    ),
    "calibration without int8": (
        "{tiny} export tiny-bert --source bert.checkpoint --calibration corpus.jsonl",
        "calibration is for int8; add it to the precisions",
    ),
    "calibration on a file that is not there": (
        "{tiny} export tiny-bert --source bert.checkpoint --precision int8 --calibration one.txt",
        "one.txt: cannot be read",
    ),
    "judgements that are not there": (
        "{tiny} export tiny-bert --source bert.checkpoint --precision fp32,fp16 --judgements nowhere",
        "nowhere/qrels/test.tsv: cannot be read",
    ),
    "export from nowhere": ("{tiny} export tiny-bert", "tiny-bert has no hub source; type: --source DIR"),
    "export from no directory": (
        "{tiny} export tiny-bert --source none",
        "--source none: no such directory; expected hub, package or a directory",
    ),
    "export from an index": (
        "{tiny} export tiny-bert --source corpus.index",
        "corpus.index: config.json missing from the checkpoint of tiny-bert",
    ),
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
        "odd.yaml: tiny-bert: Object contains unknown field `netwrok`; did you mean 'network'?",
    ),
    "registry that is no YAML": ("--registry torn.yaml models", "torn.yaml: not YAML: "),
    "no such registry": ("--registry none.yaml models", "none.yaml: cannot be read: "),
    "no registry's name": ("--registry '' models", "Invalid value for '--registry': it is empty; expected a"),
    "no source": (
        "{tiny} export tiny-bert --source ''",
        "Invalid value for '--source': it is empty; expected a value, or leave the option out",
    ),
    "no input": ("index '' {mpnet} --out new.index", "Invalid value for 'INPUT': it is empty"),
    "no name of an index to be made": ("index corpus.jsonl {mpnet} --out ''", "Invalid value for '--out'"),
    "no index": ("search '' sky", "Invalid value for 'INDEX': it is empty"),
    "no judgements": ("verify bert.bundle --judgements ''", "Invalid value for '--judgements': it is empty"),
    "no provider": ("verify bert.bundle --provider ''", "Invalid value for '--provider': it is empty"),
    "demo into nothing": ("demo --out ''", "Invalid value for '--out': it is empty"),
    "verify with a file": (
        "verify bert.bundle --reference tiny.yaml",
        "--reference tiny.yaml: no such directory; expected hub, package or a directory",
    ),
    "a registry of no mapping": (
        "--registry blank.txt models",
        "blank.txt: Expected `object`, got `null`; expected keys and values, as in models_registry.yaml",
    ),
    "a shell that is unknown": ("completion", "Missing argument 'SHELL'"),
    "recall with what is for queries": (
        "recall corpus.index --role passage",
        "--role is for the texts of --queries FILE; stored vectors are as they are",
    ),
    "a JSON array": (
        "index array.json {mpnet} --out new.index",
        "apart by: jq -c '.[]' FILE | paritas index -",
    ),
    "lines that end in CR alone": (
        "index mac.txt {mpnet} --out new.index",
        "mac.txt:1: lines end in CR alone",
    ),
    "UTF-16": ("index wide.txt {mpnet} --out new.index", "wide.txt:1: not UTF-8 but UTF-16; type: iconv -f"),
    "a packed file that ends early": (
        "index cut.jsonl.gz {mpnet} --out new.index",
        "cut.jsonl.gz: damaged after line ",
    ),
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
    (folder / "array.json").write_text('[\n{"_id": "a", "text": "sky"}]', encoding="utf-8")
    (folder / "mac.txt").write_bytes(b"first\rsecond\r")
    (folder / "wide.txt").write_bytes("first\n".encode("utf-16"))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes())[:-4])
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
        "tune mpnet.bundle",
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
    info.write_bytes(written(replace(parse(info.read_bytes()), family="byte")))
    refused(run("search", "corpus.index", "sky"), "whose vectors cannot be searched with those of fp32")


def test_nothing_is_measured_that_cannot_be_kept(folder: Path, run: Run) -> None:
    (folder / "home").write_text("a file where the store should be")
    result = run("tune", "bert.bundle")
    refused(result, "home/tuned: what is found cannot be kept there: ")
    assert result.stderr.count("\n") == 1

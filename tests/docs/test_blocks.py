"""Every code block of README.md, CONTRIBUTING.md and docs/ is run, parsed or checked; none is passed over."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT, Block, blocks, commands, run_python, run_shell, served
from tests.docs.not_run import CHECKS, ONCE, PARSED, check_for, parse

# Output, pictures, and what the site's generator reads; `make docs` fails where that is wrong.
SHOWN = {"text", "mermaid", "{toctree}", "{eval-rst}"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_works(page: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("page")
    # Frameworks look a function's annotations up in its module.
    monkeypatch.setitem(sys.modules, "page", module)
    names: dict[str, Any] = vars(module)
    output = ""
    with served() as serve:
        for block in blocks(page):
            try:
                if block.is_output:
                    assert block.code == output
                elif block.language == "sh":
                    output = _shell(block, scratch, serve)
                else:
                    _work(block, scratch, names)
            except BaseException as error:
                error.add_note(f"in the block at {block.place}")
                raise


def _work(block: Block, scratch: Path, names: dict[str, Any]) -> None:
    if block.file is not None:
        (scratch / block.file).write_text(block.code, encoding="utf-8")
    if block.language in SHOWN:
        return
    if block.language == "json":
        json.loads(block.code)
    elif block.language == "yaml":
        yaml.safe_load(block.code)
    elif block.language == "dockerfile":
        _check_dockerfile(block)
    elif block.language == "python":
        if block.file is None:
            run_python(block, names)
    else:
        pytest.fail(f"{block.place}: no test knows what to do with a block of {block.language!r}")


def _shell(block: Block, scratch: Path, serve: Callable[[str, Path], None]) -> str:
    """Run or check the commands of a block; return what the last one that ran wrote."""
    output = ""
    for command in commands(block):
        entry = check_for(command)
        if command.startswith("paritas serve "):
            parse(command)
            serve(command, scratch)
        elif entry is None:
            output = run_shell(command, scratch)
        else:
            entry[1](command)
    return output


def _check_dockerfile(block: Block) -> None:
    """Check each RUN line as a command of its own."""
    for command in commands(block):
        word, _, rest = command.partition(" ")
        assert word in {"FROM", "RUN", "ENV", "COPY", "WORKDIR", "USER", "CMD"}, command
        entry = check_for(rest) if word == "RUN" else None
        if entry is not None:
            entry[1](rest)
        elif word == "RUN":
            run_shell(rest, Path.cwd())


def test_a_broken_block_fails_with_its_place(tmp_path: Path) -> None:
    code = Block(ROOT / "README.md", 7, "python", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        run_python(code, {})
    with pytest.raises(AssertionError, match="ended with 3"):
        run_shell("exit 3", tmp_path)


def test_no_entry_of_the_list_of_what_is_not_run_is_unused() -> None:
    used = {
        entry[0]
        for page in PAGES
        for block in blocks(page)
        if block.language in {"sh", "dockerfile"}
        for command in commands(block)
        if (entry := check_for(command.removeprefix("RUN ")))
    }
    assert used == {*CHECKS, *PARSED, *ONCE}

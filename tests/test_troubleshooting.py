"""docs/troubleshooting.md quotes what the program says: every fixed part of a message must stand in its code."""

import ast
import re
from pathlib import Path

import keras_birds

PACKAGE = Path(keras_birds.__file__).parent
PAGE = PACKAGE.parent / "docs" / "troubleshooting.md"
# Pieces of a message that may come from different lines of the code.
JOINTS = re.compile(r"\. |: |; |, |[()]|(?<=there must be) ")


def texts_of_the_code():
    """Every text in the code but documentation, one a line, with … for what differs, as the page has it."""
    nodes = [
        x for path in sorted(PACKAGE.rglob("*.py")) for x in ast.walk(ast.parse(path.read_text("utf-8")))
    ]
    documentation = {id(x.value) for x in nodes if isinstance(x, ast.Expr)}
    formatted = [x.values for x in nodes if isinstance(x, ast.JoinedStr)]
    texts = ["".join(y.value if isinstance(y, ast.Constant) else "…" for y in x) for x in formatted]
    plain = [x.value for x in nodes if isinstance(x, ast.Constant) and id(x) not in documentation]
    return "\n".join(texts + [x for x in plain if isinstance(x, str)])


def quoted():
    blocks = re.findall(r"^```text\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def test_every_quoted_message_is_one_of_the_program():
    messages, code = quoted(), texts_of_the_code()
    assert len(messages) >= 80
    assert len(set(messages)) == len(messages)
    parts = {part.strip(" .…") for message in messages for part in JOINTS.split(message)}
    assert sorted(x for x in parts if x not in code) == []


def test_every_status_of_a_manifest_is_told():
    statuses = re.findall(r"^\| `([a-z ]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    source = (PACKAGE / "inference" / "scorer.py").read_text("utf-8")
    about = source.split("status: `ok`", 1)[1].split("reason:", 1)[0]
    assert sorted(statuses) == sorted({"ok", *re.findall(r"`([a-z ]+)`", about)})

"""No function is longer than a screen or takes more than can be kept in mind."""

import ast
from pathlib import Path

import keras_birds

MAX_LINES, MAX_PARAMETERS = 60, 8


def test_functions_are_short_and_take_few_parameters():
    root = Path(keras_birds.__file__).parent
    broken, count = [], 0
    for path in root.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for node in (x for x in nodes if isinstance(x, ast.FunctionDef)):
            count += 1
            names = [x.arg for x in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            parameters = len(names) - (names[:1] in (["self"], ["cls"]))
            # A command takes an argument for each of its options.
            is_command = path.parent.name == "cli" and node.decorator_list
            lines = node.end_lineno - node.lineno + 1
            if is_command:  # its docstring is the page that --help shows
                lines -= len((ast.get_docstring(node) or "").splitlines())
            if lines > MAX_LINES or (parameters > MAX_PARAMETERS and not is_command):
                broken.append(
                    f"{path.relative_to(root)}: {node.name}: {lines} lines, {parameters} parameters"
                )
    assert count > 500
    assert not broken, "\n".join(broken)

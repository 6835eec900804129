"""No function is longer than a screen or takes more than can be kept in mind."""

import ast
from pathlib import Path

import keras_birds

MAX_LINES, MAX_PARAMETERS = 60, 8


def test_functions_are_short_and_take_few_parameters():
    root = Path(keras_birds.__file__).parent
    functions = [
        (path.relative_to(root), node)
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    assert len(functions) > 500
    broken = []
    for path, node in functions:
        names = [x.arg for x in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        parameters = [x for x in names if x not in ("self", "cls")]
        # A command takes an argument for each of its options.
        is_command = path.parts[0] == "cli" and node.decorator_list
        lines = node.end_lineno - node.lineno + 1
        if lines > MAX_LINES or (len(parameters) > MAX_PARAMETERS and not is_command):
            broken.append(f"{path}: {node.name}: {lines} lines, {len(parameters)} parameters")
    assert not broken, "\n".join(broken)

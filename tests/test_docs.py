"""What README and docs/ say is so: commands, options, settings, links and blocks; test_docs_pages.py runs them."""

import json
import re
import tomllib

import click
import pytest
from docs_pages import PAGES, ROOT, anchors, read_page

from keras_birds.cli.data import data
from keras_birds.cli.main import cli
from keras_birds.config import Config
from keras_birds.errors import ConfigError

COMMANDS = [*(x for x in cli.lazy if x != "data"), *(f"data {x}" for x in data.commands)]
LANGUAGES = {"bash", "python", "text", "toml", "json", "r", "cpp", "js", "html", "dockerfile", "yaml", "csv"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SETTING = re.compile(
    rf"`({'|'.join(Config.model_fields)})\.(?!(?:keras|onnx|json|toml|weights)\b)([a-z_.]+)\b"
)
NAMED = {read.name: read for read in map(read_page, PAGES)}
every_page = pytest.mark.parametrize("page", NAMED.values(), ids=list(NAMED))


@pytest.fixture
def any_path(monkeypatch):
    """What a page names needn't be there."""
    for kind in (click.Path, click.types.FuncParamType):
        monkeypatch.setattr(kind, "convert", lambda self, value, param, ctx: value)


def parse(arguments, complete):
    """The last command's context; a `click.ClickException` where its options and choices don't allow the arguments."""
    context, left = click.Context(cli, info_name="keras-birds"), arguments
    while isinstance(context.command, click.Group):
        if not left or left[0].startswith("-"):
            context.command.parse_args(context, list(left)) if complete else None
            return context
        name, command, left = context.command.resolve_command(context, list(left))
        context = click.Context(command, context, name, **command.context_settings)
    try:
        context.command.parse_args(context, list(left))
    except (click.MissingParameter, click.BadOptionUsage):
        if complete:
            raise
    return context


def check_call(arguments, complete):
    try:
        values = parse(arguments, complete).params
        if "overrides" in values:
            given = values["config_name"]
            is_own = "/" in given or given.endswith(".toml")
            Config.load(
                "baseline" if is_own else given, [x for x in values["overrides"] if complete or "=" in x]
            )
    except click.exceptions.Exit:
        pass  # --help, --version


@every_page
@pytest.mark.usefixtures("any_path")
def test_every_call_is_one_that_the_command_line_takes(page):
    wrong = []
    for line, arguments, is_block in page.calls:
        try:
            check_call(arguments, is_block)
        except (click.ClickException, ConfigError) as error:
            said = error.format_message() if isinstance(error, click.ClickException) else error
            wrong.append(f"{page.name}:{line}: keras-birds {' '.join(arguments)}: {said}")
    assert not wrong, "\n".join(wrong)


@every_page
def test_every_setting_extra_and_file_that_is_named_exists(page):
    text, wrong = page.path.read_text("utf-8"), []
    for section, keys in SETTING.findall(text):
        at = Config.model_fields[section].annotation
        for key in keys.rstrip(".").split("."):
            fields = getattr(at, "model_fields", {})
            wrong += [] if key in fields else [f"{section}.{keys}"]
            at = fields[key].annotation if key in fields else at
    named = re.findall(r"keras-birds\[([\w,]+)\]|['\"]\.\[([\w,]+)\]['\"]", text)
    wrong += [x for pair in named for x in ",".join(filter(None, pair)).split(",") if x not in EXTRAS]
    files = re.findall(r"\b(?:benchmarks|configs|keras_birds|tests)/[a-z\d_/-]+\.(?:py|toml|csv|cpp)\b", text)
    wrong += [x for x in files if not (ROOT / x).is_file()]
    assert not wrong, f"{page.name}: no such {', '.join(wrong)}"


@every_page
def test_every_block_has_a_language_and_is_well_formed(page):
    for block in page.blocks:
        where = f"{page.name}:{block.line - 1}"
        assert block.language in LANGUAGES, f"{where}: a block must be of {', '.join(sorted(LANGUAGES))}"
        try:
            if block.language == "python":
                compile(block.text, where, "exec")
            elif block.language == "json":
                json.loads(block.text)
            elif block.language == "toml":
                settings = tomllib.loads(block.text)
                if set(settings) <= set(Config.model_fields):
                    Config.parse(settings)
        except (SyntaxError, ValueError, ConfigError) as error:
            pytest.fail(f"{where}: {error}")
        assert not re.search(r"^\$ ", block.text, re.MULTILINE) or block.language == "text", (
            f"{where}: no prompts"
        )


@every_page
def test_every_link_leads_somewhere(page):
    navigation = ROOT / "mkdocs.yml"
    generated = re.findall(r"[\w/-]+\.md", navigation.read_text("utf-8"))
    generated += [f"commands/{x.replace(' ', '-')}.md" for x in COMMANDS]
    for number, line in page.prose:
        for link in re.findall(r"\]\(<?([^)\s>]+)", re.sub(r"`[^`]*`", "", line)):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (page.path.parent / file).resolve() if file else page.path
            is_page = target.relative_to(ROOT).as_posix() in NAMED
            inside = page.path.parent in target.parents or file.startswith("assets/")
            there = target.exists() or file in generated or (ROOT / file).exists()
            assert inside, f"{page.name}:{number}: {link} leads out of docs/"
            assert there, f"{page.name}:{number}: no such {link}"
            if anchor and is_page:
                known = anchor in anchors(NAMED[target.relative_to(ROOT).as_posix()])
                assert known, f"{page.name}:{number}: no heading for {link}"


def test_every_command_has_an_example_that_runs_or_says_why_not():
    shown = {
        " ".join(call[:2])
        for page in NAMED.values()
        for _, call, in_block in page.calls
        if in_block or call == ["demo"]
    }
    shown |= {x.partition(" ")[0] for x in shown}
    assert [x for x in COMMANDS if x not in shown] == []

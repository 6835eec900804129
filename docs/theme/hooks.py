"""What `make docs` adds to the pages: commands, settings, the changelog, links from code to the reference."""

import html
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from keras_birds.cli.main import cli
from keras_birds.config import Config

ROOT = Path(__file__).parents[2]
THEMES = {
    "Name what calls": ("predict", "detect", "listen", "app", "species", "models", "info"),
    "A season": ("segments", "activity", "occupancy", "density", "publish"),
    "Find and teach": ("embed", "search"),
    "Train": ("demo", "data", "pretrain", "train", "pseudo"),
    "Judge and pass on": ("evaluate", "calibrate", "compare", "export"),
}
"""Commands by what they are for."""

Words = tuple[str, ...]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the commands' pages into the navigation, below `Commands`."""
    for section in config.nav or ():
        for entry in next(iter(section.values())):
            if isinstance(entry, dict) and "Commands" in entry:
                entry["Commands"] += [
                    {theme: [{" ".join(words): _page(words)} for words in _commands() if words[0] in names]}
                    for theme, names in THEMES.items()
                ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each command, the changelog and the contributor's guide."""
    for words in _commands():
        files.append(File.generated(config, _page(words), content=_command_page(words)))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        files.append(File.generated(config, name.lower(), abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fills in the tables that pages leave room for, and says how high the search ranks the page.

    A link that reads `[other.md](other.md)` gets the title of that page.
    """
    ranks = {"settings": 4, "commands/": 2, "api-": 0.5, "changelog": 0.2}
    page.meta["search"] = {"boost": next((ranks[x] for x in ranks if page.file.src_uri.startswith(x)), 1)}
    if page.file.src_uri == "contributing.md":
        markdown = markdown.replace("](docs/", "](")
    markdown = re.sub(
        r"\[([a-z-]+)\.md\]\(\1\.md", lambda found: f"[{_title(found[1])}]({found[1]}.md", markdown
    )
    markdown = markdown.replace("<!-- commands -->", _command_table())
    return markdown.replace("<!-- settings -->", _settings_tables())


_CODE = re.compile(
    r"<a [^>]*>.*?</a>|<pre.*?</pre>"
    r"|<code>(?:keras-birds (?P<words>[a-z]+(?: [a-z]+)?)[^<]*|(?P<setting>[a-z_]+(?:\.[a-z_]+)+)"
    r"|(?P<file>CHANGELOG|CONTRIBUTING)\.md)</code>",
    re.DOTALL,
)
_FIGURE = re.compile(r'<p><img [^>]*src="([a-z-]+\.svg)"[^>]*></p>')


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Links code such as `keras-birds detect` and `training.epochs` to the page that tells of it."""
    settings, up = _fields(), "../" * page.url.count("/")

    def link(found: re.Match[str]) -> str:
        words, setting = tuple((found["words"] or "").split()), found["setting"]
        if words := next((x for x in (words, words[:1]) if x in _commands()), ()):
            target = _page(words).replace(".md", ".html")
        elif setting in settings:
            target = f"settings.html#{setting}"
        elif found["file"]:
            target = f"{found['file'].lower()}.html"
        else:
            return found[0]
        return f'<a class="code" href="{up}{target}">{found[0]}</a>'

    content = _CODE.sub(link, _FIGURE.sub(_inline_figure, content))
    return content.replace("<code>--", '<code class="option">--')


def _inline_figure(found: re.Match[str]) -> str:
    """A drawing of ours inside the page, where it takes the page's colours."""
    drawing = (ROOT / "docs" / found[1]).read_text("utf-8")
    return f'<div class="figure">{drawing}</div>'


# Commands


@cache
def _commands() -> dict[Words, click.Command]:
    """All commands by the words that call them; one that has no theme ends the build."""
    context, named = click.Context(cli), [name for names in THEMES.values() for name in names]
    if sorted(named) != sorted(cli.list_commands(context)):
        raise KeyError("THEMES in docs/theme/hooks.py must hold every command once")
    found: dict[Words, click.Command] = {}
    for name in named:
        command = cli.get_command(context, name)
        found[name,] = command
        for sub, subcommand in getattr(command, "commands", {}).items():
            found[name, sub] = subcommand
    return found


def _page(words: Words) -> str:
    return f"commands/{'-'.join(words)}.md"


def _rows(commands: list[Words], folder: str = "") -> list[str]:
    """A table of commands with a line on each."""
    rows = [
        f"| [`keras-birds {' '.join(words)}`]({folder}{_page(words).split('/')[1]}) "
        f"| {_prose(_commands()[words].get_short_help_str(200))} |"
        for words in commands
    ]
    return ["| command | what it does |", "| --- | --- |", *rows, ""]


def _command_table() -> str:
    lines: list[str] = []
    for theme, names in THEMES.items():
        lines += [f"## {theme}", "", *_rows([x for x in _commands() if x[0] in names], "commands/")]
    return "\n".join(lines)


def _command_page(words: Words) -> str:
    command, name = _commands()[words], f"keras-birds {' '.join(words)}"
    context = click.Context(command, info_name=name, show_default=True, help_option_names=["-h", "--help"])
    summary, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"# {name}", "", _prose(summary), "", "```text", usage, "```", ""]
    for block in re.split(r"\n\s*\n", rest):
        lines += [_literal(block[1:]) if block.startswith("\b") else _prose(block), ""]
    if subcommands := [x for x in _commands() if x[:-1] == words]:
        lines += ["## Commands", "", *_rows(subcommands)]
    options = [x.get_help_record(context) for x in command.get_params(context) if isinstance(x, click.Option)]
    lines += [
        "## Options",
        "",
        '<dl class="options" markdown="1">',
        *(_option(*x) for x in options if x),
        "</dl>",
    ]
    return "\n".join(lines)


def _option(names: str, said: str) -> str:
    """An option's name and what `--help` says of it, its default and limits on a line of their own."""
    notes: list[str] = []
    while found := re.search(r"\s*\[([^\[\]]*)\]$", said):
        said, notes = said[: found.start()], [*(_note(x) for x in found[1].split("; ")), *notes]
    names, _, metavar = re.match(r"((?:--?[a-z_-]+(?:, | / )?)+)( ?)(.*)", names).groups()
    metavar = metavar.replace("INTEGER RANGE", "N").replace("FLOAT RANGE", "X")
    takes = f" <span>{html.escape(metavar)}</span>" if metavar else ""
    small = f"<small>{html.escape('; '.join(notes))}</small>" if notes else ""
    anchor = names.split(",")[-1].split(" /")[0].strip()
    head = f'<dt markdown="span" id="{anchor}"><code>{names}</code>{takes}</dt>'
    return f'{head}\n<dd markdown="span">{_prose(said)} {small}</dd>'


def _note(note: str) -> str:
    """`x>=1` in words."""
    if bounds := re.fullmatch(r"(\S+)(<=?)x(<=?)(\S+)", note):
        return f"{bounds[1]} to {bounds[4]}" + (", exclusive" if "<" in (bounds[2], bounds[3]) else "")
    return re.sub(r"^x>=", "at least ", re.sub(r"^x>(?!=)", "above ", re.sub(r"^x<=", "at most ", note)))


def _literal(block: str) -> str:
    """A block that `--help` prints as it is: commands, R, or a table of files or words."""
    block = textwrap.dedent(block.strip("\n").replace("\b", ""))
    if re.search(r"^(.*\| )?([A-Z_]+=\S+ )?keras-birds ", block, re.MULTILINE):
        return f"```bash\n{block}\n```"
    if "<- " in block:
        return f"```r\n{block}\n```"
    rows = [re.split(r"\s{2,}", " ".join(x.split("\n")), maxsplit=1) for x in re.split(r"\n(?=\S)", block)]
    cells = [f"| `{row[0]}` | {_prose(re.sub(r'  +', ' ', row[1])) if row[1:] else ''} |" for row in rows]
    return "\n".join(["| | |", "| --- | --- |", *cells])


_MARKED = re.compile(
    r"`[^`]+`|docs/(?P<page>[a-z]+)\.md|(?<![\w-])--[a-z][a-z_-]*[a-z]|\bkeras-birds [a-z]+\b"
    r"|[\w./*-]+\.(?:csv|html|json|jsonl|keras|onnx|parquet|png|txt|toml|xml|xlsx|wav|ogg|flac)\b"
    rf"|\b(?:{'|'.join(Config.model_fields)})\.[a-z_.]*[a-z]|\b[A-Z]{{2,}}(?:_[A-Z]+)+\b"
)


def _prose(text: str, up: str = "../") -> str:
    """Plain text of `--help` as Markdown for a page so far below docs/: options, files and settings become code."""
    text, done, at = re.sub(r"\s+", " ", text), "", 0
    for found in _MARKED.finditer(text):
        page, code = found["page"], f"`{found[0].strip('`')}`"
        done += _escape(text[at : found.start()]) + (f"[{_title(page)}]({up}{page}.md)" if page else code)
        at = found.end()
    return done + _escape(text[at:])


def _title(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8").partition("\n")[0].lstrip("# ")


def _escape(text: str) -> str:
    return re.sub(r"([\\*_\[\]#|])", r"\\\1", html.escape(text, quote=False))


# Settings


@cache
def _fields() -> dict[str, Any]:
    """Every setting with its field in `Config`, by its name in full."""
    found: dict[str, Any] = {}

    def walk(section: type[BaseModel], prefix: str) -> None:
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation, f"{prefix}{name}.")
            else:
                found[f"{prefix}{name}"] = field

    walk(Config, "")
    return found


_SETTING = re.compile(
    r"(?:\[(?P<section>[a-z_.]+)\]|(?P<name>[a-z_]+) = (?P<value>.*?))(?:\s+# (?P<why>.*))?"
)


def _settings_tables() -> str:
    """The tables of settings: values and comments of baseline.toml, types and limits of `Config`."""
    lines, section = [], ""
    for line in (ROOT / "configs" / "baseline.toml").read_text("utf-8").splitlines():
        if not (found := _SETTING.fullmatch(line)):
            continue
        if found["section"]:
            section, model = found["section"], Config
            for name in section.split("."):
                model = model.model_fields[name].annotation
            about = [*inspect.getdoc(model).split("\n\n"), found["why"] or ""]
            lines += ["", f"## {section}", "", *(f"{_prose(x, '')}\n" for x in about if x)]
            lines += ["| setting | default | takes | why |", "| --- | --- | --- | --- |"]
        else:
            name, why = f"{section}.{found['name']}", _prose(found["why"] or "", "")
            setting = f'<code id="{name}">{name}</code>'
            lines.append(f"| {setting} | `{found['value']}` | {_takes(_fields()[name])} | {why} |")
    return "\n".join(lines)


def _takes(field: Any) -> str:
    """What values a setting takes, in words."""
    kind, inner = get_origin(field.annotation), get_args(field.annotation)
    if kind is Literal:
        return ", ".join(f'`"{x}"`' for x in inner)
    if kind is tuple:
        return "list of texts" if inner[-1] is Ellipsis else "`[low, high]`"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = [
        f"{words[x]} {getattr(rule, x):,}" for rule in field.metadata for x in words if hasattr(rule, x)
    ]
    names = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
    return ", ".join([names[field.annotation], *limits])

"""README and the pages of docs/: their fenced blocks, and the `keras-birds` calls in them."""

import re
import shlex
import textwrap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import keras_birds

ROOT = Path(keras_birds.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BY_HAND = re.compile(r"<!-- by hand: (.*) -->")
"""A command that the reader doesn't see: it does what a person does there, such as filling in a table."""
NOT_RUN = re.compile(r"<!-- not run: (.*?) -->")
RUNNABLE = ("bash", "python")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line where its text begins, its language, and why it isn't run, if so."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    def lines(self) -> list[tuple[int, str]]:
        """A shell's lines, those that go on after a backslash in one, with their numbers in the page."""
        found, begun = [], None
        for number, line in enumerate(self.text.splitlines(), self.line):
            text = line if begun is None else f"{begun[1]} {line.strip()}"
            number = number if begun is None else begun[0]
            begun = (number, text[:-1].rstrip()) if text.endswith("\\") else None
            if begun is None and text.strip() and not text.lstrip().startswith("#"):
                found.append((number, text))
        return found


@dataclass(repr=False)
class Page:
    """A page's blocks, and its text without them."""

    path: Path
    blocks: list[Block] = field(default_factory=list)
    prose: list[tuple[int, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As errors tell it."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def calls(self) -> list[tuple[int, list[str], bool]]:
        """Line and arguments of each `keras-birds`, and whether it stands in a block, where nothing may be missing."""
        found = [
            (number, call, True)
            for block in self.blocks
            if block.language in ("bash", "")
            for number, line in block.lines()
            for call in calls_in(line)
        ]
        text = "\n".join(line for _, line in self.prose)
        for span in re.finditer(r"`(keras-birds\s[^`]+)`", text):
            number = self.prose[text[: span.start()].count("\n")][0]
            found += [(number, call, False) for call in calls_in(span[1].replace("\n", " "))]
        return found


def calls_in(line: str) -> list[list[str]]:
    """The arguments of each `keras-birds` in a shell's line; `<what the reader knows>` is a word."""
    line = re.sub(r"<[\w ]+>", "WORD", line)
    if not re.search(r"(^|[\s/(`])keras-birds\b", line) or re.search(r"\bpip\b.* install ", line):
        return []
    words = shlex.shlex(line, posix=True, punctuation_chars="();|&`")
    words.whitespace_split, words.commenters = True, "#"
    calls: list[list[str]] = []
    inside = False
    for word in words:
        if re.search(r"(^|[/$(`])keras-birds$", word) and not inside:
            calls.append([])
            inside = True
        elif set(word) <= set("();|&`") or re.fullmatch(r"\d?>>?\S*|<", word):
            inside = False
        elif inside:
            calls[-1].append(word)
    return calls


def read_page(path: Path) -> Page:
    """Splits a page; a `ValueError` that names the line where a fence isn't closed or an exception stands alone."""
    page, lines, reason, at = Page(path), path.read_text("utf-8").splitlines(), "", 0
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        if not (fence := re.match(r"( *)```(\S*)(.*)", line)):
            if reason and line.strip():
                raise ValueError(f"{page.name}:{number}: `not run` stands before a bash or a python block")
            reason = exception[1] if (exception := NOT_RUN.search(line)) else reason
            page.prose.append((number, line))
            page.blocks += [Block(page.name, number, "bash", x) for x in BY_HAND.findall(line)]
            continue
        end = next((i for i in range(at, len(lines)) if lines[i].strip() == "```"), None)
        if end is None:
            raise ValueError(f"{page.name}:{number}: a block without an end")
        if reason and fence[2] not in RUNNABLE:
            raise ValueError(f"{page.name}:{number}: `not run` is for bash and python")
        text = textwrap.dedent("\n".join(lines[at:end]))
        page.blocks.append(Block(page.name, number + 1, fence[2], text, reason))
        at, reason = end + 1, ""
    return page


def anchors(page: Page) -> set[str]:
    """Where `#...` leads in a page, by the rule of Python-Markdown's `toc`."""
    found: set[str] = set()
    for _, line in page.prose:
        found.update(re.findall(r'(?:id="|\{ ?#)([\w-]+)', line))
        if heading := re.match(r"#+ +(.*)", line):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)|\{ ?#.*\}", r"\1", heading[1]).replace("`", "")
            text = re.sub(r"[^\w\s-]", "", text.encode("ascii", "ignore").decode()).strip().lower()
            slug = name = re.sub(r"[-\s]+", "-", text)
            number = 0
            while name in found:
                number += 1
                name = f"{slug}_{number}"
            found.add(name)
    return found

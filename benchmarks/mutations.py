"""Plants bugs in keras_birds, one after the other, and tells which of them the tests notice.

    pip install -c constraints.txt coverage pytest-cov
    python benchmarks/mutations.py cover WORK               # all tests once: which test runs which line
    python benchmarks/mutations.py run WORK [NUMBER ...]    # each bug: the tests that run its lines, till one fails
    python benchmarks/mutations.py list                     # which bugs are there, and whether they still fit the code

The bugs stand in `mutations.toml`. A bug is missed if all tests pass that run its lines, on KERAS_BACKEND, in this
process or in one that they start. `run` changes files of the checkout and restores each; it wants them unchanged, and
nothing else may import them meanwhile. WORK is a folder: `cover` leaves what it measured there, `run` its results.txt.
`--prefix CMD` goes before each pytest, for instance `nice`; `--data FILE` reads other bugs.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "keras_birds"
TIMEOUT_S = 3600.0
"""A file of tests that takes longer has noticed; waiting for what `--prefix` waits for included."""

_PARENT_RC = "[run]\nsource = {package}\ndisable_warnings = {warnings}\n"
# Of processes that tests start: pytest tells them by the environment which test it is.
_CHILD_RC = (
    _PARENT_RC + "parallel = true\nsigterm = true\ndata_file = {data}\ncontext = ${{PYTEST_CURRENT_TEST}}\n"
)
_WARNINGS = "no-data-collected,module-not-imported,module-not-measured"
_IN_CHILDREN = """import os
if os.environ.get("COVERAGE_PROCESS_START"):
    import coverage
    coverage.process_startup()
"""
_MOST_IDS = 100


@dataclass(frozen=True)
class Mutation:
    """A bug: what it breaks, and pairs of old and new text, one of which fits the code."""

    number: int
    package: str
    breaks: str
    change: tuple[tuple[str, str], ...]

    def place(self) -> tuple[Path, str, str] | None:
        """The file, its text and the text with the bug; `None` if no old text stands exactly once in the package."""
        texts = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
        for old, new in self.change:
            found = [path for path, text in texts.items() for _ in range(text.count(old))]
            if len(found) == 1:
                return found[0], texts[found[0]], texts[found[0]].replace(old, new)
        return None


def read(path: Path) -> list[Mutation]:
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    bugs = [(package, *x) for package, section in found.items() for x in section.items()]
    return [
        Mutation(k, package, breaks, tuple((old, new) for old, new in change))
        for k, (package, breaks, change) in enumerate(bugs, 1)
    ]


def changed_lines(text: str, mutated: str) -> tuple[int, int]:
    """First and last line of `text`, from 1, between what both begin and end with."""
    old, new = text.splitlines(), mutated.splitlines()
    before = next(k for k, (a, b) in enumerate(zip([*old, 0], [*new, 0], strict=False)) if a != b)
    after = next(k for k, (a, b) in enumerate(zip([*old[::-1], 0], [*new[::-1], 0], strict=False)) if a != b)
    return before + 1, max(before + 1, len(old) - after)


def pytest(arguments: list[str], log: Path, prefix: list[str], **variables: str) -> int:
    """Runs pytest in the checkout; its exit code, 124 if it took too long."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **variables}
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [variables.get("PYTHONPATH")])])
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    # The program, not `python -m pytest`: by that name `keras-birds` would call itself in its help.
    program = str(Path(sys.executable).with_name("pytest"))
    command = [*prefix, program, "-p", "no:cacheprovider", "-rfE", "--tb=short", *arguments]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )
        try:
            return process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return 124


def cover(work: Path, prefix: list[str]) -> None:
    """Runs every file of tests by itself, and leaves what it ran in `work`."""
    # Some tests become another user for a while.
    os.umask(0)
    work.mkdir(exist_ok=True)
    work.chmod(0o777)
    for name in ("seconds.txt", "failing.txt"):
        (work / name).unlink(missing_ok=True)
    (work / "sitecustomize.py").write_text(_IN_CHILDREN)
    settings = {"package": PACKAGE, "warnings": _WARNINGS}
    (work / "parent.rc").write_text(_PARENT_RC.format(**settings))
    for path in sorted(ROOT.glob("tests/test_*.py")):
        data, child = work / f"{path.stem}.coverage", work / f"{path.stem}.rc"
        for old in work.glob(f"{data.name}*"):  # of a run before this one
            old.unlink()
        child.write_text(_CHILD_RC.format(**settings, data=data))
        options = ["--cov", f"--cov-config={work / 'parent.rc'}", "--cov-report=", "-vv"]
        log, begun = work / f"{path.stem}.log", time.monotonic()
        variables = {
            "PYTHONPATH": str(work),
            "COVERAGE_FILE": str(data),
            "COVERAGE_PROCESS_START": str(child),
        }
        # A test that becomes another user can't note which lines it runs: then all tests of its file count as one.
        for contexts in (["--cov-context=test"], []):
            code = pytest([str(path.relative_to(ROOT)), *options, *contexts], log, prefix, **variables)
            if "INTERNALERROR" not in log.read_text(errors="replace"):
                break
        seconds, last = time.monotonic() - begun, log.read_text(errors="replace").strip().splitlines()[-1]
        print(f"{path.stem} {code} {seconds:.1f} {last.strip('= ')}", flush=True)
        with (work / "seconds.txt").open("a") as stream:
            stream.write(f"{path.stem} {seconds:.1f}\n")
        # Some tests can't bear to be measured; one that fails without as well can't notice a bug.
        for name in failing(log):
            if pytest([name], work / "alone.txt", prefix):
                with (work / "failing.txt").open("a") as stream:
                    stream.write(f"{name}\n")


def failing(log: Path) -> list[str]:
    """Tests that a log of pytest calls failed."""
    said = re.findall(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", log.read_text(errors="replace"), re.M)
    return list(dict.fromkeys(said))


@dataclass
class Covering:
    """Of a file of tests, those that run a line; all if they aren't told apart."""

    file: str
    tests: set[str]
    whole: bool = False

    @property
    def arguments(self) -> list[str]:
        return [self.file] if self.whole or len(self.tests) > _MOST_IDS else sorted(self.tests)


def covering(work: Path, path: Path, span: tuple[int, int]) -> list[Covering]:
    """The tests that run any of these lines, the likeliest to notice and the quickest first."""
    from coverage import CoverageData, CoverageException

    inside, by_line = str(path.relative_to(ROOT)), []
    for data_file in sorted(work.glob("test_*.coverage*")):
        data = CoverageData(str(data_file))
        try:
            data.read()
        except CoverageException:  # of a process that was killed
            continue
        for measured in data.measured_files():
            if measured.endswith(f"/{inside}"):
                by_line.append((data_file.name.partition(".")[0], data.contexts_by_lineno(measured)))
    found: dict[str, Covering] = {}
    for margin in range(4):  # of a statement in several lines another one may be the one that is counted
        for stem, contexts in by_line:
            for line in range(span[0] - margin, span[1] + margin + 1):
                for context in contexts.get(line, ()):
                    one = found.setdefault(stem, Covering(f"tests/{stem}.py", set()))
                    test, phase = re.fullmatch(
                        r"(.*?)(?:\|| \()?(setup|run|call|teardown)?\)?", context, re.S
                    ).groups()
                    one.tests.add(test)
                    # A fixture may serve other tests too; without a test it was an import or another process.
                    one.whole |= not test or phase not in ("run", "call")
        if found:
            break
    seconds = dict(x.split() for x in (work / "seconds.txt").read_text().splitlines())
    words = set(path.stem.split("_"))

    def rank(one: Covering) -> tuple[bool, float]:
        stem = Path(one.file).stem
        return not words & set(stem.split("_")), float(seconds.get(stem, 0))

    return sorted((x for x in found.values() if (ROOT / x.file).is_file()), key=rank)


def try_out(mutation: Mutation, work: Path, prefix: list[str]) -> str:
    """Plants a bug and runs tests: `caught` or `missed`, and by which."""
    placed = mutation.place()
    if placed is None:
        return "doesn't fit the code"
    path, text, mutated = placed
    chosen = covering(work, path, changed_lines(text, mutated))
    names = (work / "failing.txt").read_text().splitlines() if (work / "failing.txt").is_file() else []
    without = [x for name in names for x in ("--deselect", name)]
    log = work / f"mutation{mutation.number:02d}.txt"
    try:
        path.write_text(mutated, encoding="utf-8")
        for one in chosen:
            code = pytest([*one.arguments, "-x", "-q", *without], log, prefix)
            if code == 4:  # a name that the command line doesn't take
                code = pytest([one.file, "-x", "-q", *without], log, prefix)
            if code not in (0, 5):
                said = re.findall(r"^(?:FAILED|ERROR) (.*)", log.read_text(errors="replace"), re.M)
                return f"caught  {said[0][:200] if said else f'{one.file}: exit code {code}'}"
    finally:
        path.write_text(text, encoding="utf-8")
    return f"missed  {', '.join(Path(x.file).stem for x in chosen) or 'no test runs it'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cover", "run", "list"))
    parser.add_argument("work", nargs="?", type=Path, default=Path("mutations"))
    parser.add_argument("numbers", nargs="*", type=int)
    parser.add_argument("--prefix", default="", type=shlex.split)
    parser.add_argument("--data", type=Path, default=Path(__file__).with_suffix(".toml"))
    chosen = parser.parse_args()
    if chosen.what == "cover":
        cover(chosen.work.resolve(), chosen.prefix)
        return
    for x in read(chosen.data):
        if chosen.what == "list":
            placed = x.place()
            where = placed[0].relative_to(ROOT) if placed else "DOESN'T FIT"
            print(f"{x.number:2} {x.package:<12}{x.breaks}: {where}")
        elif not chosen.numbers or x.number in chosen.numbers:
            begun = time.monotonic()
            line = (
                f"{x.number:2} {x.package:<12}{x.breaks}: {try_out(x, chosen.work.resolve(), chosen.prefix)}"
            )
            print(f"{line}  [{time.monotonic() - begun:.0f} s]", flush=True)
            with (chosen.work / "results.txt").open("a") as stream:
                stream.write(line + "\n")


if __name__ == "__main__":
    main()

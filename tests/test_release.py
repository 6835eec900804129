"""What a release says of itself agrees in all places, and its workflows run commands that are there."""

import re
import tomllib
from pathlib import Path

import yaml

import keras_birds

ROOT = Path(keras_birds.__file__).parents[1]
VERSION = keras_birds.__version__


def workflows():
    return {
        x.stem: yaml.safe_load(x.read_text("utf-8")) for x in (ROOT / ".github" / "workflows").glob("*.yml")
    }


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == VERSION
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].split(" - ")[0] == VERSION


def test_workflows_run_what_is_there_on_each_python_with_few_rights():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    found = workflows()
    assert set(found) == {"ci", "docs", "release", "slow"}
    ran = set()
    for name, workflow in found.items():
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert set(job.get("permissions", ())) <= ({"id-token"} if name == "release" else set())
            for step in job["steps"]:
                ran |= {x for line in re.findall(r"\bmake (.+)", step.get("run", "")) for x in line.split()}
                files = re.findall(r"(?:^|\s)((?:tests|\.ci)/\S+)", step.get("run", ""))
                assert all((ROOT / x).is_file() for x in files), files
                assert re.search(r"@v\d", step.get("uses", "@v0")), "an action without a version"
    assert {"test-slow", "release-check"} <= ran <= targets
    assert ".ci/run" in [x.get("run") for x in found["ci"]["jobs"]["linux"]["steps"]]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
    pythons = [x.split(" :: ")[-1] for x in classifiers if re.search(r"Python :: \d\.", x)]
    assert found["ci"]["jobs"]["linux"]["strategy"]["matrix"]["python"] == pythons

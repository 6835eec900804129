"""The documentation site: built strictly, whole, and opened from the disk with no network at all."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from app_browser import CHROMIUM, DRIVER, until

import keras_birds
from keras_birds.cli.main import cli

ROOT = Path(__file__).parents[1]
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_pages_load_and_link_to_what_is_there(site):
    texts = {page: page.read_text("utf-8") for page in site.rglob("*.html") if page.name != "404.html"}
    anchors = {page: {"", *re.findall(r'\sid="?([^"\s>]+)', text)} for page, text in texts.items()}
    api = set().union(*(names for page, names in anchors.items() if page.name.startswith("api-")))
    assert {f"keras_birds.{x}" for x in keras_birds.__all__} - api == {"keras_birds.__version__"}
    for page, text in texts.items():
        for tag, url in re.findall(r'<(\w+)\s[^>]*?(?:href|src)="?([^"\s>]+)', text):
            parts = urlsplit(url)
            if parts.netloc or parts.scheme:
                assert tag == "a", f"{page.name} loads {url}"
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page.name}: {url}"
            assert target not in texts or unquote(parts.fragment) in anchors[target], f"{page.name}: {url}"
    styles = "\n".join(x.read_text("utf-8") for x in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\W*(?:https?:)?//.*", styles) == []


def test_what_is_returned_is_one_thing_however_many_lines_tell_of_it(site):
    texts = "".join(page.read_text("utf-8") for page in site.glob("api-*.html"))
    returned = re.findall(r"(?:Returns|Yields):</span></p>(.*?)</ul>", texts, re.DOTALL)
    assert len(returned) > 10
    assert {x.count("doc-section-item") for x in returned} == {1}


def test_every_command_with_every_option_has_its_page_and_is_found(site):
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    found = {x["title"] for x in index["docs"]}

    def check(command, words):
        for name, sub in getattr(command, "commands", {}).items():
            check(sub, (*words, name))
        page = (site / "commands" / f"{'-'.join(words)}.html").read_text("utf-8")
        assert f"keras-birds {' '.join(words)}" in found
        options = [x.opts[-1] for x in command.params if isinstance(x, click.Option)]
        assert [x for x in options if f'<dt id="{x}">' not in page] == []

    for name in cli.list_commands(click.Context(cli)):
        check(cli.get_command(click.Context(cli), name), (name,))


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
def test_the_search_works_from_the_disk_without_a_network(site):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1400,1000", NO_NETWORK):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        driver.get((site / "commands" / "detect.html").as_uri())
        driver.find_element("css selector", ".md-search__input").send_keys("--min-hours")
        hits = (site / "commands" / "occupancy.html").as_uri()
        until(lambda: driver.find_elements("css selector", f'.md-search-result__link[href^="{hits}"]'), 60)
        events = [json.loads(x["message"])["message"] for x in driver.get_log("performance")]
        asked = [x["params"]["request"]["url"] for x in events if x["method"] == "Network.requestWillBeSent"]
        assert [x for x in asked if not x.startswith(("file:", "data:", "about:"))] == []
        assert [x for x in driver.get_log("browser") if x["level"] == "SEVERE"] == []

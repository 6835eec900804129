"""The app as a visitor has it: a server of its own and a headless Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ROW_PX = 35


@contextmanager
def serve(folder: Path, *arguments: str):
    """`keras-birds app` in `folder`, with its temporary files in `folder/tmp`; yields its address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "keras_birds", "app", *arguments]
    command += ["--", "--server.port", str(port), "--server.headless", "true"]
    environment, address = {**os.environ, "TMPDIR": str(folder / "tmp")}, f"http://localhost:{port}"

    def is_healthy():
        assert process.poll() is None, (folder / "app.log").read_text()
        with suppress(OSError):
            return urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).status == 200

    with (folder / "app.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            until(is_healthy)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def until(condition, wait_s: float = 120):
    """What `condition` gives when it first gives something true."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {wait_s:g} s")


class Visitor:
    """A browser of its own."""

    def __init__(self, address: str, downloads: Path):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,2300"):
            options.add_argument(f"--{argument}")
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.address = address

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.driver.quit()

    def open(self, query: str = ""):
        self.driver.get(f"{self.address}/{query}")

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def text(self) -> str:
        return self.run("return document.body.innerText")

    def wait_done(self):
        """Waits until everything down to the downloads is there and the server is idle."""
        busy = "[data-testid='stStatusWidget'], [data-stale='true'], [data-testid='stProgress']"
        until(lambda: len(self.all("[data-testid='stDownloadButton']")) == 4 and not self.all(busy))

    def upload(self, path: Path):
        until(lambda: self.all("input[type=file]"))[0].send_keys(str(path))

    def click_detection(self, row: int):
        """Chooses a row of the table, and waits until it is played; where the player stands then."""
        from selenium.webdriver.common.action_chains import ActionChains

        table = self.all("[data-testid='stDataFrame']")[1]
        self.run("arguments[0].scrollIntoView({block: 'center'})", table)
        left, top = 16 - table.size["width"] / 2, ROW_PX * (row + 1.5) - table.size["height"] / 2
        ActionChains(self.driver).move_to_element_with_offset(table, left, top).click().perform()
        until(lambda: not self.run("return document.querySelector('audio').paused"))
        return self.run("return document.querySelector('audio').currentTime")

    def press(self, *keys: str):
        """On the keyboard, whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def click_button(self, text: str):
        """In one script: between two calls Streamlit may draw the button anew."""
        script = """
            let found = [...document.querySelectorAll('button')].find(x => x.innerText.includes(arguments[0]));
            if (!found || found.disabled) return false;
            found.scrollIntoView({block: 'center'});
            found.click();
            return true;
        """
        until(lambda: self.run(script, text))

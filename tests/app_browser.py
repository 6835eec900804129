"""The app as a visitor has it: a server of its own and a headless Chromium."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 120
ROW_PX = 35


@contextmanager
def serve(folder: Path, *arguments: str):
    """`keras-birds app` in `folder`, with its temporary files in `folder/tmp`; yields its address and process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "keras_birds", "app", *arguments]
    command += ["--", "--server.port", str(port), "--server.headless", "true"]
    log = (folder / "app.log").open("w")
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://localhost:{port}"

    def is_healthy():
        with suppress(OSError):
            return urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).status == 200

    try:
        until(lambda: is_healthy() or process.poll() is not None)
        assert process.poll() is None, (folder / "app.log").read_text()
        yield address, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.close()


def until(condition, wait_s: float = WAIT_S):
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

    def all(self, selector: str):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self) -> str:
        return self.driver.execute_script("return document.body.innerText")

    def wait_done(self):
        """Waits until everything down to the downloads is there and the server is idle."""
        busy = "[data-testid='stStatusWidget'], [data-stale='true'], [data-testid='stProgress']"
        until(lambda: len(self.all("[data-testid='stDownloadButton']")) == 4 and not self.all(busy))

    def upload(self, path: Path):
        until(lambda: self.all("input[type=file]"))[0].send_keys(str(path))

    def click_detection(self, row: int):
        from selenium.webdriver.common.action_chains import ActionChains

        table = self.all("[data-testid='stDataFrame']")[1]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", table)
        width, height = table.size["width"], table.size["height"]
        left, top = -width / 2 + 16, -height / 2 + ROW_PX * (row + 1.5)
        ActionChains(self.driver).move_to_element_with_offset(table, left, top).click().perform()

    def click_button(self, text: str):
        """In one script: between two calls Streamlit may draw the button anew."""
        script = """
            let found = [...document.querySelectorAll('button')].find(x => x.innerText.includes(arguments[0]));
            if (!found || found.disabled) return false;
            found.scrollIntoView({block: 'center'});
            found.click();
            return true;
        """
        until(lambda: self.driver.execute_script(script, text))

    def sound(self) -> dict:
        script = "let a = document.querySelector('audio'); return {at: a.currentTime, paused: a.paused}"
        return self.driver.execute_script(script)

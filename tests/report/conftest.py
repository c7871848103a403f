"""A headless Chromium that logs the errors and network requests of a page."""

import base64
import json
import shutil
from dataclasses import dataclass
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@dataclass
class Browser:
    """One tab."""

    driver: Any

    def open(self, path, *, width=1000, height=900, dark=False):
        """Load the page at ``path`` and wait until its charts are drawn."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.log()  # discard the log of the previous page
        self.driver.get(path.as_uri())
        self.wait("return document.documentElement.dataset.ready === 'yes'")
        # Charts are drawn in the next frame, and again when their final size is known.
        self.driver.execute_async_script("setTimeout(arguments[0], 300)")

    def run(self, script, *arguments):
        """Run ``script`` and return its result."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script):
        """Wait until ``script`` returns a true value."""
        from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

        WebDriverWait(self.driver, 30).until(lambda driver: driver.execute_script(script))

    def command(self, name, **arguments):
        """Send a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def screenshot(self):
        """The visible part of the page as PNG bytes."""
        return base64.b64decode(self.command("Page.captureScreenshot")["data"])

    def picture(self, element):
        """The pixels of the canvases of a chart, as text that is equal for equal pictures."""
        self.driver.execute_async_script("setTimeout(arguments[0], 200)")
        find = """
            const canvases = (root) => [...root.querySelectorAll("*")].flatMap((e) =>
                [...(e.tagName === "CANVAS" ? [e] : []), ...(e.shadowRoot ? canvases(e.shadowRoot) : [])]);
            return canvases(document.getElementById(arguments[0])).map((c) => c.toDataURL()).join();
        """
        return self.run(find, element)

    def log(self):
        """Errors and warnings in the console since the last call, without advice on speed.

        Bokeh before 3.9 reads its canvas in a way that Chromium says is slow.
        """
        entries = [
            entry for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
        ]
        return [entry for entry in entries if "willReadFrequently" not in entry["message"]]

    def requests(self):
        """URLs requested since the last call, except data: and blob: URLs inside the page."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver on the PATH; apt-get install chromium chromium-driver")
    from selenium import webdriver  # noqa: PLC0415
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Browser(driver)
    driver.quit()

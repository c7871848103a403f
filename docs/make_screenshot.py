"""Takes the screenshots of report.md: the first screen and the maps of a run and of a comparison.

    python docs/make_screenshot.py FOLDER

FOLDER must hold report.html and comparison.html, as made by the examples in report.md, and keras.html, which
tutorials/keras_fit.ipynb makes as report.html. Needs chromium and chromedriver on the PATH.
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

READY = "return document.documentElement.dataset.ready"
IMAGES = Path(__file__).parent / "images"
SHOTS = {
    "report-first": ("report.html", 860, ""),
    "report": ("report.html", 1000, "lcaReport.pick(8.5, 0.5); document.getElementById('explorer')"),
    "comparison": ("comparison.html", 950, ""),
    "comparison-maps": ("comparison.html", 415, "document.getElementById('maps')"),
    "report-keras": ("keras.html", 720, ""),
}
"""For each picture: the page, its height, and the script that finds the element to show."""


def main(folder: Path) -> None:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    for name, (page, height, script) in SHOTS.items():
        size = {"width": 1000, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get((folder / page).resolve().as_uri())
        WebDriverWait(driver, 30).until(lambda driver: driver.execute_script(READY))
        if script:
            driver.execute_script(f"{script}.scrollIntoView({{behavior: 'instant'}})")
        driver.execute_async_script("setTimeout(arguments[0], 1000)")
        save(driver.get_screenshot_as_png(), IMAGES / f"{name}.png")
    driver.quit()


def save(png: bytes, path: Path) -> None:
    """With 256 colours, a third of the size."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

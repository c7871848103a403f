"""Takes the screenshot of a report for report.md: the maps of layers and weights.

    python docs/make_screenshot.py report.html

The report must show weights, as the one made by the example in report.md does. Needs chromium and
chromedriver on the PATH.
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PICTURE = Path(__file__).parent / "images" / "report.png"


def main(page: Path) -> None:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    size = {"width": 1000, "height": 860, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.resolve().as_uri())
    ready = "return document.documentElement.dataset.ready"
    WebDriverWait(driver, 30).until(lambda driver: driver.execute_script(ready))
    driver.execute_script("lcaReport.pick(8.5, 0.5)")
    driver.execute_script(
        "arguments[0].scrollIntoView({behavior: 'instant'})", driver.find_element(By.ID, "explorer")
    )
    driver.execute_async_script("setTimeout(arguments[0], 1000)")
    save(driver.get_screenshot_as_png())
    driver.quit()


def save(png: bytes) -> None:
    """With 256 colours, a third of the size."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

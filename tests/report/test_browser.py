"""The report as it is met: in a browser, by mouse and keyboard, in light and dark, on a phone."""

import numpy as np
import pytest

from lca import Layout
from lca.report import write_report
from tests.report.records import EVIL, NAMES, replicates, run_values, write

STEPS = 12


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A run with everything that a page can show."""
    folder = tmp_path_factory.mktemp("report")
    names = ("train", "heldout", "class 0")
    record = write(folder / "run.zarr", run_values(STEPS), names=names, values="float32", extra=replicates)
    return write_report(record, folder / "report.html")


def press(browser, element, *keys):
    """Focus an element by its id and press keys."""
    found = browser.driver.find_element("id", element)
    browser.run("arguments[0].focus()", found)
    for key in keys:
        found.send_keys(key)


def text(browser, element):
    return browser.run("return document.getElementById(arguments[0]).textContent", element)


def hovered(browser, element, x, y):
    """What the tooltip says when the mouse is over a place of a chart, in shares of its size."""
    from selenium.webdriver.common.action_chains import ActionChains  # noqa: PLC0415

    found = browser.driver.find_element("id", element)
    browser.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
    size = found.size
    move = ActionChains(browser.driver)
    move.move_to_element_with_offset(found, int((x - 0.5) * size["width"]), int((y - 0.5) * size["height"]))
    move.perform()
    browser.driver.execute_async_script("setTimeout(arguments[0], 300)")
    return browser.run("""
        const all = (root) => [...root.querySelectorAll("*")].flatMap((e) =>
            [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
        return all(document).filter((e) => e.classList.contains("bk-Tooltip"))
            .map((e) => (e.shadowRoot ?? e).textContent).join(" ");
    """)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1000, 390])
def test_it_loads_without_an_error_or_a_request_and_fits(browser, page, dark, width):
    browser.requests()
    browser.open(page, dark=dark, width=width)
    assert browser.log() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    charts = browser.run(
        """
        return [...document.querySelectorAll(".chart")].map((e) => [e.childElementCount, e.clientHeight]);
    """
    )
    assert len(charts) == 8
    assert all(children and height > 100 for children, height in charts)


def test_the_slider_changes_both_maps_by_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    browser.open(page)
    pictures = [(browser.picture("map"), browser.picture("detail"))]
    assert text(browser, "reading").startswith("The whole run")
    for key, said in ((Keys.ARROW_RIGHT, "Step 0:"), (Keys.END, f"Step {STEPS - 1}:")):
        press(browser, "moment", key)
        assert text(browser, "reading").startswith(said)
        pictures.append((browser.picture("map"), browser.picture("detail")))
    assert all(pictures[0][0])
    for which in (0, 1):
        assert len({each[which] for each in pictures}) == 3
    press(browser, "moment", Keys.HOME)
    assert (browser.picture("map"), browser.picture("detail")) == pictures[0]
    assert browser.log() == []


def test_the_reading_has_the_numbers_of_the_record(browser, page):
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    browser.open(page)
    press(browser, "moment", *[Keys.ARROW_RIGHT] * 3)
    values = run_values(STEPS)[2]
    sums = {"fc1": values[:28].sum(), "fc2": values[28:].sum()}
    for number in (values.sum(), *sums.values()):
        assert f"{number:+.3g}".replace("-", "−") in text(browser, "reading")


def test_another_loss_and_another_layer_can_be_chosen(browser, page):
    browser.open(page)
    before = browser.picture("map"), browser.picture("detail")
    choose = """
        const list = document.getElementById(arguments[0]);
        list.selectedIndex = arguments[1];
        list.dispatchEvent(new Event("change"));
    """
    browser.run(choose, "pick-detail", 2)
    assert browser.picture("detail") != before[1]
    assert text(browser, "detail-caption").startswith("fc2.weight")
    strongest = text(browser, "map-key")
    browser.run(choose, "pick-loss", 1)  # half of the first one: the same colours stand for other numbers
    assert text(browser, "map-key") != strongest
    assert "heldout" in text(browser, "reading")
    assert browser.log() == []


def test_a_click_on_the_map_goes_there(browser, page):
    browser.open(page)
    browser.run("lcaReport.pick(4.5, 1.5)")
    assert text(browser, "reading").startswith("Step 4:")
    assert text(browser, "detail-caption").startswith("fc2.weight, step 4")


def test_tooltips_have_the_values(browser, page):
    browser.open(page)
    browser.run("lcaReport.pick(0.5, 0.5)")
    said = hovered(browser, "detail", 0.5, 0.5)
    values = run_values(STEPS)[0, :24].reshape(4, 6)
    found = [(row, col) for row in range(4) for col in range(6) if f"neuron {row}, input {col}: " in said]
    assert len(found) == 1
    number = float(said.rpartition(": ")[2].replace("−", "-"))
    assert number == pytest.approx(values[found[0]], rel=0.03, abs=0.02)
    assert "fc" in hovered(browser, "map", 0.5, 0.5)


def test_play_moves_the_slider_to_the_end(browser, page):
    browser.open(page)
    press(browser, "play", "\n")
    browser.wait(f"return document.getElementById('moment').value == {STEPS}")
    browser.wait("return document.getElementById('play').textContent === 'Play'")


def test_the_page_follows_the_scheme_while_it_is_open(browser, page):
    browser.open(page)
    light = browser.picture("loss-0")
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.command("Emulation.setEmulatedMedia", features=[scheme])
    assert browser.picture("loss-0") != light
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in paper.strip("rgb()").split(",")) < 50


def test_names_cannot_run_and_fetch_nothing(browser, tmp_path):
    layout = Layout(NAMES, ((4, 6), (4,), (2, 4)))
    names = ("train", f"held{EVIL}")
    record = write(
        tmp_path / "run.zarr",
        run_values(),
        layout=layout,
        names=names,
        values="float32",
        settings={EVIL: EVIL},
    )
    path = write_report(record, tmp_path / "report.html", title=EVIL)
    browser.requests()
    browser.open(path)
    browser.run("lcaReport.pick(0.5, 0.5)")
    said = hovered(browser, "map", 0.5, 0.5)
    said += hovered(browser, "layers-1", 0.5, 0.5)  # the tooltip of a line has the name of the layer
    assert browser.driver.title.startswith(EVIL)
    assert "<script>" in said  # as text
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.requests() == [path.as_uri()]
    assert browser.log() == []


@pytest.mark.parametrize(
    "options", [{"neurons": False, "histogram": False}, {"values": "float32", "neurons": False}]
)
@pytest.mark.parametrize("steps", [1, 150])
def test_a_record_that_lacks_parts_loads_too(browser, tmp_path, options, steps):
    extra = {"residual": np.nan}
    record = write(tmp_path / "run.zarr", run_values(steps), extra=lambda *_: extra, **options)
    browser.open(write_report(record, tmp_path / "report.html"))
    assert browser.log() == []
    press(browser, "moment", "\ue014")  # to the right
    assert text(browser, "reading").startswith("Step")

"""The pages in a browser: with mouse and keyboard, light, dark and printed, on a wide and a narrow screen."""

import re

import numpy as np
import pytest

from lca import Layout
from lca.report import write_comparison, write_report
from tests.report.records import EVIL, NAMES, replicates, run_values, write

STEPS = 12


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of a run with all optional data."""
    folder = tmp_path_factory.mktemp("report")
    names = ("train", "heldout", "class 0")
    record = write(folder / "run.zarr", run_values(STEPS), names=names, values="float32", extra=replicates)
    return write_report(record, folder / "report.html")


def press(browser, element, *keys):
    """Focus the element with this id and press keys."""
    found = browser.driver.find_element("id", element)
    browser.run("arguments[0].focus()", found)
    for key in keys:
        found.send_keys(key)


def text(browser, element):
    return browser.run("return document.getElementById(arguments[0]).textContent", element)


def hovered(browser, element, x, y):
    """The tooltip at (x, y) of a chart, in fractions of its size."""
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
def test_the_page_loads_without_errors_or_requests_and_fits_the_window(browser, page, dark, width):
    browser.requests()
    browser.open(page, dark=dark, width=width)
    assert browser.log() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    charts = browser.run(
        """
        const charts = [...document.querySelectorAll(".chart")];
        return charts.map((e) => [e.id, e.childElementCount, e.clientHeight]);
    """
    )
    curves = ["layers-1", "layers-2"]  # of train and heldout; classes have none
    ids = ["loss-0", "loss-1", "layers-0", *curves, "map", "detail", "noise-0", "noise-1"]
    assert [name for name, _, _ in charts] == ids
    assert all(children and height > 100 for _, children, height in charts)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A page of two conditions with two runs each, and classes."""
    folder = tmp_path_factory.mktemp("comparison")
    names, paths = ("train", "train/class a", "train/class b"), [folder / f"{i}.zarr" for i in range(4)]
    for i, path in enumerate(paths):
        write(path, run_values(STEPS, seed=i), names=names)
    return write_comparison({"first": paths[:2], "second": paths[2:]}, folder / "comparison.html")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1000, 390])
def test_the_comparison_loads_without_errors_or_requests_and_fits_the_window(
    browser, comparison, dark, width
):
    browser.requests()
    browser.open(comparison, dark=dark, width=width)
    assert browser.log() == []
    assert browser.requests() == [comparison.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    charts = browser.run("return [...document.querySelectorAll('.chart')].map((e) => e.clientHeight)")
    assert len(charts) == 4
    assert min(charts) > 100
    assert text(browser, "maps-1-key").startswith("helpinghurting−")


def test_the_maps_of_a_comparison_show_the_means(browser, comparison):
    browser.open(comparison)
    said = hovered(browser, "maps-1", 0.6, 0.4)
    layer, step, value = re.search(r"(fc\d), step (\d+): ([+−]\S+)", said).groups()
    part = slice(28) if layer == "fc1" else slice(28, None)
    mean = np.mean([run_values(STEPS, seed=i)[int(step), part].sum() for i in (2, 3)])
    assert float(value.replace("−", "-")) == pytest.approx(mean, rel=0.08, abs=0.06)


@pytest.mark.parametrize("dark", [False, True])
def test_on_paper_the_page_is_light_and_shows_all_tables(browser, page, dark):
    browser.open(page)
    before = browser.picture("layers-0")
    folded = "return [...document.querySelectorAll('details')].filter((e) => !e.open).length"
    assert browser.run(folded) > 0
    browser.open(page, dark=dark)
    screen = browser.picture("layers-0")
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run(folded) == 0
    assert browser.picture("layers-0") == before
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    assert browser.run(folded) > 0
    assert browser.picture("layers-0") == screen


def test_the_charts_are_painted_light_before_the_page_is_printed(browser, page):
    """A browser prints the frame in which it says so, and Bokeh paints at the next one."""
    browser.open(page, dark=True)
    browser.run("""
        const all = (root) => [...root.querySelectorAll("*")].flatMap((e) =>
            [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
        window.charts = () => all(document).filter((e) => e.tagName === "CANVAS" && e.width > 300)
            .map((e) => e.toDataURL());
    """)
    screen = browser.run("return charts()")
    at_once = browser.run("window.dispatchEvent(new Event('beforeprint')); return charts()")
    browser.driver.execute_async_script("setTimeout(arguments[0], 500)")
    assert browser.run("return charts()") == at_once != screen
    browser.run("window.dispatchEvent(new Event('afterprint'))")


def axis_labels(browser, axis):
    """The labels that page.js has put on an axis, from the left or the top."""
    return browser.run(
        """
        for (const root of Bokeh.documents.flatMap((d) => d.roots())) for (const each of root.references())
            if (each.name === arguments[0])
                return each.ticker.ticks.map((tick) => [tick, each.major_label_overrides.get(tick)]);
    """,
        axis,
    )


def test_axes_have_round_numbers(browser, tmp_path):
    layout = Layout(("fc.weight", "fc.bias"), ((100, 3), (100,)))
    values = np.random.default_rng(0).normal(size=(230, 400))
    path = write_report(write(tmp_path / "r", values, layout=layout), tmp_path / "r.html")
    browser.open(path)
    places = dict((label, tick) for tick, label in axis_labels(browser, "map-steps"))
    assert text(browser, "map-title") == "All layers, every interval of steps"
    assert list(places) == ["0", "50", "100", "150", "200"]
    assert places["50"] == 16 + 2.5 / 3  # intervals of 3 steps: step 50 is the last one of 48 to 50
    assert [label for _, label in axis_labels(browser, "detail-x")] == ["+0", "+5", "+10", "+15"]
    assert [label for _, label in axis_labels(browser, "detail-y")] == [
        "0",
        "16",
        "32",
        "48",
        "64",
        "80",
        "96",
    ]


def test_where_round_steps_are_missing_measured_ones_are_on_the_axis(browser, tmp_path):
    path = write_report(write(tmp_path / "r", run_values(STEPS), every=7), tmp_path / "r.html")
    browser.open(path)
    assert text(browser, "map-title") == "All layers, every measured step"
    labels = [int(label) for _, label in axis_labels(browser, "map-steps")]
    assert len(labels) > 1
    assert all(label % 7 == 0 for label in labels)
    assert text(browser, "reading").startswith("The 12 measured steps, every 7th from 0 to 77: LCA of")


def test_cells_with_room_show_their_numbers(browser, page):
    browser.open(page)
    browser.run("lcaReport.pick(0.5, 0.5)")
    numbers = """
        for (const root of Bokeh.documents.flatMap((d) => d.roots())) for (const each of root.references())
            if (each.name === "detail-numbers") return Array.from(each.data.text);
    """
    shown = [float(number.replace("−", "-")) for number in browser.run(numbers)]
    values = run_values(STEPS)[0, :24]
    np.testing.assert_allclose(shown, values, rtol=0.08, atol=0.02)
    browser.open(page, width=320)
    browser.run("lcaReport.pick(0.5, 0.5)")
    assert browser.run(numbers) == []


def test_the_slider_changes_both_maps_by_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    browser.open(page)
    pictures = [(browser.picture("map"), browser.picture("detail"))]
    assert text(browser, "reading").startswith("The whole run")
    for key, said in ((Keys.ARROW_RIGHT, "Step 0:"), (Keys.END, f"Step {STEPS - 1}:")):
        press(browser, "interval", key)
        assert text(browser, "reading").startswith(said)
        pictures.append((browser.picture("map"), browser.picture("detail")))
    assert all(pictures[0][0])
    for which in (0, 1):
        assert len({each[which] for each in pictures}) == 3
    press(browser, "interval", Keys.HOME)
    assert (browser.picture("map"), browser.picture("detail")) == pictures[0]
    assert browser.log() == []


def test_the_text_below_the_slider_has_the_numbers_of_the_record(browser, page):
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    browser.open(page)
    press(browser, "interval", *[Keys.ARROW_RIGHT] * 3)
    values = run_values(STEPS)[2]
    sums = {"fc1": values[:28].sum(), "fc2": values[28:].sum()}
    for number in (values.sum(), *sums.values()):
        assert f"{number:+.3g}".replace("-", "−") in text(browser, "reading")
    low, high = sorted(sums, key=sums.get)
    lowest = f"{'most helping' if sums[low] < 0 else 'least hurting'}: {low} "
    highest = f"{'most hurting' if sums[high] > 0 else 'least helping'}: {high} "
    assert f"; {lowest}" in text(browser, "reading")
    assert f"; {highest}" in text(browser, "reading")


def test_another_loss_and_another_layer_can_be_selected(browser, page):
    browser.open(page)
    before = browser.picture("map"), browser.picture("detail")
    choose = """
        const list = document.getElementById(arguments[0]);
        list.selectedIndex = arguments[1];
        list.dispatchEvent(new Event("change"));
    """
    browser.run(choose, "pick-detail", 2)
    assert browser.picture("detail") != before[1]
    assert text(browser, "detail-title").startswith("fc2.weight, the whole run: one cell per")
    scale = text(browser, "map-key")
    browser.run(choose, "pick-loss", 1)  # half of the first loss, so the colour scale differs
    assert text(browser, "map-key") != scale
    assert "heldout" in text(browser, "reading")
    assert browser.log() == []


def test_a_click_on_the_map_selects_its_step_and_layer(browser, page):
    browser.open(page)
    browser.run("lcaReport.pick(4.5, 1.5)")
    assert text(browser, "reading").startswith("Step 4:")
    assert text(browser, "detail-title") == "fc2.weight at step 4: one cell per weight; white = no effect"


def test_tooltips_show_the_values(browser, page):
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
    browser.wait(f"return document.getElementById('interval').value == {STEPS}")
    browser.wait("return document.getElementById('play').textContent === 'Play'")


def test_an_open_page_follows_a_change_of_the_colour_scheme(browser, page):
    browser.open(page)
    light = browser.picture("loss-0")
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.command("Emulation.setEmulatedMedia", features=[scheme])
    assert browser.picture("loss-0") != light
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in paper.strip("rgb()").split(",")) < 50


def test_names_in_a_record_cannot_run_code_or_make_requests(browser, tmp_path):
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
    said += hovered(browser, "layers-1", 0.5, 0.5)  # the tooltip of a line shows the name of the layer
    assert browser.driver.title.startswith(EVIL)
    assert "<script>" in said  # shown as text
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.requests() == [path.as_uri()]
    assert browser.log() == []


def test_names_in_compared_records_cannot_run_code_or_make_requests(browser, tmp_path):
    layout, paths = Layout(NAMES, ((4, 6), (4,), (2, 4))), [tmp_path / "0.zarr", tmp_path / "1.zarr"]
    names = ("train", f"class {EVIL}")
    for seed, path in enumerate(paths):
        settings = {"seed": EVIL * (seed + 1), EVIL: EVIL}
        write(path, run_values(seed=seed), layout=layout, names=names, settings=settings)
    groups = {EVIL: paths[:1], "</script><script>document.title=3</script>": paths[1:]}
    path = write_comparison(groups, tmp_path / "comparison.html", title=EVIL)
    browser.requests()
    browser.open(path)
    said = hovered(browser, "maps-0", 0.5, 0.5) + hovered(browser, "layers-0", 0.5, 0.3)
    assert "<script>" in said or "onerror" in said  # shown as text
    assert browser.driver.title.startswith(EVIL)
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.requests() == [path.as_uri()]
    assert browser.log() == []


def test_edited_attributes_cannot_run_code_or_make_requests(browser, tmp_path):
    record = write(tmp_path / "run.zarr", run_values(STEPS))
    script = "</script><script>document.title=4</script>"
    texts = ("estimator", "created", "lca_version", "conventions", "format")
    evil = dict.fromkeys(texts, EVIL + script)
    evil |= {
        "citations": [EVIL + script],
        "settings": {"a": [{EVIL: script}], script: "Call(x='<img src=x>')"},
    }
    path = write_report(record.assign_attrs(evil), tmp_path / "report.html", title="t")
    browser.requests()
    browser.open(path)
    assert browser.driver.title.startswith("t ")
    assert EVIL in text(browser, "method")
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.requests() == [path.as_uri()]
    assert browser.log() == []


@pytest.mark.parametrize(
    "options", [{"neurons": False, "histogram": False}, {"values": "float32", "neurons": False}]
)
@pytest.mark.parametrize("steps", [1, 150])
def test_the_page_of_a_record_without_optional_data_loads(browser, tmp_path, options, steps):
    extra = {"residual": np.nan}
    record = write(tmp_path / "run.zarr", run_values(steps), extra=lambda *_: extra, **options)
    browser.open(write_report(record, tmp_path / "report.html"))
    assert browser.log() == []
    press(browser, "interval", "\ue014")  # the right arrow key
    assert text(browser, "reading").startswith("Step")


def test_no_name_makes_the_page_wider_or_longer(browser, tmp_path):
    heights = []
    for length in (10, 5000):
        names = tuple(f"{c}{'x' * length}.{c}{'y' * length}" for c in "abc")
        layout = Layout(names, ((2, 2), (2,), (2,)))
        record = write(tmp_path / f"{length}.zarr", np.ones((STEPS, 8)), layout=layout, values="float32")
        browser.open(write_report(record, tmp_path / f"{length}.html", title="t"), width=1000)
        width, height = browser.run(
            "const page = document.documentElement; return [page.scrollWidth, page.scrollHeight]"
        )
        assert width <= 1000
        heights.append(height)
    assert heights[1] < 1.5 * heights[0]

"""The report as its reader meets it: in Chromium, wide and narrow, light and dark."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from sample_report import HOSTILE, make_report

from tfinetune.evaluation import write_report

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)

# The contrast ratio of WCAG 2 for every text, on the colours that lie behind it.
LOWEST_CONTRAST = """
const parse = color => (color.match(/[\\d.]+/g) || []).map(Number);
const over = (top, below) => top.slice(0, 3).map((v, i) => {
  const alpha = top.length > 3 ? top[3] : 1;
  return v * alpha + below[i] * (1 - alpha);
});
const luminance = rgb => rgb.map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const paper = parse(getComputedStyle(document.body).backgroundColor);
let worst = [99, ""];
for (const element of document.querySelectorAll("body *")) {
  const text = [...element.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
  if (!text.length || element.closest("details:not([open]) > :not(summary)")) continue;
  const layers = [];
  for (let e = element; e; e = e.parentElement)
    layers.unshift(parse(getComputedStyle(e).backgroundColor));
  const back = layers.reduce((below, top) => over(top, below), paper);
  const style = getComputedStyle(element);
  const front = over(parse(element.closest("svg") ? style.fill : style.color), back);
  const [a, b] = [luminance(front), luminance(back)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < worst[0]) worst = [ratio, text[0].data.trim()];
}
return worst;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"{CHROMIUM} and {DRIVER} are not both installed (apt: chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory, report_data) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, report_data)
    return path.as_uri()


def open_page(browser, address, *, width=1200, scheme="light"):
    """Load the page at a width in CSS pixels and a colour scheme, with everything unfolded."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(address)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")


def table(browser, identifier) -> list[list[str]]:
    """The text of a table's body, row by row, cell by cell, isolated names without their marks."""
    return browser.execute_script(
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
        ".map(row => [...row.cells].map(cell => cell.textContent.trim()))",
        identifier,
    )


def test_page_loads_without_a_complaint_or_a_request(browser, address):
    browser.get_log("browser"), browser.get_log("performance")
    open_page(browser, address)
    assert browser.get_log("browser") == []
    requests = [
        re.search(r'"request":\{.*?"url":"([^"]*)"', entry["message"])[1]
        for entry in browser.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert address in requests
    assert [url for url in requests if url != address and not url.startswith("data:")] == []


def test_every_image_is_decoded_and_described(browser, address, report_data):
    open_page(browser, address)
    images = browser.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.alt])"
    )
    assert len(images) == len(report_data.mistakes) > 0
    assert all(complete and width > 0 and alt for complete, width, alt in images)
    plots = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => "
        "[s.getAttribute('aria-label'), s.getBoundingClientRect().width])"
    )
    assert len(plots) == 3
    assert all(label and width > 200 for label, width in plots)


def test_tables_hold_the_numbers_that_were_given(browser, address, report_data):
    open_page(browser, address)
    test = report_data.test
    matrix = [[0 if c == "·" else int(c) for c in row[1:]] for row in table(browser, "confusion")]
    assert matrix == test["confusion"]

    for shown, given in zip(table(browser, "per-class"), test["per_class"], strict=True):
        assert shown[:2] == [given["name"], str(given["support"])]
        assert [float(cell) for cell in shown[2:5]] == pytest.approx(
            [given["precision"], given["recall"], given["f1"]], abs=5e-4
        )
    for shown, given in zip(
        table(browser, "results-table"), (test, report_data.validation), strict=True
    ):
        assert int(shown[1]) == given["n"]
        assert float(shown[2].strip("%")) / 100 == pytest.approx(given["accuracy"], abs=5e-4)
        assert [float(cell) for cell in shown[4:6]] == pytest.approx(
            [given["macro_f1"], given["log_loss"]], abs=5e-4
        )
        assert float(shown[6].strip("%")) / 100 == pytest.approx(given["ece"], abs=5e-4)
    for shown, given in zip(table(browser, "history"), report_data.history, strict=True):
        assert shown[:2] == [given["phase"], str(given["epoch"])]
        assert float(shown[2]) == pytest.approx(given["loss"], abs=5e-5)
        assert float(shown[5].strip("%")) / 100 == pytest.approx(given["val_accuracy"], abs=5e-4)
        assert float(shown[6]) == pytest.approx(given["learning_rate"], rel=0.05)
    counts = [[int(cell) for cell in row[1:4]] for row in table(browser, "counts")]
    assert counts == [
        [split[index] for split in report_data.counts.values()]
        for index in range(len(report_data.class_names))
    ]
    states = [row[3] for row in table(browser, "plan-table") if len(row) > 1]
    assert states == ["trains" if row["trainable"] else "frozen" for row in report_data.plan]
    score = browser.execute_script("return document.querySelector('#score').firstChild.data.trim()")
    assert score == f"{test['accuracy']:.1%}"


def test_hostile_class_name_is_text(browser, address):
    open_page(browser, address)
    assert HOSTILE in [row[0] for row in table(browser, "per-class")]
    assert browser.execute_script("return document.scripts.length") == 0


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_page_never_scrolls_sideways(browser, address, width):
    open_page(browser, address, width=width)
    widths = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    )
    assert max(widths) == width


def test_large_matrix_scrolls_inside_its_frame_on_a_phone(browser, tmp_path):
    path = tmp_path / "many.html"
    write_report(path, make_report([f"class number {i}" for i in range(30)], count=300))
    open_page(browser, path.as_uri(), width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    inner, outer = browser.execute_script(
        "const m = document.querySelector('#confusion'), f = m.parentElement;"
        "return [f.scrollWidth, f.clientWidth]"
    )
    assert inner > outer
    open_page(browser, path.as_uri(), width=1200)
    assert browser.execute_script(
        "const f = document.querySelector('#confusion').parentElement;"
        "return f.scrollWidth <= f.clientWidth"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_asks_for(browser, address, scheme):
    open_page(browser, address, scheme=scheme)
    ratio, text = browser.execute_script(LOWEST_CONTRAST)
    assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.2f} in the {scheme} theme"


def test_plots_change_colour_with_the_theme(browser, address):
    colours = []
    for scheme in ("light", "dark"):
        open_page(browser, address, scheme=scheme)
        colours.append(
            browser.execute_script(
                "return getComputedStyle(document.querySelector('svg text')).fill"
            )
        )
    assert colours[0] != colours[1]


def test_tables_have_headers_and_the_page_an_outline(browser, address):
    open_page(browser, address)
    headless = browser.execute_script(
        "return [...document.querySelectorAll('table')]"
        ".filter(t => !t.querySelector('thead th[scope=col]') || !t.querySelector('th[scope=row]'))"
        ".map(t => t.id)"
    )
    assert headless == []
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(b - a for a, b in pairwise(levels)) == 1

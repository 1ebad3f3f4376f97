"""The page in a browser: its numbers are those of `evaluate`, at any threshold, without a mouse."""

import base64
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fracture_utils.config import Config
from fracture_utils.evaluation import (
    calibration,
    cases,
    comparison,
    gallery,
    localisation,
    page,
    predictions,
    report,
    rescoring,
    verdict,
)

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-dev-shm-usage"),
)


BOX = ["path", "xmin", "ymin", "xmax", "ymax"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results of three models of different worth, and its predictions."""
    folder = tmp_path_factory.mktemp("page")
    generator, rows = np.random.default_rng(1), []
    for split in ("validation", "test"):
        label = np.arange(90) % 3 == 0
        for model, worth in (("A", 2.0), ("B", 1.2), ("C & <b>", 0.3)):
            logit = worth * label + generator.normal(size=90) - 0.8
            table = {"path": [f"{split}{k}.png" for k in range(90)], "label": label.astype(int)}
            rows.append(pd.DataFrame(table | {"split": split, "model": model, "logit": logit}))
    table = pd.concat(rows)
    table["probability"] = 1 / (1 + np.exp(-table["logit"]))
    table.to_csv(folder / "mine.csv", index=False)
    config = Config(source="pictures", results_dir=folder / "out", resamples=100)
    rescoring.evaluate(folder / "mine.csv", config)
    seen = calibration.apply(raw := predictions.read(folder / "mine.csv"), calibration.fit(raw))
    seen["body_part"] = np.where(seen["path"].str.contains("[02468].png"), "hand", "leg <b>")
    surest = gallery.surest(seen, ["A", "B"])
    surest.to_csv(folder / "out" / "gallery.csv", index=False)
    pictures = [np.full((30, 20), 9 * k, np.uint8) for k in range(len(surest))]
    heat = np.outer(np.arange(8), np.arange(8)).astype(np.float32)
    boxes = pd.DataFrame([(surest["path"][0], 2, 3, 9, 12)], columns=BOX)
    cases.keep(folder / "out" / "figures", surest, pictures, [heat] * len(surest), boxes)
    report.write(folder / "out", predictions=seen)
    return folder / "out"


@pytest.fixture(scope="module")
def browser(results):
    """Headless Chromium showing the page; skipped where it or its driver is not installed."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("chromium and chromium-driver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for switch in (*SWITCHES, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            driver.get((results / "report.html").as_uri())
            yield driver
        finally:
            driver.quit()


def matrix(browser):
    return [int(browser.find_element("id", name).text) for name in ("tp", "fn", "fp", "tn")]


def scored(results, model):
    """The four counts that `evaluate` wrote into scores.csv."""
    row = pd.read_csv(results / "scores.csv").set_index("model").loc[model]
    found, negatives = row["sensitivity"] * row["positives"], row["n"] - row["positives"]
    cleared = row["specificity"] * negatives
    return [round(x) for x in (found, row["positives"] - found, negatives - cleared, cleared)]


def choose(browser, model):
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", "model")).select_by_visible_text(model)


def test_every_model_starts_at_the_numbers_that_evaluate_gives(browser, results):
    for model in ("B", "C & <b>", "A"):
        choose(browser, model)
        assert matrix(browser) == scored(results, model)
    row = pd.read_csv(results / "scores.csv").set_index("model").loc["A"]
    said = browser.find_element("id", "values").text
    for metric in ("sensitivity", "specificity", "ppv", "npv"):
        assert f"{100 * row[metric]:.1f} %" in said


def test_the_keyboard_moves_threshold_matrix_and_icons(browser, results):
    from selenium.webdriver.common.keys import Keys

    choose(browser, "A")
    slider = browser.find_element("id", "threshold")
    slider.send_keys(Keys.END)
    assert matrix(browser) == [0, 30, 0, 60]
    assert len(browser.find_elements("css selector", "#missed i.on")) == 100
    slider.send_keys(Keys.HOME)
    assert matrix(browser) == [30, 0, 60, 0]
    slider.send_keys(Keys.ARROW_RIGHT * 60)
    threshold = float(slider.get_attribute("value"))
    assert threshold == pytest.approx(0.3)
    data = json.loads(browser.execute_script("return document.getElementById('data').textContent"))
    called = np.array(data["models"][0]["probabilities"]) >= threshold
    label = np.array(data["labels"]) == 1
    expected = [called & label, ~called & label, called & ~label, ~called & ~label]
    assert matrix(browser) == [int(cells.sum()) for cells in expected]
    browser.find_element("id", "preset-chosen").send_keys(Keys.ENTER)
    assert matrix(browser) == scored(results, "A")
    browser.find_element("id", "preset-sensitive").send_keys(Keys.SPACE)
    assert matrix(browser)[:2] == [29, 1]


def test_a_prevalence_changes_the_predictive_values_by_bayes_rule(browser):
    browser.find_element("id", "preset-chosen").click()
    tp, fn, fp, tn = matrix(browser)
    field = browser.find_element("id", "prevalence")
    field.clear()
    field.send_keys("2")
    found, alarms = tp / (tp + fn), fp / (fp + tn)
    ppv = found * 0.02 / (found * 0.02 + alarms * 0.98)
    assert f"{100 * ppv:.1f} % (PPV)" in browser.find_element("id", "values").text


def test_headings_sort(browser):
    heads = browser.find_elements("css selector", ".sortable thead button")
    for direction in ("descending", "ascending"):
        heads[3].click()
        cells = browser.find_elements("css selector", ".sortable tbody td:nth-child(4)")
        values = [float(cell.get_attribute("data-value")) for cell in cells]
        assert values == sorted(values, reverse=direction == "descending")
        head = browser.find_element("css selector", ".sortable th:nth-child(4)")
        assert head.get_attribute("aria-sort") == direction


def test_the_cards_of_errors_are_filtered_and_all_there_without_javascript(browser, results):
    from selenium.webdriver.support.select import Select

    surest = pd.read_csv(results / "gallery.csv").drop_duplicates("path")
    html = (results / "report.html").read_text(encoding="utf-8")
    assert html.count("<li data-outcome=") == len(surest)
    outcome = Select(browser.find_element("id", "filter-outcome"))
    part = Select(browser.find_element("id", "filter-part"))
    for chosen, body in (("missed", ""), ("false alarm", "hand"), ("", "leg <b>"), ("", "")):
        outcome.select_by_value(chosen)
        part.select_by_visible_text(body or "every body part")
        cards = browser.find_elements("css selector", ".cases li")
        shown = [card for card in cards if card.is_displayed()]
        wanted = surest[
            surest["outcome"].str.fullmatch(chosen or ".*")
            & (surest["body_part"].eq(body) if body else True)
        ]
        assert len(shown) == len(wanted)
        said = browser.find_element("id", "filter-count").text
        assert said == f"{len(wanted)} of {len(surest)}"


def test_a_card_says_what_every_model_asked_says_of_the_picture(results):
    surest = pd.read_csv(results / "gallery.csv")
    seen = predictions.read(results.parent / "mine.csv")
    points = calibration.fit(seen)
    seen = calibration.apply(seen, points)
    made = cases.cards(surest, seen, points)
    assert next(card["path"] for card in made if card["wrong"]) == surest["path"][0]
    outcomes = [card["outcome"] for card in made]
    assert outcomes == sorted(outcomes, key=list(gallery.OUTCOMES).index)
    table = seen.set_index(["path", "model"])
    for card in made:
        assert [answer["model"] for answer in card["answers"]] == ["A", "B"]
        for answer in card["answers"]:
            row = table.loc[(card["path"], answer["model"])]
            assert answer["probability"] == row["probability"]
            assert gallery.OUTCOMES[answer["outcome"]] == (row["label"], row["decision"])


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"settings": {"source": "phantoms"}}, "synthetic phantoms"),
        (
            {
                "settings": {"source": "pictures", "data_dir": "x/fracatlas"},
                "attribution": "A. Author, FracAtlas: a set",
                "data": {"pictures": 3658},
            },
            "FracAtlas, 3,658 radiographs",
        ),
        ({"settings": {"source": "pictures", "data_dir": "my hospital"}}, "my hospital"),
        ({}, "predictions"),
    ],
)
def test_the_ribbon_names_the_data_set(tmp_path, run, words):
    (tmp_path / "run.json").write_text(json.dumps(run))
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert f'">{words}</p>' in text


def test_every_table_is_linked_with_what_its_columns_mean(results):
    html = (results / "report.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="#([^"]+)"', html))
    assert {"columns-scores", "columns-comparisons"} <= links
    assert links <= set(re.findall(r'id="([^"]+)"', html))
    readme = (results / "README.md").read_text(encoding="utf-8")
    for name in ("scores", "gallery", "decision_curve"):
        assert f"[its columns](#{name}csv)" in readme
        assert f"### {name}.csv\n" in readme


def test_nothing_is_loaded_nothing_fails_and_no_width_scrolls_sideways(browser):
    for width in (360, 768, 1440):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(r=>r.name)"
    )
    assert not [name for name in loaded if not name.startswith("data:")]
    assert browser.get_log("browser") == []


def dark(browser, wish):
    features = [{"name": "prefers-color-scheme", "value": "dark"}] if wish else []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def colours(browser, selector, name):
    script = (
        "return [...document.querySelectorAll(arguments[0])].map("
        "(part) => getComputedStyle(part)[arguments[1]])"
    )
    return browser.execute_script(script, selector, name)


def test_page_and_drawings_are_dark_where_that_is_wished(browser):
    dark(browser, True)
    assert colours(browser, "body", "backgroundColor") == ["rgb(20, 23, 27)"]
    words = colours(browser, ".drawing text", "fill")
    lines = colours(browser, "#figure-roc .drawing path", "stroke")
    dark(browser, False)
    assert colours(browser, "body", "backgroundColor") == ["rgb(255, 255, 255)"]
    assert len(words) > 100

    def light(colour):
        red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
        return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255

    assert min(map(light, words)) > 0.5
    assert min(light(colour) for colour in lines if colour != "none") > 0.25
    assert max(map(light, set(colours(browser, "#figure-roc .drawing text", "fill")))) < 0.5


def test_names_within_the_page_are_given_once_and_every_link_within_it_has_an_end(results):
    html = (results / "report.html").read_text(encoding="utf-8")
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(names)
    assert html.count("<svg viewBox") + html.count('class="drawing"') > 8
    assert 'src="data:image/png' not in html  # all that has no X-ray in it is drawn


def test_heat_maps_lie_over_their_pictures_as_strong_as_one_wants(browser, results):
    from selenium.webdriver.common.keys import Keys

    surest = pd.read_csv(results / "gallery.csv").drop_duplicates("path")
    layers = browser.find_elements("css selector", ".cases .layers")
    assert len(layers) == len(surest)
    pictures = [layer.find_elements("css selector", "img") for layer in layers]
    assert sorted(map(len, pictures)) == [2] * (len(layers) - 1) + [3]  # one has a box
    script = "return arguments[0].complete && arguments[0].naturalWidth > 0"
    assert all(browser.execute_script(script, img) for card in pictures for img in card)
    assert pictures[0][0].rect == pictures[0][1].rect
    slider = browser.find_element("id", "opacity")
    for key, wanted in ((Keys.HOME, 0), (Keys.END, 1), (Keys.ARROW_LEFT, 0.95)):
        slider.send_keys(key)
        seen = {img[1].value_of_css_property("opacity") for img in pictures}
        assert [float(value) for value in seen] == [wanted]
        assert {img[0].value_of_css_property("opacity") for img in pictures} == {"1"}
    said = browser.find_element("css selector", "#cases .caution").text
    assert said == localisation.warning(pd.DataFrame(columns=["model"]), "A")


def test_where_no_pictures_are_kept_the_cards_are_words(results, tmp_path):
    for path in results.glob("*.*"):
        shutil.copy(path, tmp_path)
    raw = predictions.read(results.parent / "mine.csv")
    seen = calibration.apply(raw, calibration.fit(raw))
    html = report.write(tmp_path, predictions=seen).read_text(encoding="utf-8")
    assert html.count("<li data-outcome=") > 3
    assert not re.search(r'<img|id="opacity"|class="caution"', html)


def test_another_gallery_leaves_no_picture_of_the_earlier_one(tmp_path):
    one = np.zeros((4, 4), np.uint8)
    boxes = pd.DataFrame(columns=BOX)
    for names in (["a.png", "b.png", "a.png"], ["c.png"]):
        table = pd.DataFrame({"path": names})
        cases.keep(tmp_path, table, [one] * len(table), [one] * len(table), boxes)
        assert len(list((tmp_path / cases.FOLDER).iterdir())) == 2 * len(set(names))


@pytest.mark.parametrize("folder", ["results", "results/fracatlas"])
def test_a_run_prints_on_four_pages(browser, results, tmp_path, folder):
    shutil.copytree(ROOT / folder, tmp_path, dirs_exist_ok=True)
    try:
        browser.get(report.write(tmp_path).as_uri())
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
        printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", size)["data"])
    finally:
        browser.get((results / "report.html").as_uri())
    assert len(re.findall(rb"/Type */Page\b", printed)) <= 4


def test_without_javascript_the_chosen_numbers_stand_there(results):
    text = (results / "report.html").read_text(encoding="utf-8")
    tp, fn, fp, tn = scored(results, "A")
    cells = f'<td id="tp">{tp}</td><td id="fn">{fn}</td>'
    assert cells in text
    assert f'<td id="fp">{fp}</td><td id="tn">{tn}</td>' in text
    assert (results / "report.html").stat().st_size < 2_000_000


def pair(p):
    known = {"model_a": ["A"], "model_b": ["B"], "difference": [0.1], "p_delong_holm": [p]}
    return pd.DataFrame(known).reindex(columns=comparison.COLUMNS)


def table(**columns):
    row = {
        **{
            "model": ["A", "B"],
            "kind": "network",
            "n": 100,
            "positives": 40,
            "auc": [0.9, 0.8],
            "auc_low": 0.7,
        },
        **{"auc_high": 0.95, "sensitivity": 0.75, "sensitivity_low": 0.6, "sensitivity_high": 0.8},
        **{"specificity": 0.9, "specificity_low": 0.8, "specificity_high": 0.95},
        **{"expected_calibration_error": 0.03, "calibration_p": 0.4, "observed_expected": 0.97},
    }
    return pd.DataFrame(row | columns)


@pytest.mark.parametrize(
    ("scores", "p", "colours", "words"),
    [
        (table(), 0.01, ["green", "green", "grey"], "A, ahead of the other network, misses"),
        (table(), 0.20, ["amber", "green", "grey"], "2 networks, not to be told apart; A"),
        (table(auc_low=0.4), 0.2, ["red", "green", "grey"], "misses 10 of 40 fractured"),
        (table(calibration_p=0.01), 0.2, ["amber", "amber", "grey"], "2 networks"),
        (table(calibration_p=0.01, observed_expected=3.0), 0.2, ["amber", "red", "grey"], "2 net"),
        (table(calibration_p=np.nan), 0.2, ["amber", "amber", "grey"], "2 networks"),
        (table()[:1], 0.2, ["grey", "green", "grey"], "A, the only network, misses 10 of 40"),
    ],
)
def test_headline_and_lights_follow_the_tables(scores, p, colours, words):
    said = verdict.of(scores, pair(p)[: len(scores) - 1], pd.DataFrame(columns=["model"]))
    assert [light.colour for light in said.lights] == colours
    assert words in said.headline
    assert said.missed == pytest.approx((25, 20, 40))
    assert said.alarms == pytest.approx((10, 5, 20))


def test_a_chosen_network_that_the_test_puts_behind_another_is_called_so():
    said = verdict.of(table(), pair(0.01), pd.DataFrame(columns=["model"]), model="B")
    assert said.headline.startswith("B, chosen on validation but behind 1 of 1 others on the test")
    assert said.lights[0].colour == "red"


def test_the_leaderboard_knows_ties_references_and_random_starts():
    scores = table(
        model=["A", "Majority class"],
        initialisation=["random", "none"],
        kind=["network", "reference"],
    )
    board = page.leaderboard(scores, pair(0.2)[:0], pd.DataFrame(), "A")
    assert [(row["standing"], row["random"]) for row in board["rows"]] == [
        ("chosen", True),
        ("reference", False),
    ]
    assert board["rows"][0]["cells"][0]["text"] == "0.900"
    assert len(board["head"]) == len(board["rows"][0]["cells"]) + 2

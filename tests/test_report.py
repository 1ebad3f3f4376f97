"""The page: complete, escaped, loads nothing; in a browser its numbers are those of the tables."""

import base64
import dataclasses
import json
import re
import shutil
import tempfile
from html import unescape
from html.parser import HTMLParser

import evaluated
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fracture_utils import plots, report
from fracture_utils.config import Config
from fracture_utils.evaluation import sentences
from fracture_utils.evaluation.results import Results, evaluate, evaluate_file
from fracture_utils.plots import style

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-dev-shm-usage"),
)
HOSTILE = "<script>alert('x')</script>&\"><img src=http://evil/x>"
MODELS = {"A": 2.0, "B": 1.2, "C & <b>": 0.3}
VOID = {"meta", "img", "input", "line", "circle", "path", "br", "option"}


class Page(HTMLParser):
    """Tags, attributes and section titles of a page; `open` is empty if every tag was closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.titles, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


@pytest.fixture(scope="module", autouse=True)
def coarse():
    before, style.DPI = style.DPI, 50
    yield
    style.DPI = before
    style.save_to(None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Results of three models, with the images of their errors."""
    folder = tmp_path_factory.mktemp("report")
    results = evaluated.results(folder, MODELS, audit=evaluated.audit(("amber", "inverted")))
    for k, path in enumerate(results.most_confident_errors["path"]):
        (results.images_dir / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((80, 60), 9 * k, np.uint8)).save(results.images_dir / path)
    return results


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The folder of a whole run, page included."""
    target = tmp_path_factory.mktemp("run")
    style.save_to(target / "figures")
    plots.draw_all(run)
    plots.most_confident_errors(run)
    run.save(target)
    assert report.write(run, target) == target / "report.html"
    return target


def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_has_its_sections_in_order(folder):
    page = Page(html(folder))
    assert not page.open
    assert page.titles == [
        *("Result", "Threshold", "Leaderboard", "Errors", "Data audit"),
        *("Figures", "Details", "Glossary"),
    ]
    names = [known["id"] for known in page.attributes if "id" in known]
    assert len(names) == len(set(names))
    links = {known["href"] for known in page.attributes if "href" in known}
    assert {link[1:] for link in links if link.startswith("#")} <= set(names)
    assert all((folder / link).is_file() for link in links if not link.startswith("#"))


def test_the_page_states_every_conclusion_and_every_figure(run, folder):
    text = html(folder)
    for line in run.conclusions:
        assert line in text.replace("&lt;", "<").replace("&amp;", "&").replace("&gt;", ">").replace(
            "&#39;", "'"
        )
    for name, chart in style.output.drawn.items():
        assert (f'id="figure-{name}"' in text) == (name != "most_confident_errors")
        assert chart.caption in (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_every_value_is_escaped(run, tmp_path, monkeypatch):
    def soiled(table):
        columns = table.select_dtypes(exclude=["number", "bool"]).columns
        kept = {"label", "split", "kind", "decision", "outcome", "stage", "status", "data",
                "severity", "rule", "initialization", "assessment", "column"}  # fmt: skip
        return table.assign(**{c: HOSTILE + table[c] for c in columns if c not in kept})

    record = run.run | {"attribution": HOSTILE, "failed": {HOSTILE: HOSTILE}, HOSTILE: HOSTILE}
    record |= {"positive": HOSTILE, "provenance": {HOSTILE: "x"}}
    record["settings"] = {"data_dir": HOSTILE, HOSTILE: HOSTILE}
    names = [
        *("predictions", "operating_points", "scores", "comparisons", "subgroups", "audit"),
        *("clinical_utility", "decision_curve", "localization", "most_confident_errors"),
    ]
    tables = {name: soiled(getattr(run, name)) for name in names}
    results = dataclasses.replace(
        run, run=record, selected=HOSTILE + run.selected, images_dir=None, **tables
    )
    style.save_to(tmp_path / "figures")
    plots.ranking(results)
    monkeypatch.setattr(plots, "draw_all", lambda _: None)  # such names leave no room for axes
    report.write(results, tmp_path)
    page = Page(html(tmp_path))
    assert page.tags.count("script") == 2 and not page.open
    for tag, attributes in zip(page.tags, page.attributes, strict=True):
        assert not [name for name in attributes if name.startswith("on") and name != "onsubmit"]
        if tag == "img":
            assert attributes["src"].startswith("data:image/") and attributes["alt"]
        else:
            assert "src" not in attributes
            assert re.fullmatch(r"#\w+|\w+\.csv", attributes.get("href", "#top"))
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "<script" not in readme and "<img" not in readme and "evil" in readme


def test_a_readme_of_other_origin_is_kept(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    style.save_to(tmp_path / "figures")
    plots.ranking(run)
    (tmp_path / "README.md").write_text(f"{report.GENERATED}\nold\n")
    report.write(run, tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "DenseNet121" not in text and "**A, selected on the validation set" in text
    assert "![Dot plot: test AUC" in text and "(figures/ranking.png)" in text
    for name in ("scores", "most_confident_errors", "decision_curve"):
        assert f"### [{name}.csv]({name}.csv)" in text
    (tmp_path / "README.md").write_text("Mine.\n")
    report.write(run, tmp_path)
    assert (tmp_path / "README.md").read_text() == "Mine.\n"


def test_predictions_alone_and_saved_results_make_a_page(folder, tmp_path):
    loaded = Results.load(folder)
    report.write(loaded, tmp_path / "loaded")
    text = html(tmp_path / "loaded")
    assert 'id="figure-history"' in text and "radiograph, false" in text
    raw = evaluated.predictions({"A": 1.0}, count=6, share=0, splits=("test",))
    config = Config(source="images", results_dir=tmp_path, quick=True)
    for table in (raw, raw.assign(label="fractured"), evaluated.predictions(splits=("test",))):
        page = report.write(evaluate(table, config), tmp_path / "other")
        assert not Page(page.read_text(encoding="utf-8")).open
    raw.to_csv(tmp_path / "p.csv", index=False)
    results = evaluate_file(tmp_path / "p.csv", config)
    text = report.write(results, tmp_path / "out").read_text(encoding="utf-8")
    assert "Every test image (6) is normal" in text
    assert (tmp_path / "out" / "figures" / "ranking.png").is_file()


@pytest.mark.parametrize(
    ("record", "ribbon"),
    [
        ({"source": "phantoms"}, "synthetic phantoms"),
        ({"source": "predictions"}, "predictions"),
        ({"settings": {"data_dir": "x/fracatlas"}}, "fracatlas"),
    ],
)
def test_the_ribbon_names_the_data(run, folder, record, ribbon):
    results = dataclasses.replace(run, run=run.run | record)
    style.save_to(folder / "figures")
    plots.ranking(results)
    text = report.write(results, folder).read_text(encoding="utf-8")
    assert f'">{ribbon}</p>' in text
    assert ("synthetic phantoms; nothing" in text) == (ribbon == "synthetic phantoms")
    style.save_to(folder / "figures")
    plots.draw_all(run)
    plots.most_confident_errors(run)
    report.write(run, folder)


def table(folder, caption):
    """The rows of the table with this caption or label, as texts."""
    part = html(folder).split(f'aria-label="{caption}"')[1].split("</table>")[0]
    rows = re.findall(r"<tr.*?</tr>", part, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[unescape(re.sub(r"<[^>]+>", " ", cell)).strip() for cell in row] for row in cells]


def test_the_record_is_readable_and_names_changed_settings_only(folder):
    rows = dict(table(folder, "Versions, hardware and settings")[1:])
    assert rows["initialization"] == "A: imagenet, B: imagenet, C & <b>: imagenet"
    assert "quick: True" in rows["settings"] and "rotation" not in rows["settings"]
    assert "{" not in "".join(rows.values()) and "None" not in "".join(rows.values())


def test_findings_of_the_audit_are_a_table_with_counts_and_an_example(run, folder, tmp_path):
    head, (severity, check, count, _, advice) = table(folder, "Data audit")
    assert head[:4] == ["severity", "check", "count", "example"]
    assert [severity, check, count, advice] == ["amber", "inverted", "1", "an advice"]
    audit = evaluated.audit(("red", "copy"), ("amber", "copy"), ("amber", "copy"))
    audit.loc[1, ["path", "finding"]] = "a.png", "the first"
    report.write(dataclasses.replace(run, audit=audit), tmp_path)
    _, red, amber = table(tmp_path, "Data audit")
    assert red[:3] == ["red", "copy", "1"] and amber[:3] == ["amber", "copy", "2"]
    assert amber[3].split() == ["the", "first", "a.png"]
    report.write(dataclasses.replace(run, audit=audit.head(0)), tmp_path)
    assert "Data audit" not in html(tmp_path)
    style.save_to(folder / "figures")
    plots.draw_all(run)
    plots.most_confident_errors(run)


@pytest.fixture(scope="module")
def browser(folder):
    """Headless Chromium with the page; skipped where it or its driver is not installed."""
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
            driver.get((folder / "report.html").as_uri())
            yield driver
        finally:
            driver.quit()


def matrix(browser):
    return [int(browser.find_element("id", name).text) for name in ("tp", "fn", "fp", "tn")]


def counts(run, model):
    """The four counts that follow from the table scores."""
    row = run.scores.set_index("model").loc[model]
    tp, negatives = row["sensitivity"] * row["positives"], row["n"] - row["positives"]
    tn = row["specificity"] * negatives
    return [round(x) for x in (tp, row["positives"] - tp, negatives - tn, tn)]


def choose(browser, name, value):
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", name)).select_by_visible_text(value)


def test_every_model_starts_at_the_numbers_of_the_table(browser, run):
    for model in ("B", "C & <b>", "Ensemble", "A"):
        choose(browser, "model", model)
        assert matrix(browser) == counts(run, model)
    values = run.scores.merge(run.clinical_utility, on="model").set_index("model").loc["A"]
    text = browser.find_element("id", "values").text
    for metric in ("sensitivity", "specificity", "ppv", "npv"):
        assert f"{100 * values[metric]:.1f} %" in text


def test_the_keyboard_moves_threshold_matrix_and_icons(browser, run):
    from selenium.webdriver.common.keys import Keys

    choose(browser, "model", "A")
    slider = browser.find_element("id", "slider")
    slider.send_keys(Keys.END)
    assert matrix(browser) == [0, 30, 0, 60]
    assert len(browser.find_elements("css selector", "#fn-icons i.on")) == 100
    slider.send_keys(Keys.HOME)
    assert matrix(browser) == [30, 0, 60, 0]
    slider.send_keys(Keys.ARROW_RIGHT * 60)
    threshold = float(slider.get_attribute("value"))
    assert threshold == pytest.approx(0.3)
    data = json.loads(browser.execute_script("return document.getElementById('data').textContent"))
    positive = np.array(data["models"][0]["probabilities"]) >= threshold
    label = np.array(data["labels"]) == 1
    cells = [positive & label, ~positive & label, positive & ~label, ~positive & ~label]
    assert matrix(browser) == [int(cell.sum()) for cell in cells]
    browser.find_element("id", "reported").send_keys(Keys.ENTER)
    assert matrix(browser) == counts(run, "A")
    browser.find_element("id", "sensitive").send_keys(Keys.SPACE)
    assert matrix(browser)[:2] == [29, 1]


@pytest.mark.parametrize(("text", "prevalence"), [("2", 0.02), ("-5", 0), ("250", 1), ("100", 1)])
def test_predictive_values_follow_the_prevalence_from_0_to_100(browser, text, prevalence):
    browser.find_element("id", "reported").click()
    tp, fn, fp, tn = matrix(browser)
    field = browser.find_element("id", "prevalence")
    field.clear()
    field.send_keys(text)
    true, false = tp / (tp + fn) * prevalence, fp / (fp + tn) * (1 - prevalence)
    shown = browser.find_element("id", "values").text
    assert (
        f"prevalence of {100 * prevalence:.1f} %: PPV {100 * true / (true + false):.1f} %" in shown
    )


def test_headings_sort_the_leaderboard(browser):
    heads = browser.find_elements("css selector", ".sortable thead button")
    for direction in ("descending", "ascending"):
        heads[3].click()
        cells = browser.find_elements("css selector", ".sortable tbody td:nth-child(4)")
        values = [float(cell.get_attribute("data-value")) for cell in cells]
        assert values == sorted(values, reverse=direction == "descending")
        head = browser.find_element("css selector", ".sortable th:nth-child(4)")
        assert head.get_attribute("aria-sort") == direction
    heads[-1].click()  # p: empty for the selected model and for references, which stay last
    cells = browser.find_elements("css selector", ".sortable tbody td:last-child")
    assert [bool(cell.get_attribute("data-value")) for cell in cells] == [True] * 3 + [False] * 2


def test_the_leaderboard_marks_the_selected_model_and_those_not_worse(browser, run):
    tied = {"A"}
    for row in run.comparisons.itertuples():
        if "A" in (row.model_a, row.model_b) and row.p_delong_holm >= 0.05:
            tied |= {row.model_a, row.model_b}
    rows = browser.find_elements("css selector", ".sortable tbody tr.tied th")
    assert {row.get_attribute("data-value") for row in rows} == tied
    (selected,) = browser.find_elements("css selector", ".sortable tbody tr.selected th")
    assert selected.text == "A"


def test_error_cards_are_filtered_and_show_image_heat_map_and_box(browser, run):
    from selenium.webdriver.common.keys import Keys

    errors = run.most_confident_errors
    cards = browser.find_elements("css selector", ".cards li")
    for outcome in ("false negative", "false positive", "all errors"):
        choose(browser, "outcome", outcome)
        wanted = errors["outcome"].eq(outcome) | (outcome == "all errors")
        assert sum(card.is_displayed() for card in cards) == wanted.sum()
        assert browser.find_element("id", "shown").text == f"{wanted.sum()} of {len(errors)}"
    images = [card.find_elements("css selector", "img") for card in cards]
    assert all(len(pair) == 2 for pair in images)
    assert all(pair[0].rect == pair[-1].rect for pair in images)
    script = "return arguments[0].complete && arguments[0].naturalWidth > 0"
    assert all(browser.execute_script(script, img) for pair in images for img in pair)
    boxed = errors["path"].isin(run.boxes["path"]).sum()
    assert len(browser.find_elements("css selector", ".layers i")) == boxed > 0
    slider = browser.find_element("id", "opacity")
    for key, wanted in ((Keys.HOME, 0), (Keys.END, 1), (Keys.ARROW_LEFT, 0.95)):
        slider.send_keys(key)
        shown = {pair[1].value_of_css_property("opacity") for pair in images if pair[1:]}
        assert [float(value) for value in shown] == [wanted]
    caution = sentences.heat_map_caution(run.localization, run.selected)
    assert caution in browser.find_element("id", "errors").text


def test_a_click_enlarges_a_card_and_another_closes_it(browser):
    card, large = (browser.find_element("css selector", of) for of in (".cards .layers", "#large"))
    size = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert not large.is_displayed()
    card.click()
    copy = large.find_element("css selector", ".layers")
    assert copy.rect["height"] > card.rect["height"]
    assert len(copy.find_elements("css selector", "img")) == 2
    copy.click()
    assert not large.is_displayed()
    card.send_keys("\n")
    assert large.is_displayed()
    browser.execute_script("arguments[0].close()", large)


def test_a_card_has_the_probability_and_threshold_of_the_selected_model(run):
    threshold = run.operating_points.set_index("model")["threshold"][run.selected]
    table = run.predictions.query("model == @run.selected").set_index("path")
    cards = report._cards(run)
    assert [card["path"] for card in cards] == list(run.most_confident_errors["path"])
    for card in cards:
        assert card["probability"] == table.loc[card["path"], "probability"]
        assert card["threshold"] == threshold


def test_nothing_is_loaded_nothing_fails_and_no_width_scrolls_sideways(browser):
    for width in (360, 768, 1440):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
        script = "return arguments[0].scrollWidth - arguments[0].clientWidth"
        for label in ("Leaderboard", "Data audit"):
            of = browser.find_element("css selector", f'[aria-label="{label}"]')
            assert width == 768 or browser.execute_script(script, of) == 0
        cells = browser.find_elements("css selector", "tr.selected td")
        assert (cells[0].rect["y"] < cells[2].rect["y"]) == (width < 480)  # stacked
    script = "return performance.getEntriesByType('resource').map(r => r.name)"
    assert not [name for name in browser.execute_script(script) if not name.startswith("data:")]
    assert browser.get_log("browser") == []


def test_the_page_is_dark_where_that_is_preferred_and_prints_on_few_pages(browser):
    def background(scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    assert background("dark") == "rgb(20, 23, 27)"
    assert background("light") == "rgb(255, 255, 255)"
    size = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
    browser.execute_script(
        "addEventListener('beforeprint', () => {"
        "window.opened = document.querySelectorAll('details[open]').length})"
    )
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", size)["data"])
    assert len(re.findall(rb"/Type */Page\b", printed)) <= 6
    folded = len(browser.find_elements("css selector", "details:not([open])"))
    assert browser.execute_script("return window.opened") == folded > 0


def test_every_table_is_linked_and_its_columns_are_in_the_readme(folder):
    text, readme = html(folder), (folder / "README.md").read_text(encoding="utf-8")
    for path in folder.glob("*.csv"):
        rows = pd.read_csv(path)
        if len(rows) and path.stem != "columns":
            assert f'href="{path.name}"' in text and f"[{path.name}]({path.name})" in readme
    assert "calibrated probability at or above which the decision is fractured" in readme

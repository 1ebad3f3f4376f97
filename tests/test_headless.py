"""The notebook as a page: it asks the internet for nothing, and says what its figures show."""

import re

import nbformat
from nbformat import v4
from pages import Page

from fracture_utils import headless


def story():
    figure = v4.new_output(
        "display_data",
        {"image/png": "iVBORw0KGgo=", "text/plain": "a caption"},
        metadata={"image/png": {"width": 800, "alt": "ROC 'curves' <b>\"0.9\""}},
    )
    cells = [v4.new_markdown_cell("# Title\n\nText."), v4.new_code_cell("1", outputs=[figure])]
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    return v4.new_notebook(cells=cells, metadata={"widgets": widgets})


def test_the_page_of_a_notebook_requests_nothing():
    for notebook in (story(), nbformat.read(headless._find(), as_version=4)):
        text = headless.shown(notebook)
        assert "<h1" in text
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:|//)""", tag), tag
        scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", text, re.S)
        assert not [script for script in scripts if "http" in script]
        styles = "".join(re.findall(r"<style\b[^>]*>(.*?)</style>", text, re.S))
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:|//)", styles)


def test_a_figure_keeps_its_alternative_text():
    page = Page(headless.shown(story()))
    shown = zip(page.tags, page.attributes, strict=True)
    assert [a["alt"] for tag, a in shown if tag == "img"] == ["ROC 'curves' <b>\"0.9\""]

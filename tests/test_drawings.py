"""An SVG file becomes a part of a page: harmless, small, and in the page's own colours."""

import re

import numpy as np
import pandas as pd
from pages import Page

from fracture_utils.evaluation import drawings, plots

HOSTILE = """<?xml version="1.0"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
 width="9pt" height="9pt" viewBox="0 0 9 9" onload="alert(1)">
<!-- a comment --><script>alert(2)</script><style>@import "http://evil/x.css";</style>
<defs><path id="p" d="M0 1.23456L2 3"/></defs><image xlink:href="http://evil/x.png"/>
<a xlink:href="javascript:alert(3)"><text>link</text></a>
<foreignObject><img src="http://evil/y"/></foreignObject>
<g id="unused" clip-path="url(http://evil/z)" style="fill: url(http://evil/w)">
<use xlink:href="#p" style="stroke: #0072B2; fill: #ffffff" onclick="alert(4)"/>
<use xlink:href="http://evil/v#p"/>
<text style="font-family: 'X', serif; fill: #FFFFFF">&lt;b&gt; white</text></g></svg>"""


def test_nothing_of_a_hostile_drawing_loads_or_runs(tmp_path):
    (tmp_path / "roc.svg").write_text(HOSTILE)
    text = drawings.inline(tmp_path / "roc.svg", 'says "that"')
    assert not re.search(r"evil|alert|script|import|comment|link|unused", text)
    page = Page(text)
    assert set(page.tags) == {"svg", "defs", "path", "g", "use", "text"}
    assert page.attributes[0] == {
        **{"viewbox": "0 0 9 9", "class": "drawing", "role": "img"},
        "aria-label": 'says "that"',
    }
    assert 'id="roc-p"' in text
    assert 'href="#roc-p"' in text
    assert "M0 1.23L2 3" in text
    assert "stroke: var(--x-0072b2,#0072b2); fill: var(--x-ffffff,#ffffff)" in text
    assert 'style="fill: #ffffff">&lt;b&gt; white' in text


def test_what_is_no_drawing_is_left_out(tmp_path):
    for text in ("", "<svg", "<p>words</p>", "\ud800"):
        (tmp_path / "x.svg").write_text(text, errors="surrogatepass")
        assert drawings.inline(tmp_path / "x.svg", "") == ""


def test_an_album_keeps_lines_as_a_drawing_and_pictures_as_pixels(tmp_path):
    album = plots.Album(tmp_path, "a note")
    findings = pd.DataFrame({"severity": ["red"], "check": ["<copies> & more"]})
    album.add(plots.audit, findings)
    album.add(plots.augmentation, np.zeros((8, 8), np.uint8), [np.zeros((8, 8), np.uint8)])
    assert {path.name for path in tmp_path.iterdir()} == {
        *("audit.png", "audit.svg", "augmentation.png")
    }
    text = drawings.inline(tmp_path / "audit.svg", album.captions["audit"])
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {"&lt;copies&gt; &amp; more", "a note"} <= set(words)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"#(audit-[\w.-]+)", text)) == set(ids)
    again = plots.Album(tmp_path / "again", "a note")
    again.add(plots.audit, findings)
    assert (tmp_path / "again/audit.svg").read_text() == (tmp_path / "audit.svg").read_text()

"""Pictures as files: what a hostile name can do to them, that equal nights are equal bytes, and that they open."""

import html
import io
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image

from api.pictures import lettering
from api.pictures.contents import LONGEST_MS
from api.pictures.lettering import clean
from api.pictures.night import (
    DoseMark,
    Format,
    HeartRate,
    Limit,
    NightPicture,
    draw_night,
)
from streaming.zones import HOUR_MS, MINUTE_MS
from tests.api.drawn import (
    START,
    SVG,
    WIDTH,
    alert,
    description,
    svg,
    texts,
    usual,
)

LINK = "{http://www.w3.org/1999/xlink}href"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


HOSTILE = [
    "<script>alert(1)</script>",
    "$\\frac{1}{0}$ $x^2",
    "&lt;b&gt; &amp; ]]> \" ' <!-- --",
    "\U0001f469\u200d\u2695\ufe0f Ärztin 陈伟",
    "\u202egnp.exe \u05d3\u05d5\u05d3",
    "⟦0⟧ ⟦1⟧ \\1 \\g<0>",
    "a\x00b\x0b\x1b[31m\ufffe\ud800c",
    "x" * 10_000,
    "e" + "\u0301" * 10_000,
    "\n\n\n",
    "",
]


@pytest.mark.parametrize("label", HOSTILE, ids=range(len(HOSTILE)))
def test_words_from_outside_stay_words(label: str) -> None:
    picture = usual(
        label=label,
        limits=[Limit(4.0, label)],
        alerts=[alert(opened=1, resolved=2, rule=label, severity=label, summary=label)],
        doses=[DoseMark(label, START + HOUR_MS, None, "missed")],
    )
    root = svg(picture)
    assert not list(root.iter(f"{SVG}script"))
    assert clean(label, 46) in texts(root)
    assert root.findtext(f"{SVG}title") == f"{clean(label, 200)}, 21–22 Nov 2026"
    assert all(len(words) < 130 for words in texts(root))
    assert len(draw_night(picture, "svg")) < 60_000


def test_paper_and_messages_take_hostile_words_too() -> None:
    label = " ".join(HOSTILE[:-4])
    picture = usual(label=label, doses=[DoseMark(label, START, None, "due")])
    assert draw_night(picture, "png")
    assert draw_night(picture, "pdf")


def test_names_that_fit_are_left_as_they_are() -> None:
    assert clean("Anna-Lena Müller", 46) == "Anna-Lena Müller"
    assert clean("陈" * 23, 46) == "陈" * 23
    assert clean("陈" * 24, 46) == "陈" * 22 + "…"
    assert clean("a" * 47, 46) == "a" * 45 + "…"


def full() -> NightPicture:
    return usual(
        limits=[Limit(3.1, "urgent"), Limit(4.0, "night")],
        alerts=[alert(opened=4, resolved=None, severity="urgent", summary="Glucose low")],
        doses=[DoseMark("Metformin 500 mg", START + HOUR_MS, None, "missed")],
        heart_rate=HeartRate(START + np.arange(60) * MINUTE_MS, np.full(60, 61.0)),
    )


@pytest.mark.parametrize("form", get_args(Format))
def test_the_same_night_is_the_same_bytes(form: Format) -> None:
    before = dict(mpl.rcParams)
    first = draw_night(full(), form)
    mpl.rcParams["font.size"] = 30  # what somebody else set is none of a picture's business
    with ThreadPoolExecutor(2) as threads:
        assert set(threads.map(lambda _: draw_night(full(), form), range(2))) == {first}
    mpl.rcParams["font.size"] = before["font.size"]
    assert dict(mpl.rcParams) == before


def test_an_svg_stands_alone_and_fits_into_a_page() -> None:
    written = draw_night(full(), "svg").decode()
    assert written.startswith("<svg ")
    assert set(re.findall(r"https?://[^\"<\s]+", written)) == {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert "<style" not in written
    root = svg(full())
    known = {one.attrib["id"] for one in root.iter() if "id" in one.attrib}
    assert {use.attrib[LINK].removeprefix("#") for use in root.iter(f"{SVG}use")} <= known
    assert root.get("role") == "img"
    assert "120 readings, lowest 4.0 at" in description(root)
    assert "Alert: nocturnal hypoglycaemia, urgent: since 02:00, still open. Glucose low." in description(root)
    assert "Dose: 23:00 Metformin 500 mg: missed." in description(root)


def test_a_png_opens_and_is_as_wide_as_a_phone() -> None:
    with Image.open(io.BytesIO(draw_night(full(), "png"))) as image:
        image.load()
        assert image.width == 1080
        assert 900 < image.height < 1600
        assert len(image.convert("L").getcolors(256) or ()) > 20
        assert image.info.get("Software") is None


def test_a_pdf_is_one_page_with_its_cross_references() -> None:
    written = draw_night(full(), "pdf")
    assert written.startswith(b"%PDF-1.")
    assert b"/Count 1" in written
    match = re.search(rb"startxref\n(\d+)\n%%EOF\s*$", written)
    assert match is not None
    assert written[int(match[1]) :].startswith(b"xref")
    assert b"CreationDate" not in written


@pytest.mark.parametrize(
    "wrong",
    [
        {"end_ms": START},
        {"end_ms": START + LONGEST_MS + 1},
        {"mmol": np.array([1.0])},
        {"mmol": np.full(120, np.inf)},
    ],
)
def test_a_picture_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"days|length|number"):
        replace(usual(), **wrong)


PAGE = """<!doctype html><meta charset="utf-8"><body style="margin:0;width:390px"><div id="inline">{inline}</div>
<img src="night.svg" style="width:100%"><img src="night.png" style="width:100%"><pre></pre><script>
onload = () => {{
  const svg = document.querySelector("svg"), frame = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll("text")].map(t => t.getBoundingClientRect());
  const bar = svg.querySelector("#alert-0-urgent path");
  document.querySelector("pre").textContent = JSON.stringify({{
    images: [...document.images].map(i => [i.complete, i.naturalWidth > 0]),
    points: svg.querySelectorAll("#glucose-points use").length,
    outside: boxes.filter(b => b.left < frame.left - 1 || b.right > frame.right + 1 || b.bottom > frame.bottom + 1).length,
    empty: boxes.filter(b => b.width === 0).length,
    bar: bar.getBoundingClientRect().width, hatch: getComputedStyle(bar).fill, hacked: !!window.hacked}});
}}</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no browser here")
def test_a_browser_shows_it(tmp_path: Path) -> None:
    picture = replace(full(), label="<script>hacked = 1</script><img src=x onerror='hacked = 1'>")
    (tmp_path / "night.svg").write_bytes(draw_night(picture, "svg"))
    (tmp_path / "night.png").write_bytes(draw_night(picture, "png"))
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(inline=draw_night(picture, "svg").decode()), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *options, page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    told = re.search(r"<pre>(.+?)</pre>", done.stdout)
    assert told is not None, done.stderr
    seen = json.loads(html.unescape(told[1]))
    assert seen["images"] == [[True, True], [True, True]]
    assert seen["points"] == 120
    assert (seen["outside"], seen["empty"], seen["hacked"]) == (0, 0, False)
    assert seen["bar"] == pytest.approx(6 / 10 * WIDTH * 4 / 3, rel=0.05)
    assert seen["hatch"].startswith('url("#')


def test_another_font_draws_what_the_first_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = (lettering.families, lettering._drawable)
    first, second = (get_font(findfont(FontProperties(family=[name]))) for name in (lettering.FONT, "STIXGeneral"))
    bold = get_font(findfont(FontProperties(family=["STIXGeneral"], weight="bold")))
    lacking = min((second.get_charmap().keys() & bold.get_charmap().keys()) - first.get_charmap().keys())
    without = draw_night(usual(label=f"A {chr(lacking)}"), "png")
    assert without == draw_night(usual(label="A \N{WHITE SQUARE}"), "png")
    with monkeypatch.context() as patch:
        patch.setattr(lettering, "_CHINESE", ("STIXGeneral",))
        for cache in caches:
            cache.cache_clear()
        assert draw_night(usual(label=f"A {chr(lacking)}"), "png") != without
        assert draw_night(usual(label=f"A {chr(lacking)}"), "pdf")
    for cache in caches:
        cache.cache_clear()

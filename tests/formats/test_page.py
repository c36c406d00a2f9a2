"""The HTML page in a browser: it opens offline, everybody can read it, its pictures and its script do what they say, and what a model said does nothing."""

import json
from pathlib import Path

import browsers
import pytest

from detcheck import runner
from detcheck.report import render

pytestmark = pytest.mark.browser
STORED = Path(__file__).parents[1] / "stored"
COMPARED = {"compare-later": ("completions-stock", "completions-baseline"), "compare-ops": ("order", "order-ours")}
OF_EACH_PROBE = [
    *("batch", "bisect", "certify-refuted", "completions-both", "completions-prompts", "completions-turns", "kernels"),
    *("logprobs", "matmul", "order", "score", "server", "judge-words", "compare-later"),
]
HOSTILE = [
    "</script><script>window.owned=1</script><img src=x onerror='window.owned=1'>",
    '--></style></title></textarea><svg onload="window.owned=1">',
    "\"'><a href='javascript:window.owned=1' autofocus onfocus='window.owned=1'>x</a>",
    "{{ 7*7 }} {% raw %} ${window.owned=1} `${1}`",
    "right \u202e to left \u2066 \u200f NUL \x00 esc \x1b[31m lone \ud800",
    "x" * 100_000,
    "a " * 50_000 + "\u0301" * 1000,
]


@pytest.fixture(scope="module")
def browser():
    with browsers.opened() as found:
        yield found


@pytest.fixture(scope="module")
def one_page(browser):
    """One page for all tests, and what it complained about."""
    context = browser.new_context(offline=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.troubles = []
    page.on("console", lambda message: page.troubles.append(message.text))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("dialog", lambda dialog: page.troubles.append(dialog.message))
    page.on("request", lambda request: page.troubles.extend([request.url] * request.url.startswith("http")))
    return page


@pytest.fixture
def page(one_page):
    one_page.troubles.clear()
    one_page.emulate_media(media="screen", color_scheme="light")
    one_page.set_viewport_size({"width": 1280, "height": 900})
    yield one_page
    assert one_page.troubles == []


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name -> address of the page of every stored run, and of what is said where none is loaded."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {path.parent.name: runner.load(path) for path in STORED.glob("*/run")}
    runs |= {f"judge-{path.stem}": runner.judge_file(path) for path in (STORED / "judge").glob("*.jsonl")}
    runs |= {name: runner.compare(*(STORED / one / "run" for one in pair)) for name, pair in COMPARED.items()}
    return {name: written(folder, name, run) for name, run in runs.items()}


def written(folder, name, run):
    file = folder / f"{name}.html"
    file.write_text(render(run, "html"), "utf-8")
    return file.as_uri()


def judged(tmp_path, rows, name="c.jsonl"):
    file = tmp_path / name
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return runner.judge_file(file)


def too_wide(page):
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_every_page_opens_offline_and_fits_a_phone(page, pages):
    for name, address in pages.items():
        page.goto(address)
        assert page.title() == page.locator("h1").inner_text() != "", name
        sentences = page.locator(".meaning").inner_text()
        assert sentences.endswith(".") and sentences.count(". ") == 1, (name, sentences)
        assert page.locator(".copy").is_visible()
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert not too_wide(page), (name, width)
    page.evaluate("document.body.append(Object.assign(document.createElement('pre'), {style: 'width: 2000px'}))")
    assert too_wide(page)


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    return {
        v["id"]: v["nodes"][0]["html"]
        for v in Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    }


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing(page, pages, scheme, width):
    """Contrast follows the scheme, and what has to be scrolled the width: one of each says all."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for name in OF_EACH_PROBE:
        page.goto(pages[name])
        assert violations(page) == {}, name
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert violations(page) == {}
    page.evaluate(
        "document.querySelector('main').innerHTML += '<p style=\"color: #888; background: #999\">hard to read</p><select></select>'"
    )
    assert {"color-contrast", "select-name"} <= violations(page).keys()


def test_dark_is_dark(page, pages):
    page.goto(pages["completions-stock"])
    brightness = "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)) })()"
    ink, paper = page.evaluate(brightness)
    assert ink < paper
    page.emulate_media(color_scheme="dark")
    ink, paper = page.evaluate(brightness)
    assert ink > paper


def test_the_matrix_says_which_condition_gave_which(page, pages):
    """Against what report.json has; and a letter stands over each colour."""
    page.goto(pages["completions-stock"])
    found = json.loads((STORED / "completions-stock" / "report.json").read_text())["findings"][0]["evidence"][
        "outcomes"
    ]
    table = page.locator(".matrix")
    names = table.locator("thead .key").all_inner_texts()
    assert names == [one["name"] for one in found["named"]]
    rows = {}
    for row in table.locator("tbody tr").all():
        cells = row.locator("td").all_inner_texts()
        rows[row.locator("th").inner_text()] = {n: int(c) for n, c in zip(names, cells, strict=True) if c}
    assert rows == found["conditions"]
    tints = table.locator("td.on").evaluate_all("cells => cells.map(cell => getComputedStyle(cell).backgroundColor)")
    groups = table.locator("td.on").evaluate_all("cells => cells.map(cell => cell.className.match(/o\\d/)[0])")
    assert len(set(tints)) == len(set(groups)) > 1


def test_ours_and_stock_stand_side_by_side_and_below_each_other_on_a_phone(page, pages):
    page.goto(pages["completions-both"])
    boxes = [one.bounding_box() for one in page.locator(".pair > section").all()]
    assert len(boxes) == 2 and boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    page.set_viewport_size({"width": 360, "height": 800})
    boxes = [one.bounding_box() for one in page.locator(".pair > section").all()]
    assert boxes[0]["x"] == boxes[1]["x"] and boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]


def test_all_can_be_reached_and_opened_by_keyboard(page, pages):
    page.goto(pages["completions-stock"])
    wanted = page.locator("summary:visible, button:visible, select:visible, a:visible").count()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(() => { const e = document.activeElement; e.dataset.n ??= Math.random(); return e.tagName + e.dataset.n })()"
            )
        )
    assert sum(name.startswith(("SUMMARY", "BUTTON", "SELECT", "A0")) for name in reached) >= wanted
    for one in page.locator("summary:visible").all():
        one.focus()
        before = one.evaluate("s => s.parentElement.open")
        page.keyboard.press("Enter")
        assert one.evaluate("s => s.parentElement.open") != before
        assert one.evaluate("s => getComputedStyle(s).outlineStyle") == "solid"  # where one is can be seen


def test_forks_open_and_close(page, pages):
    page.goto(pages["completions-stock"])
    inner, summary = page.locator(".forks details li").first, page.locator(".forks summary").first
    assert inner.is_visible()
    summary.click()
    assert not inner.is_visible()


def test_the_button_copies_exactly_the_command(page, tmp_path):
    run = judged(tmp_path, [{"tokens": [1, 2]}] * 2, name='it\'s  <b>&amp; "quoted".jsonl')
    page.goto(written(tmp_path, "copied", run))
    page.get_by_role("button", name="Copy the command").focus()
    page.keyboard.press("Enter")
    page.get_by_text("Copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == run.spec.command()


def test_any_two_outcomes_are_compared_at_their_fork(page, tmp_path):
    texts = ["we meet in Queens, New York, today", "we meet in New York City, today", "we meet <i>there</i>", "we part"]
    ids = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 6], [1, 2, 9], [1, 10]]
    rows = [{"tokens": i, "text": t} for n, (i, t) in enumerate(zip(ids, texts, strict=True)) for _ in range(9 - n)]
    page.goto(written(tmp_path, "diff", judged(tmp_path, rows)))
    diff = page.locator(".diff")
    sides = diff.locator(".two .words")
    before = (diff.locator(".before").inner_text(), *sides.all_inner_texts())
    assert before == ("we meet in", "Queens, New York, today", "New York City, today")
    assert diff.locator(".fork-mark").inner_text() == "Fork: A and B part at token 3"
    marks = diff.locator(".two > div").first.locator("mark").all_inner_texts()
    left, right = diff.locator("select").all()
    left.select_option("B")
    left.select_option("A")
    assert (
        diff.locator(".before").inner_text(),
        *sides.all_inner_texts(),
    ) == before  # the script says what the page said
    assert diff.locator(".two > div").first.locator("mark").all_inner_texts() == marks == ["Queens,", "York,"]
    left.select_option("C")
    right.select_option("D")
    assert diff.locator(".fork-mark").inner_text() == "Fork: C and D part at token 1"
    assert sides.all_inner_texts() == ["meet <i>there</i>", "part"] and diff.locator("i").count() == 0
    assert diff.locator("h4").all_inner_texts() == ["C · 7 samples", "D · 6 samples"]
    right.select_option("C")
    assert "itself" in diff.locator(".fork-mark").inner_text()


def test_texts_that_part_after_what_is_shown_do_not_end_there(page, tmp_path):
    """Another one parts at once, so that of these two only the common beginning is shown."""
    long = "we meet " * 5000
    texts, ids = [f"{long}today", f"{long}there", "they part", "they part"], [[1, 2, 3], [1, 2, 4], [5], [6]]
    rows = [{"tokens": i, "text": t} for n, (i, t) in enumerate(zip(ids, texts, strict=True)) for _ in range(9 - n)]
    page.goto(written(tmp_path, "cut", judged(tmp_path, rows)))
    diff = page.locator(".diff")
    mark, sides = diff.locator(".fork-mark"), diff.locator(".two .words")
    left, right = diff.locator("select").all()
    for _ in range(2):  # as the page says it, and as the script does
        assert mark.inner_text() == "Fork: A and B part at token 2. They part after what is shown here"
        assert sides.all_inner_texts() == ["", ""]
        left.select_option("B")
        left.select_option("A")
    left.select_option("C")
    right.select_option("D")
    assert mark.inner_text() == "Fork: both leave the most common one at token 0. Their texts are equal"


def test_without_a_script_all_is_there_but_the_choice(browser, pages):
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["completions-stock"])
    for hidden in (".copy", ".controls"):
        assert not page.locator(hidden).is_visible()
    for shown in (".reproduce", ".matrix", ".fork-mark", ".diff .before", ".plot svg", ".bars", ".forks"):
        assert page.locator(shown).first.is_visible(), shown
    context.close()


def test_print_opens_what_is_closed_and_is_light(page, pages):
    page.emulate_media(color_scheme="dark")
    page.goto(pages["completions-stock"])
    inside = page.locator("details:not([open]) .words").first
    assert not inside.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert inside.bounding_box()["height"] > 0 and inside.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".copy").is_visible()
    assert page.pdf().startswith(b"%PDF")


@pytest.fixture(scope="module")
def watched(browser):
    """A page that notes when anything runs that should not, or is kept from running."""
    page = browser.new_context(offline=True).new_page()
    page.add_init_script(
        "window.refused = []; addEventListener('securitypolicyviolation', e => refused.push(e.violatedDirective))"
    )
    return page


def test_what_a_model_said_does_nothing(watched, tmp_path):
    """In texts, tokens, prompts, errors, reasons to finish and the file's name."""
    ids = [{"tokens": [n, 1], "text": text, "prompt": HOSTILE[n % 2]} for n, text in enumerate(HOSTILE)]
    ids += [{"tokens": [0, 1], "text": HOSTILE[0], "prompt": HOSTILE[0]}]
    ids += [{"tokens": None, "error": text, "prompt": "p"} for text in HOSTILE[:5]]
    words = [{"tokens": [text, "b"], "finish_reason": text} for text in HOSTILE[:6]]
    watched.set_viewport_size({"width": 360, "height": 800})
    for rows in (ids, words):
        run = judged(tmp_path, rows, name="<script>window.owned=1<img src=x onerror=owned=1>.jsonl")
        watched.goto(written(tmp_path, "hostile", run))
        watched.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        for select in watched.locator("select").all():
            for n in range(select.locator("option").count()):
                select.select_option(index=n)
        assert watched.evaluate("[window.owned ?? null, refused]") == [None, []]
        assert (
            watched.locator("script").count() == 1
            and watched.locator("main :is(img, style, a[href^=java])").count() == 0
        )
        assert not too_wide(watched)
        text = watched.locator("body").text_content()
        assert "<img src=x onerror='window.owned=1'>" in text and "\\u202e" in text
        assert not set(text) & {"\u202e", "\x00", "\x1b"}


def test_a_script_that_slips_in_is_refused(watched, tmp_path):
    """Were something not escaped: the page's policy names one script, by its hash."""
    html = render(judged(tmp_path, [{"tokens": [1, 2]}] * 2), "html")
    file = tmp_path / "slipped.html"
    file.write_text(
        html.replace("<main>", "<main><script>window.owned = 1</script><p onclick='owned=2'>x</p>"), "utf-8"
    )
    watched.goto(file.as_uri())
    assert watched.evaluate("window.owned ?? null") is None
    assert any(directive.startswith("script-src") for directive in watched.evaluate("refused"))
    assert watched.locator(".copy").is_visible()  # ours ran
    file.write_text(html.replace('"use strict";', '"use strict"; window.owned = 3;'), "utf-8")
    watched.goto(file.as_uri())
    assert watched.evaluate("window.owned ?? null") is None and not watched.locator(".copy").is_visible()


def test_two_hundred_prompts_stay_a_page(page, tmp_path):
    rows = [
        {
            "prompt": f"prompt {p}",
            "tokens": [1, 2, s],
            "text": f"{p} " + "word " * 2000 + str(s),
            "batch_size": 1 + s,
            "trial": t,
        }
        for p in range(220)
        for s in range(3)
        for t in range(2)
    ]
    run = judged(tmp_path, rows)
    html = render(run, "html")
    assert len(html.encode()) < 5_000_000
    page.goto(written(tmp_path, "many", run))
    assert page.locator("main > details.finding").count() == 192 and page.get_by_text("20 more findings").is_visible()
    page.locator("nav summary").click()
    page.locator("nav a").nth(150).click()  # what a link leads to opens
    assert page.locator("#finding-151 .note").is_visible()


def test_ten_thousand_outcomes_stay_a_page(page, tmp_path):
    rows = [{"tokens": [1, n, 3], "text": f"a {n} c " + "word " * 100} for n in range(10_000)]
    run = judged(tmp_path, rows)
    assert len(render(run, "html").encode()) < 500_000
    page.goto(written(tmp_path, "outcomes", run))
    assert page.locator(".matrix thead .key").count() == 60
    assert "9940 outcomes" in page.locator("main").text_content()

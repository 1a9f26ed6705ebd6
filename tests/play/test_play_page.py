"""The page in a real browser: Debian's Chromium, without a screen, opened from disk. Skipped where it is not installed
(apt-get install chromium; pip install playwright)."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_play_server import Served

from wm_jax import cli
from wm_jax.play import page as pages

ROOT = Path(__file__).parents[2]
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

SLIDE = "slider => {{ slider.value = {}; slider.dispatchEvent(new Event('input')); }}"

pytestmark = [
    pytest.mark.whole,
    # Playwright's own event loop is closed late.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def export(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr("sys.argv", ["wm-jax", "export", *map(str, arguments)])
    cli.main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the swing-up bundle."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        export(patch, ROOT / "wm_jax" / "pretrained" / "swing_up.safetensors", "--web", folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser: {CHROMIUM} is not there")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, opened from disk and paused; nothing of it may fail or leave it."""
    context = browser.new_context(
        viewport={"width": 1000, "height": 900}, reduced_motion="reduce", accept_downloads=True
    )
    page, problems, requests = context.new_page(), [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((folder / pages.FILE).as_uri())
    page.wait_for_selector("#starts button")
    yield page
    # What is recorded is handed over under an address of its own.
    left = [url for url in requests if not url.startswith(("file:", "blob:", "data:"))]
    assert not problems and not left
    context.close()


def picture(page: Any, name: str = "#dream") -> str:
    """What a canvas shows."""
    return page.eval_on_selector(name, "canvas => canvas.toDataURL()")


def until(page: Any, holds: Callable[[], bool]) -> None:
    """Wait for something; the page's own policy forbids Playwright to do so inside it."""
    for _ in range(600):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come in a minute")


def number(page: Any, name: str) -> float:
    return float(page.inner_text(name))


def test_a_page_is_one_file_that_asks_for_nothing(folder: Path) -> None:
    text = (folder / pages.FILE).read_text()
    assert [path.name for path in folder.iterdir()] == [pages.FILE]
    assert len(text) < pages.LARGEST and pages.MARK in text
    assert not re.search(r"<[^>]*(src|href)=|@import|url\(|fetch\(|XMLHttpRequest", text)


def test_c_drives_and_a_visitor_takes_over_while_a_key_is_held(page: Any) -> None:
    assert page.inner_text("#play") == "Play", "reduced motion: nothing moves by itself"
    before = picture(page)
    page.click("#single")
    assert number(page, "#steps") == 1 and picture(page) != before and page.inner_text("#who") == "C drives"
    page.focus("#dream")
    page.keyboard.down("ArrowLeft")
    assert page.inner_text("#who") == "you drive"
    page.keyboard.up("ArrowLeft")
    assert page.inner_text("#who") == "C drives"
    page.click("#restart")
    assert number(page, "#steps") == 0 and picture(page) == before


def test_a_held_key_is_what_is_done(page: Any) -> None:
    """The cart is pushed to where the key points: the two dreams part."""
    shown = {}
    for key in ("ArrowLeft", "ArrowRight"):
        page.click("#restart")
        page.focus("#dream")
        page.keyboard.down(key)
        for _ in range(6):
            page.eval_on_selector("#single", "button => button.click()")
        page.keyboard.up(key)
        shown[key] = picture(page)
    assert shown["ArrowLeft"] != shown["ArrowRight"]


def test_it_plays_at_the_tasks_own_speed_and_keeps_the_score(page: Any) -> None:
    page.click("#play")
    until(page, lambda: page.inner_text("#rate") != "–" and number(page, "#earned") > 10)
    assert page.inner_text("#play") == "Pause"
    page.click("#play")
    steps = number(page, "#steps")
    page.wait_for_timeout(300)
    assert number(page, "#steps") == steps, "paused"
    page.eval_on_selector("#temperature", SLIDE.format(2))
    assert page.inner_text("#temperature-value") == "2.00"


def test_a_dream_ends_and_says_so(page: Any) -> None:
    page.eval_on_selector("#single", "button => { for (let i = 0; i < 400; i++) button.click(); }")
    assert page.inner_text("#end") in ("the time limit was reached", "the dream ended")
    assert "score" in page.inner_text("#status") and number(page, "#steps") <= 250


def test_no_key_sticks_and_choices_keep_their_own_arrows(page: Any) -> None:
    page.focus("#pad button")
    page.keyboard.down("Space")
    assert page.inner_text("#who") == "you drive"
    page.keyboard.press("Tab")
    assert page.inner_text("#who") == "C drives"
    page.keyboard.up("Space")
    before = page.input_value("#temperature")
    page.focus("#temperature")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#temperature") != before and page.inner_text("#who") == "C drives"


def test_another_start_is_another_dream(page: Any) -> None:
    before = picture(page)
    page.click("#starts button:nth-child(5)")
    assert picture(page) != before
    assert page.get_attribute("#starts button:nth-child(5)", "aria-pressed") == "true"


def test_v_is_seen_through(page: Any, folder: Path) -> None:
    original, seen = picture(page, "#original"), picture(page, "#seen")
    page.click("#samples button:nth-child(4)")
    assert picture(page, "#original") != original and picture(page, "#seen") != seen
    seen = picture(page, "#seen")
    page.eval_on_selector("#latents input", SLIDE.format("slider.max"))
    assert picture(page, "#seen") != seen
    page.click("#randomise")
    page.click("#reset")
    assert picture(page, "#seen") == seen
    page.set_input_files("#picture", {"name": "words.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.wait_for_selector("#problem:not([hidden])")
    assert "words.txt is no picture" in page.inner_text("#problem")
    pytest.importorskip("PIL.Image").new("RGB", (96, 64), "red").save(folder / "red.png")
    page.set_input_files("#picture", folder / "red.png")
    page.wait_for_selector("#problem", state="hidden")
    assert picture(page, "#original") != original


def test_futures_and_temperatures_stand_side_by_side(page: Any) -> None:
    page.click("#single")
    page.click("#foresee")
    assert page.locator("#futures figure").count() == 4 and page.locator("#futures canvas").count() == 16
    assert all("on" in text or "after" in text for text in page.locator("#futures figcaption").all_inner_texts())
    first = [picture(page, f"#futures figure:nth-child({number}) canvas:nth-child(4)") for number in range(1, 5)]
    assert len(set(first)) > 1, "the futures differ"
    assert number(page, "#entropy-low") <= number(page, "#entropy-now") <= number(page, "#entropy-high")
    assert 0 <= number(page, "#ending-now") <= 1
    page.click("#compare")
    captions = page.locator("#pair figcaption")
    until(page, lambda: not any(" 0 steps" in text for text in captions.all_inner_texts()))
    page.click("#compare")
    cold, warm = captions.all_inner_texts()
    assert cold.startswith("τ 0.1:") and warm.startswith("τ 1:")


def test_a_dream_is_recorded(page: Any, tmp_path: Path) -> None:
    page.click("#record")
    assert page.inner_text("#play") == "Pause", "what stands still would be an empty film"
    page.wait_for_timeout(1500)
    with page.expect_download() as download:
        page.click("#record")
    path = tmp_path / "dream.webm"
    download.value.save_as(path)
    assert download.value.suggested_filename == "swing_up-dream.webm"
    assert path.read_bytes()[:4] == b"\x1a\x45\xdf\xa3" and path.stat().st_size > 1000, "EBML"


def test_everything_is_named_and_fits_a_phone(page: Any) -> None:
    unnamed = """[...document.querySelectorAll('button, input, canvas')].filter(each => !(each.textContent.trim()
        || each.getAttribute('aria-label') || each.closest('button')?.getAttribute('aria-label') || each.labels?.length))"""
    assert page.evaluate(f"{unnamed}.length") == 0
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_served_page_has_the_actual_environment_beside_the_dream(browser: Any, environment: dict[str, str]) -> None:
    served = Served(environment)
    context = browser.new_context(reduced_motion="reduce")
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"http://127.0.0.1:{served.port}/")

    def told(*words: str) -> None:
        until(page, lambda: all(word in page.inner_text("#actual-told") for word in words))

    assert page.inner_text("#actual-told") == "not begun", "who only looks takes no place"
    page.click("#actual-restart")
    told("score")
    before = picture(page, "#actual-frame")
    page.check("input[value=actual]")
    page.focus("#dream")
    page.keyboard.down("ArrowLeft")
    page.click("#actual-play")
    told("you drive: score")
    assert page.inner_text("#who") == "C drives", "the keys drive one of the two"
    page.keyboard.up("ArrowLeft")
    told("C drives: score")
    assert picture(page, "#actual-frame") != before and picture(page, "#actual-seen") != picture(page, "#actual-frame")
    assert "stopped" in served.end()
    told("the connection is closed")
    assert not problems
    context.close()


def test_what_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ROOT / "wm_jax" / "pretrained" / "swing_up.safetensors"

    def refused(*arguments: Any) -> str:
        with pytest.raises(SystemExit) as ended:
            export(monkeypatch, bundle, *arguments)
        assert ended.value.code == 1
        return capsys.readouterr().err

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / pages.FILE).write_text("<p>mine</p>")
    assert "exists and is not a page of wm-jax" in refused("--web", tmp_path / "mine")
    assert "needs FILE.safetensors to write" in refused()
    monkeypatch.setattr(pages, "LARGEST", 10**6)
    assert "more than a page's" in refused("--web", tmp_path / "large")
    assert not (tmp_path / "large").exists()

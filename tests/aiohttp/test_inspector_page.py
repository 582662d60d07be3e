"""The inspector's page in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from playwright.async_api import async_playwright

from correlator import CapacityExceeded, Correlator
from correlator.aiohttp import inspecting
from correlator.transports import connect

from .serving import inspected, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = "<img src=x onerror=\"document.title='owned'\"></td><script>alert(1)</script>\u202eevil"

# The browser's driver is a process of its own: one loop for it is enough.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


class Seen:
    """What a page said and asked for."""

    def __init__(self, page):
        self.console, self.errors, self.urls = [], [], []
        page.on("console", lambda message: self.console.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.urls.append(request.url))


@pytest.fixture
async def browser():
    if CHROMIUM is None:
        reason = "there is no chromium: it is in Debian's package of that name"
        pytest.skip(reason)
    async with async_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(browser, url, **options):
    """Open a page, and close it at the end of the block."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    seen = Seen(page)
    await page.goto(url)
    yield page, seen
    await context.close()


async def texts(page, *ids):
    return [await page.text_content(f"#{each}") for each in ids]


async def is_live(page):
    await page.wait_for_selector('#status[data-state="live"]', timeout=10_000)


async def test_the_page_shows_what_stats_says(correlator, browser):
    for number in range(1_234):
        correlator.register(number, label="bank", timeout=600.0)
        correlator.resolve(number, None)
    for number in range(7):
        correlator.register(f"order-{number}", label="post", timeout=600.0)
    correlator.resolve("stranger", 1)
    async with (
        serving(inspected(correlator)) as served,
        opened(browser, str(served.url("/inspector"))) as (page, seen),
    ):
        await is_live(page)
        stats = correlator.stats()
        assert await texts(page, "name", "pending", "unknown") == ["tested", "7", "1"]
        assert await texts(page, "late", "duplicate", "waiting") == ["0", "0", "0"]
        for name in ("registered", "resolved", "timed_out", "pending", "remembered"):
            shown = await page.text_content(f'#counters [data-name="{name}"]')
            assert int(shown.replace(",", "")) == getattr(stats, name)
        rows = [await row.inner_text() for row in await page.query_selector_all("#labels tbody tr")]
        assert [row.split()[:4] for row in rows] == [
            ["post", "7", "0", "0"],
            ["bank", "0", "0", "1,234"],
        ]
        oldest = await page.query_selector_all("#oldest tbody tr")
        assert len(oldest) == 7
        assert "order-0" in await oldest[0].inner_text()
        # It goes on by itself.
        correlator.register("one more", timeout=600.0)
        await page.wait_for_selector('#pending:text-is("8")')
        assert (seen.console, seen.errors) == ([], [])
        hosts = {url.split("/")[2] for url in seen.urls}
        assert hosts == {f"127.0.0.1:{served.port}"}
    await correlator.aclose()


async def test_hostile_ids_labels_and_names_are_text(browser):
    async with Correlator(name=NASTY, track_origin=True, timeout=600.0) as correlator:
        correlator.register(NASTY, label=NASTY.replace("\u202e", ""))
        async with (
            serving(inspected(correlator)) as served,
            opened(browser, str(served.url("/inspector/"))) as (page, seen),
        ):
            dialogs = []
            page.on("dialog", lambda dialog: dialogs.append(dialog.message))
            await is_live(page)
            correlator.resolve(NASTY + "2", 1)
            await page.wait_for_selector("#unmatched tbody tr")
            for selector in ("#oldest tbody td", "#unmatched tbody td.code"):
                assert "<img src=x onerror=" in await page.text_content(selector)
            assert await page.text_content("#name") == NASTY
            assert await page.query_selector("table img, table script, h1 img") is None
            assert "owned" not in (await page.title()).split()
            assert (dialogs, seen.errors, seen.console) == ([], [], [])


async def test_the_stream_recovers_after_the_server_has_restarted(correlator, browser):
    app = inspected(correlator)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with opened(browser, f"http://127.0.0.1:{port}/inspector/") as (page, _):
        await is_live(page)
        await runner.cleanup()
        # At once: sooner than a link that is only silent would be noticed.
        await page.wait_for_selector('#status[data-state="stale"]', timeout=2_000)
        assert "stale: last heard" in await page.text_content("#status")
        assert await page.title() == "stale – 0 pending – tested"
        runner = web.AppRunner(inspected(correlator))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        correlator.register("after the restart", timeout=600.0)
        await page.wait_for_selector('#status[data-state="live"]', timeout=20_000)
        await page.wait_for_selector('#pending:text-is("1")')
        assert "after the restart" in await page.inner_text("#oldest")
        # What nobody has seen is not drawn, and that it is another process now is.
        await page.wait_for_selector("#pending:text-is('1')")
        assert await page.text_content("#chart-pending text.restart") == "restarted"
        assert await page.title() == "1 pending – tested"
    await runner.cleanup()
    await correlator.aclose()


async def test_before_it_knows_the_page_says_nothing_and_then_why_it_may_not_know(
    correlator, browser, monkeypatch
):
    monkeypatch.setattr(inspecting, "_MAX_STREAMS", 0)
    correlator.register("stuck", timeout=600.0)
    async with (
        serving(inspected(correlator)) as served,
        opened(browser, str(served.url("/inspector/"))) as (page, _),
    ):
        await page.wait_for_selector('#status:has-text("503: Too many look already.")')
        told = await page.inner_text("main")
        for unknown in ("Nothing", "None", "Request"):
            assert unknown not in told
    await correlator.aclose()


async def test_a_full_one_and_one_that_drains_say_so(browser):
    async with Correlator(max_pending=2, timeout=600.0) as correlator:
        correlator.register()
        async with (
            serving(inspected(correlator)) as served,
            opened(browser, str(served.url("/inspector/"))) as (page, _),
        ):
            await is_live(page)
            assert await texts(page, "pending", "bound") == ["1", "of 2"]
            assert await page.query_selector("#pending-tile.bad") is None
            assert not await page.is_visible("#condition")
            correlator.register()
            for _ in range(3):
                with pytest.raises(CapacityExceeded):
                    correlator.register()
            await page.wait_for_selector("#pending-tile.bad")
            assert await page.text_content("#refusals") == "CapacityExceeded 3"
            draining = asyncio.ensure_future(correlator.drain(600.0))
            await page.wait_for_selector("#condition:has-text('draining')")
            await correlator.aclose()
            await page.wait_for_selector("#condition:has-text('closed')")
            await draining


async def test_what_is_selected_stays_until_it_is_selected_no_more(correlator, browser):
    """Or nobody could copy an id."""
    correlator.register("first", timeout=600.0)
    async with (
        serving(inspected(correlator)) as served,
        opened(browser, str(served.url("/inspector/"))) as (page, _),
    ):
        await is_live(page)
        cell = "#oldest tbody td.code"
        await page.evaluate(
            "getSelection().selectAllChildren(document.querySelector('#oldest tbody td.code'))"
        )
        correlator.resolve("first", None)
        correlator.register("second", timeout=600.0)
        correlator.register("third", timeout=600.0)
        await page.wait_for_selector('#pending:text-is("2")')
        assert await page.text_content(cell) == "first"
        assert await page.evaluate("getSelection().toString()") == "first"
        await page.wait_for_selector(".held #oldest-title")
        await page.evaluate("getSelection().removeAllRanges()")
        await page.wait_for_selector(f'{cell}:text-is("second")')
    await correlator.aclose()


async def test_a_silent_server_is_noticed(correlator, browser):
    """The connection stays, and nothing comes: what a lost link looks like from here."""
    async with (
        serving(inspected(correlator)) as served,
        opened(browser, str(served.url("/inspector/"))) as (page, _),
    ):
        await is_live(page)
        await page.context.set_offline(True)
        (feed,) = [t for t in asyncio.all_tasks() if t.get_name() == "correlator-inspector"]
        feed.cancel()
        await page.wait_for_selector('#status[data-state="stale"]', timeout=10_000)


async def test_at_320_pixels_nothing_is_wider_than_the_page(correlator, browser):
    correlator.register("x" * 120, label="y" * 100, timeout=600.0)
    async with (
        serving(inspected(correlator)) as served,
        opened(browser, str(served.url("/inspector/")), viewport={"width": 320, "height": 640}) as (
            page,
            _,
        ),
    ):
        await is_live(page)
        assert await page.evaluate("document.documentElement.scrollWidth") == 320
    await correlator.aclose()


async def test_the_keyboard_reaches_everything_that_scrolls(correlator, browser):
    correlator.register(timeout=600.0)
    correlator.resolve("stranger", 1)
    async with (
        serving(inspected(correlator)) as served,
        opened(browser, str(served.url("/inspector/"))) as (page, _),
    ):
        await is_live(page)
        reached = []
        for _ in range(8):
            await page.keyboard.press("Tab")
            reached.append(
                await page.evaluate(
                    "[document.activeElement.className,"
                    " document.activeElement.getAttribute('aria-labelledby') || '']"
                )
            )
        assert reached[0][0] == "skip"
        regions = {label for kind, label in reached if kind == "scroll"}
        assert {"oldest-title", "labels-title", "unmatched-title"} <= regions
        assert await page.evaluate(
            "[...document.querySelectorAll('th')].every((cell) => cell.scope === 'col')"
        )
    await correlator.aclose()


async def test_light_and_dark_differ_and_both_can_be_read(correlator, browser):
    grounds = set()
    async with serving(inspected(correlator)) as served:
        for scheme in ("light", "dark"):
            url = str(served.url("/inspector/"))
            async with opened(browser, url, color_scheme=scheme) as (page, _):
                await is_live(page)
                colours = await page.evaluate(
                    "['background-color', 'color'].map((name) =>"
                    " getComputedStyle(document.body).getPropertyValue(name))"
                )
                assert contrast(*colours) > 7  # WCAG 2.2, AAA
                grounds.add(colours[0])
    assert len(grounds) == 2


def contrast(*colours):
    """Return the contrast of two colours, as WCAG 2.2 defines it."""

    def luminance(colour):
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


async def test_replicas_are_on_the_page_side_by_side(browser):
    async with Correlator(name="gateway") as one, Correlator(name="gateway") as two:
        two.register("a", timeout=600.0)
        first, second = (
            inspected(it, replicas=lambda own, name=name: connect("memory:p", own, replica=name))
            for it, name in ((one, "w1"), (two, "w2"))
        )
        async with (
            serving(first) as served,
            serving(second),
            opened(browser, str(served.url("/inspector/"))) as (page, seen),
        ):
            await page.wait_for_selector("#replicas tbody tr:nth-child(2)", timeout=20_000)
            rows = [
                await row.inner_text()
                for row in await page.query_selector_all("#replicas tbody tr")
            ]
            assert rows[0].startswith("w1-")
            assert "this one" in rows[0]
            assert rows[1].startswith("w2-")
            assert seen.errors == []

"""The board without a mouse, without seeing it, on a phone, and in the dark."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import expect

from darkq import Client
from darkq_local.faults import Cut, Fault
from support.http_api import Api

# Texts that have too little contrast with what is behind them, as WCAG 2 computes it.
FAINT = """() => {
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parts(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || e.closest(".unseen, option")) continue;
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${e.tagName} ${e.className} ${e.textContent}: ${ratio}`);
  }
  return found;
}"""

# What can be used, but has no name that a screen reader could say.
NAMELESS = """() => [..."a, button, input, select, textarea, svg, progress".split(", ")]
  .flatMap((tag) => [...document.querySelectorAll(tag)])
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
  .map((e) => e.outerHTML)"""

# Ids that are not unique, and references to ids that are not there.
BROKEN = """() => {
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  const named = [...document.querySelectorAll("[aria-labelledby]")]
    .map((e) => e.getAttribute("aria-labelledby"));
  const twice = ids.filter((id, n) => ids.indexOf(id) !== n);
  return [...twice, ...named.filter((id) => !ids.includes(id))];
}"""


async def test_all_of_it_works_by_keyboard_alone(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    await working(chunks=400, chunks_per_s=20)
    old = await client.enqueue("an older one")
    page = await open_board(api.url)
    await expect(page.locator("#jobs tbody tr")).to_have_count(1)
    press = page.keyboard.press
    await press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await press("Enter")
    await expect(page.locator("#prompt")).to_be_focused()
    await page.keyboard.type("Why do people queue?")
    for field in ("#model", "#priority", "#composer button"):
        await press("Tab")
        await expect(page.locator(field)).to_be_focused()
    outline = "e => getComputedStyle(e).outlineStyle"
    assert await page.locator("#composer button").evaluate(outline) == "solid"
    await press("Enter")
    await expect(page.locator("#job-state")).to_have_text("running")
    rows = page.locator("#jobs tbody tr")
    await expect(rows).to_have_count(2)
    for field in ("#search", "#state", "#filter-model"):
        await press("Tab")
        await expect(page.locator(field)).to_be_focused()
    await press("Tab")
    await press("Tab")
    await expect(page.locator(f'#jobs a[href="#job={old.id}"]')).to_be_focused()
    await press("Enter")
    await expect(page.locator("#job")).to_be_focused()
    await expect(page.locator("#job-id")).to_have_text(old.id)
    await press("Tab")
    await expect(page.locator("#job-cancel")).to_be_focused()
    await press("Enter")
    await expect(page.locator("#job-state")).to_have_text("cancelled")


async def test_a_screen_reader_is_told_sentences(api: Api, working: Any, open_board: Any) -> None:
    await working(chunks=120, chunks_per_s=30)
    page = await open_board(api.url)
    await page.fill("#prompt", "Why do people queue?")
    await press_send(page)
    region = page.locator("#announcer")
    assert await region.get_attribute("aria-live") == "polite"
    await expect(region).to_contain_text("Job running")
    sentence = region.locator("p", has_text=re.compile(r"\w+ \w+.*\.$"))
    await expect(sentence.first).to_be_attached()


async def press_send(page: Any) -> None:
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#job-open")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_everything_can_be_read_and_has_a_name(
    api: Api, client: Client, working: Any, open_board: Any, scheme: str, width: int
) -> None:
    await working(Fault(cut=Cut("reset", 5)), None, chunks=20)
    job = await client.enqueue("Why?", model="gpt-4o")
    await job.result(10)
    await client.enqueue("[fault: status=400] Why?")
    await (await client.enqueue("x" * 50)).cancel()
    async with client.batch(name="a-name-without-any-space-" * 6):
        page = await open_board(
            f"{api.url}/#job={job.id}",
            viewport={"width": width, "height": 780},
            color_scheme=scheme,
        )
        await expect(page.locator("#jobs tbody tr")).to_have_count(3)
        await expect(page.locator("#jobs .pill", has_text="failed")).to_have_count(1)
        await expect(page.locator("#workers li")).to_have_count(1)
        await expect(page.locator(".attempt")).to_have_count(2)
        await page.click(".log summary")
        assert await page.evaluate(FAINT) == []
        assert await page.evaluate(NAMELESS) == []
        assert await page.evaluate(BROKEN) == []
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", ground)[0]) < 60) == (scheme == "dark")

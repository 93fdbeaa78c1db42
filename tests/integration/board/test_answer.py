"""An answer on the page: Markdown as nodes, raw text, and what models send beside text."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.async_api import Page, Route, expect

from darkq import Client
from support.http_api import Api

RENDER = """async ([text, isOpen]) => {
  const { parse } = await import("/board/markdown.js");
  const box = document.createElement("div");
  box.append(...parse(text.split("\\n"), isOpen).map((block) => block.make()));
  return box.innerHTML;
}"""

LINK = 'rel="noopener noreferrer nofollow" target="_blank"'
# What is written, and the nodes that are made of it.
MARKDOWN = {
    "# One\n\ntwo *three* **four** `five`": '<h4 class="level-1">One</h4>'
    "<p>two <em>three</em> <strong>four</strong> <code>five</code></p>",
    "a\nb\n\n---\n": "<p>a<br>b</p><hr>",
    "- a\n  - b\n  - c\n- d": "<ul><li>a<ul><li>b</li><li>c</li></ul></li><li>d</li></ul>",
    "1. a\n   - b\n2. c": "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>",
    "3) a\n4) b": '<ol start="3"><li>a</li><li>b</li></ol>',
    "- a\n\n- b": "<ul><li><p>a</p></li><li><p>b</p></li></ul>",
    "1. a\n\n   more\n2. b": "<ol><li><p>a</p><p>more</p></li><li><p>b</p></li></ol>",
    "> a\n> > b": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>",
    "[a *b*](https://x.example/y)": f'<p><a href="https://x.example/y" {LINK}>a <em>b</em></a></p>',
    "see https://x.example/y.": f'<p>see <a href="https://x.example/y" {LINK}>'
    "https://x.example/y</a>.</p>",
    "[a](javascript:alert(1)) [b](data:text/html,x) ![c](file:///x)": "<p><span>a</span> "
    "<span>b</span> <span>c</span></p>",
    "<img src=x onerror=alert(1)> &amp;": "<p>&lt;img src=x onerror=alert(1)&gt; &amp;amp;</p>",
    "**not closed and snake_case_name * 2": "<p>**not closed and snake_case_name * 2</p>",
    r"\*a\* ***b*** ~~c~~": "<p>*a* <strong><em>b</em></strong> <del>c</del></p>",
    "``a ` b``": "<p><code>a ` b</code></p>",
    "": "",
}


async def test_markdown_becomes_nodes(api: Api, open_board: Any) -> None:
    page = await open_board(api.url)
    made = {text: await page.evaluate(RENDER, [text, False]) for text in MARKDOWN}
    assert made == MARKDOWN


async def test_code_tables_and_tasks(api: Api, open_board: Any) -> None:
    page = await open_board(api.url)
    code = await page.evaluate(RENDER, ["~~~python\n<b>x</b>\n\n  y\n~~~\nafter", False])
    assert "<code>&lt;b&gt;x&lt;/b&gt;\n\n  y</code>" in code
    assert code.endswith("<p>after</p>")
    assert "Copy</button>" in code
    table = await page.evaluate(RENDER, ["a | b\n--|--:\n`1\\|2` | 3 |\n4", False])
    assert '<th>a</th><th class="number">b</th>' in table
    assert '<td><code>1|2</code></td><td class="number">3</td>' in table
    assert table.endswith("</div><p>4</p>")
    tasks = await page.evaluate(RENDER, ["- [x] a\n- [ ] b", False])
    assert tasks.count('class="task"') == 2
    assert 'aria-label="done"' in tasks


async def test_unfinished_markdown_is_shown_as_what_it_becomes(api: Api, open_board: Any) -> None:
    page = await open_board(api.url)
    for text in ("```py\nx = 1", "```\n", "``` py"):
        assert "<pre" in await page.evaluate(RENDER, [text, True])
    for text in ("| a | b |", "| a | b |\n|--", "| a | b |\n|--|--|\n| 1"):
        assert "<table>" in await page.evaluate(RENDER, [text, True])


async def test_long_and_hostile_markdown_takes_no_long_time(api: Api, open_board: Any) -> None:
    """Red if a mark that is never closed is searched to the end of the text each time."""
    page = await open_board(api.url)
    time = """async ([text, isOpen]) => {
      const { parse } = await import("/board/markdown.js");
      const start = performance.now();
      parse(text.split("\\n"), isOpen).map((block) => block.make());
      return performance.now() - start;
    }"""
    hostile = ("*a ", "`a ``b ", "[a", "[a](", "_a", "> ", "- ", "**a *b ", "![[", "| ")
    for piece in hostile:
        assert await page.evaluate(time, [piece * 20_000, True]) < 2000, piece
    lines = "".join(f"{' ' * (n % 40)}- a\n" for n in range(3000))
    assert await page.evaluate(time, [lines, True]) < 2000


async def stream(page: Page, job_id: str, events: list[dict[str, Any]]) -> None:
    """Let the page read a script instead of the events of a job."""
    lines = [f"id: 1-{n}\ndata: {json.dumps(event)}\n\n" for n, event in enumerate(events)]

    async def status(route: Route) -> None:
        real = await (await route.fetch()).json()
        await route.fulfill(json={**real, "state": "completed"})

    async def answer(route: Route) -> None:
        if events[-1]["type"] == "completed":  # the page looks at the job once more
            await page.route(f"**/jobs/{job_id}", status)
        await route.fulfill(status=200, content_type="text/event-stream", body="".join(lines))

    await page.route(f"**/jobs/{job_id}/events", answer)


STARTED: dict[str, Any] = {
    "type": "started",
    "id": "1-0",
    "attempt": 1,
    "model": "m",
    "upstream": "u",
    "at_ms": 1,
}


async def test_reasoning_tool_calls_and_refusals(api: Api, client: Client, open_board: Any) -> None:
    job = await client.enqueue("x")
    page = await open_board(api.url)
    source = {"url_citation": {"url": "https://x.example/", "title": "A source"}}
    script: list[dict[str, Any]] = [
        {"type": "reasoning", "text": "First I "},
        {"type": "reasoning", "text": "think."},
        {"type": "chunk", "text": "See", "annotations": [source], "logprobs": {"content": []}},
        {"type": "tool_call", "index": 0, "call_id": "c1", "name": "find", "arguments": '{"q":'},
        {"type": "tool_call", "index": 1, "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "tool_call", "index": 0, "arguments": '"cafés","n":[1]}'},
        {"type": "refusal", "text": "I cannot <b>help</b>"},
        {"type": "refusal", "text": " with that."},
        {"type": "completed", "finish_reason": "tool_calls", "at_ms": 2},
    ]
    await stream(page, job.id, [STARTED, *({"id": "1-1", **each} for each in script)])
    await page.evaluate(f"location.hash = 'job={job.id}'")
    await expect(page.locator("#job-state")).to_have_text("completed")
    await expect(page.locator(".reasoning summary")).to_have_text("Reasoning 14 characters")
    await expect(page.locator(".thoughts")).to_be_hidden()
    await page.click(".reasoning summary")
    await expect(page.locator(".thoughts")).to_have_text("First I think.")
    await expect(page.locator(".tool strong")).to_have_text(["find", "add"])
    pretty = json.dumps({"q": "cafés", "n": [1]}, indent=2, ensure_ascii=False)
    assert await page.locator(".tool pre").first.text_content() == pretty
    await expect(page.locator(".refusal")).to_contain_text("I cannot <b>help</b> with that.")
    await expect(page.locator(".sources a")).to_have_attribute("href", "https://x.example/")
    await page.click(".log summary")
    names = await page.locator("#events strong").all_text_contents()
    assert names == ["started", "reasoning", "chunk", "tool_call", "refusal", "completed"]


async def test_a_complete_answer_opens_at_its_beginning_and_a_running_one_at_its_end(
    api: Api, client: Client, open_board: Any
) -> None:
    text = "\n\n".join(f"paragraph {n}" for n in range(200))
    job = await client.enqueue("x")
    page = await open_board(api.url)
    chunk = {"type": "chunk", "id": "1-1", "text": text}
    await stream(page, job.id, [STARTED, chunk])
    await page.evaluate(f"location.hash = 'job={job.id}'")
    await expect(page.locator(".markdown p")).to_have_count(200)
    left = "e => Math.round(e.scrollHeight - e.scrollTop - e.clientHeight)"
    body = page.locator("#job-body")
    await page.wait_for_function(f"({left})(document.querySelector('#job-body')) < 60")
    await body.evaluate("e => e.scrollTo(0, 0)")
    await job.cancel()
    other = await open_board(api.url)
    await stream(other, job.id, [STARTED, chunk, {"type": "completed", "id": "1-2", "at_ms": 2}])
    await other.evaluate(f"location.hash = 'job={job.id}'")
    await expect(other.locator(".markdown p")).to_have_count(200)
    assert await other.locator("#job-body").evaluate("e => e.scrollTop") == 0


async def test_raw_text_and_copies(api: Api, client: Client, open_board: Any) -> None:
    text = "# Title\n\n```py\nx = 1\n```\n"
    job = await client.enqueue("x")
    page = await open_board(api.url, permissions=["clipboard-read", "clipboard-write"])
    end = {"type": "completed", "id": "1-2", "at_ms": 2}
    await stream(page, job.id, [STARTED, {"type": "chunk", "id": "1-1", "text": text}, end])
    await page.evaluate(f"location.hash = 'job={job.id}'")
    await page.click(".code button")
    assert await page.evaluate("navigator.clipboard.readText()") == "x = 1"
    await page.click(".attempt .head button:has-text('Copy')")
    await expect(page.locator(".attempt .head button").last).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == text
    await page.click(".raw-button")
    await expect(page.locator(".markdown")).to_be_hidden()
    assert await page.locator(".raw").text_content() == text
    await page.click(".raw-button")
    await expect(page.locator(".markdown h4")).to_have_text("Title")


async def test_text_that_comes_in_pieces_is_rendered_as_the_whole(
    api: Api, client: Client, open_board: Any
) -> None:
    """Red if a block that was made early is not what it becomes."""
    text = (
        "# A\n\n- b\n  - c **d**\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nend\n"
    )
    page = await open_board(api.url)
    render = """async (text) => {
      const { Answer } = await import("/board/answer.js");
      const made = async (pieces) => {
        const box = document.createElement("div");
        const answer = new Answer(box, () => {});
        for (const piece of pieces) {
          answer.add(piece);
          if (pieces.length > 1) await new Promise((resolve) => setTimeout(resolve, 20));
        }
        answer.finish(true);
        return box.querySelector(".markdown").innerHTML;
      };
      return [await made([text]), await made(text.match(/.{1,3}/gs))];
    }"""
    whole, pieces = await page.evaluate(render, text)
    assert whole == pieces
    assert re.search("<table>.*</table>", whole)

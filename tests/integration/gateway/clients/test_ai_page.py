"""The AI SDK's `useChat` in a real browser, with the code of docs/howto/ai-sdk.md."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page, expect

from darkq import Client, Settings
from integration.board.conftest import complaints, open_board
from integration.gateway.clients import environments
from support.chat_service import Chat, call, say
from support.gateways import Gateways
from support.markdown import ROOT, blocks_of
from support.openai_frames import DONE, delta, finish
from support.processes import WorkerProcess
from support.waiting import wait_until

__all__ = ["complaints", "open_board"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DOCUMENT = ROOT / "docs/howto/ai-sdk.md"
ITS_GATEWAY = "http://127.0.0.1:8080"
BUNDLE_DEADLINE_S = 120.0
PATIENCE_MS = 30_000
# Copies each chunk to the test, before the SDK reads it.
HTML = """<!doctype html><link rel=icon href=data:><div id=root></div><script>
const { fetch } = window;
window.fetch = async (...request) => {
  const response = await fetch(...request);
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith("text/event-stream")) copy(response.clone()).catch(() => {});
  return response;
};
async function copy(response) {
  let rest = "";
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const frames = (rest + text).split("\\n\\n");
    rest = frames.pop();
    for (const frame of frames) window.keep(frame);
  }
}
</script><script type=module src=/page.js></script>"""

LOST = [delta("This is "), delta("lost.")]
WHOLE = [delta("One, "), delta("two, "), delta("three."), finish(), DONE]
TOOL = [
    *(say(reasoning_content="I add."), delta("Let me see.")),
    *(call("", id="call_1", name="add"), call('{"a"'), call(": 1}")),
    *(finish("tool_calls"), DONE),
]


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page's script: the code of the document, and React around it."""
    (block,) = (block for block in blocks_of(DOCUMENT) if block.language == "js")
    folder = tmp_path_factory.mktemp("ai-page")
    source, bundle = folder / "use-darkq.js", folder / "page.js"
    source.write_text(block.text)
    command = [*environments.command("npm", "bundle.mjs"), str(source), str(bundle)]
    subprocess.run(command, check=True, timeout=BUNDLE_DEADLINE_S)
    text = bundle.read_text()
    assert ITS_GATEWAY in text
    return text


class Site:
    """Serves the page from an origin of its own."""

    def __init__(self, script: str) -> None:
        self._script = script
        self.gateway_url = ""
        self.url = ""

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text=HTML, content_type="text/html")

    async def script(self, _: web.Request) -> web.Response:
        text = self._script.replace(ITS_GATEWAY, self.gateway_url)
        return web.Response(text=text, content_type="text/javascript")


@pytest.fixture
async def site(script: str) -> AsyncIterator[Site]:
    site = Site(script)
    app = web.Application()
    app.add_routes([web.get("/", site.page), web.get("/page.js", site.script)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield site
    await runner.cleanup()


@pytest.fixture
async def gateways(make_settings: Callable[..., Settings], site: Site) -> AsyncIterator[Gateways]:
    gateways = Gateways(make_settings, site.url)
    site.gateway_url = gateways.url
    await gateways.start()
    yield gateways
    await gateways.stop()


@pytest.fixture
async def chat() -> Chat:
    return Chat(WHOLE)


@pytest.fixture
async def start(
    chat: Chat, make_settings: Any, start_process: Callable[[Settings], WorkerProcess]
) -> AsyncIterator[Callable[[], WorkerProcess]]:
    """Start workers as processes of their own."""
    async with chat.serving() as url:
        upstreams = {"chat": {"url": url, "models": "m"}}
        settings = make_settings(
            darkai_url="none", upstreams=upstreams, worker_lease_s=1.5, retry_base_s=0.01
        )
        yield lambda: start_process(settings)
        chat.may_go_on.set()


@pytest.fixture
async def page(
    site: Site, gateways: Gateways, open_board: Callable[..., Awaitable[Page]]
) -> AsyncIterator[Page]:
    """The page; at the end each chunk that it received is checked by the SDK's own schema."""
    frames: list[str] = []
    page = await open_board("about:blank")
    page.set_default_timeout(PATIENCE_MS)
    await page.expose_function("keep", lambda frame: frames.append(frame))
    await page.goto(site.url)
    yield page
    lines = [line for frame in frames for line in frame.split("\n")]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    chunks = [each for each in data if each != "[DONE]"]
    assert chunks
    assert await wrong_chunks(chunks) == []


async def wrong_chunks(chunks: list[str]) -> list[dict[str, Any]]:
    command = await asyncio.to_thread(environments.command, "npm", "ui_chunks.mjs")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate(f"[{','.join(chunks)}]".encode())
    assert process.returncode == 0
    wrong: list[dict[str, Any]] = json.loads(printed)
    return wrong


async def ask(page: Page, prompt: str) -> None:
    await page.fill("input", prompt)
    await page.press("input", "Enter")


async def expect_texts(page: Page, *texts: str) -> None:
    """Wait for exactly these messages."""
    await expect(page.locator("article")).to_have_text(list(texts), timeout=PATIENCE_MS)


async def expect_status(page: Page, status: str) -> None:
    await expect(page.locator("output")).to_have_text(status, timeout=PATIENCE_MS)


async def read_parts(page: Page, kind: str) -> list[dict[str, Any]]:
    """Return the parts of a kind of all messages."""
    parts: list[dict[str, Any]] = await page.evaluate("chat.messages.flatMap(({parts}) => parts)")
    return [part for part in parts if part["type"] == kind]


async def test_answer_survives_a_killed_worker_and_reloads(
    page: Page, chat: Chat, start: Callable[[], WorkerProcess]
) -> None:
    """Red if text of a lost attempt remains, or a reload loses text or shows it twice."""
    chat.frames, chat.pauses_after = LOST, 2
    worker = start()
    await ask(page, "Count.")
    await expect_texts(page, "Count.", "This is lost.")
    worker.send(signal.SIGKILL)
    await worker.wait()
    chat.frames = WHOLE
    start()
    await expect_texts(page, "Count.", "One, two,")
    await expect_status(page, "streaming")
    await page.reload()
    await expect_texts(page, "One, two,")
    await expect_status(page, "streaming")
    chat.may_go_on.set()
    await expect_texts(page, "One, two, three.")
    await expect_status(page, "ready")
    await page.reload()
    await expect_texts(page, "One, two, three.")
    await expect_status(page, "ready")
    await page.evaluate("chat.resumeStream()")
    await expect_texts(page, "One, two, three.")
    await ask(page, "Again.")
    await expect_texts(page, "One, two, three.", "Again.", "One, two, three.")
    await expect_status(page, "ready")
    assert len(chat.bodies) == 3
    assert [message["content"] for message in chat.bodies[-1]["messages"]] == [
        "One, two, three.",
        "Again.",
    ]


async def test_tools_output_continues_the_message(
    page: Page, chat: Chat, start: Callable[[], WorkerProcess]
) -> None:
    """Red if the step after a tool is a second message, or a reload loses the first step."""
    chat.frames = TOOL
    start()
    await ask(page, "Add.")
    await expect_status(page, "ready")
    await expect_texts(page, "Add.", "Let me see.")
    (part,) = await read_parts(page, "tool-add")
    assert (part["state"], part["input"]) == ("input-available", {"a": 1})
    (part,) = await read_parts(page, "reasoning")
    assert part["text"] == "I add."
    chat.frames, chat.pauses_after = WHOLE, 2
    output = "{tool: 'add', toolCallId: 'call_1', output: {sum: 2}}"
    await page.evaluate(f"chat.addToolOutput({output}).then(() => void chat.sendMessage())")
    await expect_texts(page, "Add.", "Let me see.One, two,")
    await page.reload()
    await expect_texts(page, "Let me see.One, two,")
    chat.may_go_on.set()
    await expect_texts(page, "Let me see.One, two, three.")
    await expect_status(page, "ready")
    (part,) = await read_parts(page, "tool-add")
    assert (part["state"], part["input"]) == ("output-available", {"a": 1})
    assert part["output"] == {"sum": 2}
    (part,) = await read_parts(page, "reasoning")
    assert part["text"] == "I add."
    assert [message["role"] for message in chat.bodies[-1]["messages"]] == [
        *("user", "assistant", "tool")
    ]


async def test_stop_cancels_the_job(
    page: Page, chat: Chat, start: Callable[[], WorkerProcess], client: Client
) -> None:
    chat.pauses_after = 2
    start()
    await ask(page, "Count.")
    await expect_texts(page, "Count.", "One, two,")
    await page.click("button")
    await expect_status(page, "ready")
    await expect_texts(page, "Count.", "One, two,")
    await wait_for_end(page, client)
    await page.reload()
    await expect_texts(page, "One, two,")
    await expect_status(page, "ready")
    chat.may_go_on.set()


async def test_stop_cancels_a_job_that_waits(
    page: Page, chat: Chat, start: Callable[[], WorkerProcess], client: Client
) -> None:
    """Red if a message has no id before its job starts."""
    await ask(page, "Count.")
    await expect_texts(page, "Count.", "")
    await page.click("button")
    await expect_status(page, "ready")
    await wait_for_end(page, client)
    assert chat.bodies == []


async def wait_for_end(page: Page, client: Client) -> None:
    job = client.job(await page.evaluate("chat.messages.at(-1).metadata.jobId"))

    async def is_cancelled() -> bool:
        return (await job.status()).state == "cancelled"

    await wait_until("the end of the job", is_cancelled)


async def test_connection_that_breaks_costs_no_text(
    page: Page,
    chat: Chat,
    gateways: Gateways,
    start: Callable[[], WorkerProcess],
    complaints: list[str],
) -> None:
    """Red if the text before the break is shown twice after it."""
    chat.pauses_after = 2
    start()
    await ask(page, "Count.")
    await expect_texts(page, "Count.", "One, two,")
    await gateways.stop()
    await expect_status(page, "error")
    chat.may_go_on.set()
    await gateways.start()
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect_texts(page, "Count.", "One, two, three.")
    await expect_status(page, "ready")
    complaints.clear()  # of the connection that was lost

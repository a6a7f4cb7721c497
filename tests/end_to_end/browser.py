"""Pictures of MLflow's pages by a headless Chromium, over its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


# MLflow opens with its assistant, and with what it has for language models.
SETTINGS = {
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.workflowType_v1": '"machine_learning"',
}


def screenshot(url: str, target: Path, login: tuple[str, str], ready: str) -> str:
    """Take a picture of a page once it is ready.

    Args:
        url: the page.
        target: the PNG file to write.
        login: user and password of basic authentication.
        ready: a JavaScript expression that is true when there is something to see.

    Returns:
        The text of the page.
    """
    return asyncio.run(_screenshot(url, target, login, ready))


async def _screenshot(url: str, target: Path, login: tuple[str, str], ready: str) -> str:
    profile = tempfile.mkdtemp(prefix="chromium-")
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--window-size=1600,1100", f"--user-data-dir={profile}", "--remote-debugging-port=0",
        "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = await _port(Path(profile, "DevToolsActivePort"))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (page, *_) = await answer.json(content_type=None)
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                return await _take(_Page(socket), url, target, login, ready)
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(profile, ignore_errors=True)


async def _port(file: Path) -> str:
    for _ in range(300):
        if file.exists() and (lines := file.read_text().splitlines()):
            return lines[0]
        await asyncio.sleep(0.1)
    raise TimeoutError("Chromium did not start")


class _Page:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    async def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async for message in self._socket:
            answer = json.loads(message.data)
            if answer.get("id") == number:
                return answer.get("result", {})
        raise ConnectionError("Chromium closed the connection")

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = await self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")


async def _take(
    page: _Page,
    url: str,
    target: Path,
    login: tuple[str, str],
    ready: str,
) -> str:
    words = base64.b64encode(":".join(login).encode()).decode()
    await page.tell("Network.enable")
    await page.tell("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {words}"})
    await page.tell("Page.enable")
    items = "".join(f"localStorage.setItem({key!r}, {value!r});" for key, value in SETTINGS.items())
    await page.tell("Page.addScriptToEvaluateOnNewDocument", source=items)
    await page.tell("Page.navigate", url=url)
    deadline = time.monotonic() + 60
    while not await page.value(ready):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    await asyncio.sleep(2)  # charts come in with a movement
    picture = await page.tell("Page.captureScreenshot", format="png")
    target.write_bytes(base64.b64decode(picture["data"]))
    return str(await page.value("document.body.innerText"))

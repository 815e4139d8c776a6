"""Drives a real headless Chromium over a pipe: reads a page's sizes, console and pixels."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Page:
    """One tab, driven by the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/."""

    def __init__(self, process: subprocess.Popen[bytes], requests: int, replies: int) -> None:
        self._process = process
        self._requests = os.fdopen(requests, "wb", buffering=0)
        self._replies = os.fdopen(replies, "rb")
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        """The reply to a command; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._requests.write(json.dumps(message).encode() + b"\0")
        while (reply := self._read()).get("id") != self._number:
            self.events.append(reply)
        assert "error" not in reply, reply["error"]
        return reply["result"]

    def open(self, path: Path, *, width: int, height: int = 800, dark: bool = False) -> None:
        """Load the file on a screen of that width."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = "dark" if dark else "light"
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"]["value"]

    def complaints(self) -> list[str]:
        """The console messages of the page since it was opened."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]

    def addresses(self) -> list[str]:
        """Every address that the page requested since it was opened."""
        sent = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        image = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(image["data"]))

    def colour(self, x: float, y: float) -> str:
        """`#rrggbb` of the pixel at that place of the page."""
        clip = {"x": x, "y": y, "width": 1, "height": 1, "scale": 1}
        image = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        with Image.open(io.BytesIO(base64.b64decode(image["data"]))) as pixel:
            return "#{:02x}{:02x}{:02x}".format(*pixel.convert("RGB").getpixel((0, 0)))

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._replies.read(1)) != b"\0":
            assert byte, "Chromium is gone"
            message += byte
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.close()
        self._process.kill()
        self._process.wait()
        self._replies.close()


@contextmanager
def chromium() -> Iterator[Page]:
    """A fresh browser with one tab, closed after the test."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="flashbench-", ignore_cleanup_errors=True) as profile:
        requests_out, requests_in = os.pipe()
        replies_out, replies_in = os.pipe()

        def place_pipes() -> None:  # Chromium reads commands from 3 and writes replies to 4
            held = os.dup2(requests_out, 100), os.dup2(replies_in, 101)
            os.dup2(held[0], 3)
            os.dup2(held[1], 4)

        process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=place_pipes,
        )
        os.close(requests_out)
        os.close(replies_in)
        with Page(process, requests_in, replies_out) as page:
            yield page

"""A person's browser for tests: headless Chromium, network off, over its own debugging socket (no extra package)."""

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WHY_NOT = "no Chromium here: `make browser` installs it"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL in software
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]
LOCAL = ("file:", "data:", "blob:", "about:")


class Page:
    """One tab. Remembers every request and every error since it was opened."""

    def __init__(self, width: int, height: int, scale: float = 1.0) -> None:
        self.profile = tempfile.mkdtemp(prefix="xwam-browser-")
        arguments = [CHROMIUM, *ARGUMENTS, f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]
        environment = {**os.environ, "LANG": "en_US.UTF-8", "LC_ALL": "en_US.UTF-8"}
        self.process = subprocess.Popen(
            [*arguments, "about:blank"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Chromium is many processes: they end together, by their group
        )
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.last_id = 0
        self.socket = connect(self._find_tab(), max_size=None, proxy=None)
        for domain in ("Network", "Runtime", "Log", "Page"):
            self.send(f"{domain}.enable")
        self.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _find_tab(self) -> str:
        port_file = Path(self.profile) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if port_file.is_file() and port_file.read_text().strip():
                port = port_file.read_text().split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
                    tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
                if tabs:
                    return tabs[0]["webSocketDebuggerUrl"]
            time.sleep(0.05)
        raise TimeoutError("Chromium did not start within 60 s")

    def send(self, method: str, **parameters: object) -> dict:
        """One command and its answer; what the page reports meanwhile is noted."""
        self.last_id += 1
        self.socket.send(json.dumps({"id": self.last_id, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=180))
            if message.get("id") == self.last_id:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        kind, content = message.get("method"), message.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"][:200])
        elif kind == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(content["exceptionDetails"])[:1000])
        elif kind == "Runtime.consoleAPICalled" and content["type"] in ("error", "assert"):
            self.errors.append(json.dumps(content["args"])[:1000])
        elif kind == "Log.entryAdded" and content["entry"]["level"] == "error":
            self.errors.append(content["entry"]["text"][:1000])

    def open(self, path: Path, wait_for: str, timeout_s: float = 60) -> None:
        """Go to a file; returns once the JavaScript expression ``wait_for`` is true."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait(wait_for, timeout_s)

    def wait(self, expression: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"still not true after {timeout_s} s: {expression}; {self.errors}"
            time.sleep(0.1)

    def run(self, expression: str):
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path | None = None, full: bool = False) -> bytes:
        """The page as PNG; ``full`` takes all of it, not only the window."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        picture = base64.b64decode(answer["data"])
        if path is not None:
            path.write_bytes(picture)
        return picture

    def outside_requests(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(LOCAL)]

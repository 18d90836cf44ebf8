"""Headless Chromium, spoken to directly: open a page at a width, see what it says on its console, ask it something."""
import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0",
           "--remote-allow-origins=*", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank")
LOADED = "new Promise(done => {let look = () => document.readyState == 'complete' ? setTimeout(done, 100) : setTimeout(look, 20); look()})"


class Tab:
    """One tab of a running Chromium."""
    def __init__(self, socket):
        self.socket, self.number, self.events = socket, 0, []
        for part in ("Page", "Runtime", "Log", "Network"): self.call(f"{part}.enable")

    def call(self, method: str, **parameters) -> dict:
        """Send a command and wait for its answer; what Chromium reports in between is kept."""
        self.number += 1
        self.socket.send(json.dumps(dict(id=self.number, method=method, params=parameters)))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") != self.number: self.events.append(message)
            elif "error" in message: raise RuntimeError(f"{method}: {message['error']['message']}")
            else: return message["result"]

    def ask(self, expression: str):
        """The value of a JavaScript expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer: raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", expression))
        return answer["result"].get("value")

    def open(self, address: str, width: int, height: int = 900) -> None:
        """Load a page at this width, in pixels."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        problem = self.call("Page.navigate", url=address).get("errorText")
        if problem: raise RuntimeError(f"{address}: {problem}")
        self.ask(LOADED)

    def complaints(self) -> list[str]:
        """What the page wrote on its console as an error, what it threw, and what it could not load."""
        found = []
        for event in self.events:
            method, data = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown": found.append(data["exceptionDetails"].get("exception", {}).get("description", "an exception"))
            if method == "Runtime.consoleAPICalled" and data["type"] in ("error", "assert"):
                found.append(" ".join(str(argument.get("value", argument.get("description"))) for argument in data["args"]))
            if method == "Log.entryAdded" and data["entry"]["level"] == "error": found.append(data["entry"]["text"])
            if method == "Network.requestWillBeSent" and re.match(r"(https?|wss?)://(?!127\.0\.0\.1[:/])", data["request"]["url"]):
                found.append(f"it asks the network for {data['request']['url']}")
        return found

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Save the page as a PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole,
                         **(dict(clip=dict(self.call("Page.getLayoutMetrics")["cssContentSize"], scale=1)) if whole else {}))["data"]
        Path(path).write_bytes(base64.b64decode(data))


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A tab of a Chromium of its own, with its profile in `folder`."""
    from websocket import create_connection
    process = subprocess.Popen([CHROMIUM, f"--user-data-dir={folder}", *OPTIONS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = Path(folder)/"DevToolsActivePort"
        for _ in range(600):
            if port.exists() and port.read_text().count("\n"): break
            if process.poll() is not None: raise RuntimeError(f"Chromium ended with status {process.returncode}.")
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json"
        pages = json.loads(build_opener(ProxyHandler({})).open(address, timeout=60).read())
        target = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        socket = create_connection(target, timeout=60, http_no_proxy=["127.0.0.1"])
        try: yield Tab(socket)
        finally: socket.close()
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()

"""Headless Chromium, driven through the pipe of its DevTools protocol: no driver, no package, no network."""

import base64
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time

import cv2
import numpy as np

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
]


class Browser:
    """One page. `call` is a method of the DevTools protocol, `evaluate` an expression in the page."""

    def __init__(self, width=1280, height=900, mobile=False):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read, self.write = os.pipe()
        self.read, write = os.pipe()
        command = f'exec "$0" "$@" 3<&{read} 4>&{write}'  # Chromium listens at 3 and answers at 4
        self.process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *OPTIONS, f"--user-data-dir={self.folder.name}", "about:blank"],
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.number, self.rest, self.events, self.session = 0, b"", [], None
        pages = [target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page"]
        self.session = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")
        self.resize(width, height, mobile)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _message(self, limit=120):
        """The next message of the browser."""
        end = time.monotonic() + limit
        while b"\0" not in self.rest:
            if not select.select([self.read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            piece = os.read(self.read, 1 << 20)
            if not piece:
                raise ConnectionError("Chromium has ended")
            self.rest += piece
        text, _, self.rest = self.rest.partition(b"\0")
        return json.loads(text)

    def call(self, method, **parameters):
        """What a method answers; events that come meanwhile are kept in `events`."""
        self.number += 1
        message = dict(id=self.number, method=method, params=parameters) | (
            dict(sessionId=self.session) if self.session else {}
        )
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self.number:
                break
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def resize(self, width, height=900, mobile=False):
        """Make the window so many pixels wide and high."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def open(self, url):
        """Load a page to its end."""
        self.events.clear()
        problem = self.call("Page.navigate", url=url).get("errorText")
        assert not problem, f"{url}: {problem}"
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())
        time.sleep(0.1)  # what it does once it is loaded

    def evaluate(self, expression):
        """The value of a JavaScript expression, waited for if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def key(self, name, code):
        """Press and let go a key, as a person would."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def click(self, selector):
        """A click of the mouse in the middle of an element."""
        x, y = self.evaluate(f"""(() => {{ const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: 'center'}}); const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def wait(self, expression, seconds=120):
        """Ask the page until the answer is true; that answer."""
        end = time.monotonic() + seconds
        while not (answer := self.evaluate(expression)):
            said = self.evaluate("document.body.innerText")[:500]
            assert time.monotonic() < end, f"{expression} stayed {answer!r}; the page says: {said}"
            time.sleep(0.2)
        return answer

    def upload(self, selector, path):
        """Give a file field a file, as dropping one does."""
        self.wait(f"document.querySelector({json.dumps(selector)}) != null")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, selector=None):
        """uint8 RGB of the window, or of one element."""
        clip = {}
        if selector:
            clip = dict(
                clip=self.evaluate(f"""(() => {{ const element = document.querySelector({json.dumps(selector)});
                element.scrollIntoView({{block: 'center'}}); const box = element.getBoundingClientRect();
                const {{x, y, width, height}} = box;
                return {{x: x + scrollX, y: y + scrollY, width, height, scale: 1}}; }})()""")
            )
        data = base64.b64decode(self.call("Page.captureScreenshot", **clip)["data"])
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def asked(self):
        """Every address that the page has asked for since it was opened."""
        self.evaluate("new Promise(done => setTimeout(done, 50))")  # what comes late is heard, too
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def complaints(self, strict=False):
        """Sentences: errors on the console, exceptions, dialogs, what did not load, what other machines were asked for.

        Strict: warnings and notes as well, and everything that is not in the file.
        """
        mine = r"(file|data):" if strict else r"(?!(https?|wss?)://)|\w+://127\.0\.0\.1[:/]"
        found = [f"it asks for {url}" for url in self.asked() if not re.match(mine, url)]
        for event in self.events:
            method, data = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(data["exceptionDetails"].get("exception", {}).get("description", "an exception"))
            if method == "Page.javascriptDialogOpening":
                found.append(f"a dialog: {data['message']}")
            if method == "Runtime.consoleAPICalled" and data["type"] in (
                "error",
                "assert",
                *(["warning"] if strict else []),
            ):
                found.append(
                    " ".join(str(argument.get("value", argument.get("description"))) for argument in data["args"])
                )
            if method == "Log.entryAdded" and (strict or data["entry"]["level"] == "error"):
                found.append(data["entry"]["text"])
        return found

    def close(self):
        """End the browser."""
        try:
            self.call("Browser.close")
        except (AssertionError, OSError, TimeoutError):
            self.process.kill()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for pipe in (self.read, self.write):
            os.close(pipe)
        self.folder.cleanup()

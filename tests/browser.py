"""A headless Chromium, driven through ChromeDriver's HTTP interface (W3C WebDriver); it shows files of this machine."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.tiny_runs import free_port

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')

#: Why there is no browser; None if there is.
MISSING = None if CHROMIUM and DRIVER else 'needs chromium and chromedriver (Debian: chromium, chromium-driver)'

_ARGUMENTS = (
    'headless=new', 'no-sandbox', 'disable-gpu', 'no-first-run', 'disable-background-networking',
    'disable-component-update', 'disable-sync', 'disable-dev-shm-usage', 'hide-scrollbars',
)  # fmt: skip


class Browser:
    """A session; `command` is one of WebDriver's, `devtools` one of Chromium's own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def command(self, path: str, **body: Any) -> Any:
        answer = requests.post(f'{self.url}/{path}', json=body, timeout=120).json()['value']
        assert not (isinstance(answer, dict) and 'error' in answer), answer
        return answer

    def devtools(self, name: str, **parameters: Any) -> Any:
        return self.command('goog/cdp/execute', cmd=name, params=parameters)

    def open(self, page: Path, width: int = 1200, dark: bool = False) -> None:
        metrics = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.devtools('Emulation.setDeviceMetricsOverride', **metrics)
        scheme = dict(name='prefers-color-scheme', value='dark' if dark else 'light')
        self.devtools('Emulation.setEmulatedMedia', features=[scheme])
        self.command('url', url=page.absolute().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.command('execute/sync', script=script, args=arguments)

    def press(self, *keys: str) -> None:
        for key in keys:
            for kind in ('keyDown', 'keyUp'):
                code = dict(ArrowRight=39, ArrowLeft=37, End=35, Home=36, Tab=9, Enter=13)[key]
                self.devtools('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def complaints(self) -> list[str]:
        """What the console says since the last call."""
        return [entry['message'] for entry in self.command('se/log', type='browser')]

    def requested(self) -> list[str]:
        """What was loaded since the last call, but for data in the page itself."""
        messages = [json.loads(entry['message'])['message'] for entry in self.command('se/log', type='performance')]
        sent = [m['params']['request']['url'] for m in messages if m['method'] == 'Network.requestWillBeSent']
        return [url for url in sent if not url.startswith(('data:', 'chrome'))]

    def screenshot(self, file: Path) -> None:
        """The whole page."""
        shown = self.devtools('Page.captureScreenshot', captureBeyondViewport=True, format='png')
        file.write_bytes(base64.b64decode(shown['data']))

    def pdf(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.devtools('Page.printToPDF', printBackground=True)['data']))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile in an empty folder."""
    port = free_port()
    driver = subprocess.Popen([str(DRIVER), f'--port={port}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = f'http://127.0.0.1:{port}'
    try:
        for _ in range(300):
            try:
                if requests.get(f'{root}/status', timeout=5).json()['value']['ready']:
                    break
            except requests.ConnectionError:
                time.sleep(0.1)
        options = dict(binary=CHROMIUM, args=[*_ARGUMENTS, f'user-data-dir={profile}'])
        logging = dict(browser='ALL', performance='ALL')
        wanted = {'browserName': 'chrome', 'goog:chromeOptions': options, 'goog:loggingPrefs': logging}
        answer = requests.post(f'{root}/session', json=dict(capabilities=dict(alwaysMatch=wanted)), timeout=120).json()
        url = f'{root}/session/{answer["value"]["sessionId"]}'
        yield Browser(url)
        requests.delete(url, timeout=60)
    finally:
        driver.terminate()
        driver.wait(30)

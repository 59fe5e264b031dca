"""Headless Chromium for the tests marked `browser`, driven by its chromedriver.

Two Debian packages, `chromium` and `chromium-driver`: `scripts/test.sh` installs them where it may.
"""

import shutil
from pathlib import Path

from selenium import webdriver

WINDOW_SIZE = (1280, 900)  # pixels
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What works as root, in a container, without sound, network or a person to ask.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--mute-audio", "--hide-scrollbars", "--force-device-scale-factor=1",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip


def find_browser() -> tuple[str, str] | None:
    """Paths of Chromium and of chromedriver; None where one of them is missing."""
    found = [path for path in map(shutil.which, _PROGRAMS) if path]
    driver = shutil.which("chromedriver")
    return (found[0], driver) if found and driver else None


def start_browser(program: str, driver: str, profile_dir: Path) -> webdriver.Chrome:
    """A browser of our own: an empty profile, console messages kept; `quit()` ends it."""
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*_FLAGS, f"--user-data-dir={profile_dir}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    browser.set_page_load_timeout(120)  # seconds
    browser.set_script_timeout(120)
    return browser


def list_page_errors(browser: webdriver.Chrome) -> list[str]:
    """What the console took for errors since the last call: scripts that fail, files not found.

    Not icons: the browser asks for an earlier page's at a time of its own choosing.
    """
    messages = [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
    ]
    return [message for message in messages if "/favicon.ico - " not in message]

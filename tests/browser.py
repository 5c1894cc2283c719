"""A headless Chromium, for tests that look at pages as a reader does."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

MISSING = "needs a browser: apt-get install chromium chromium-driver"
needed = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason=MISSING
)


@contextmanager
def chromium(width: int = 1400, height: int = 1000) -> Iterator:
    """A selenium driver of one window, which ends with the block."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for switch in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars=false",
        f"--window-size={width},{height}",
    ):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()

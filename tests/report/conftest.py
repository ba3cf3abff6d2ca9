"""The browser of tests/support/browser.py."""

from browser import chromium

__all__ = ["chromium"]

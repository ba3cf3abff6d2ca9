"""The guests and SSH servers of tests/support/guest_fixtures.py."""

from guest_fixtures import *  # noqa: F403 - the fixtures of its __all__

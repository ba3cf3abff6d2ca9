"""The guests and SSH servers of tests/support/guest_fixtures.py."""

from guest_fixtures import (
    context,
    events,
    guests,
    machine,
    runner,
    server,
    three,
    told,
    wait_for,
)

__all__ = [
    "context",
    "events",
    "guests",
    "machine",
    "runner",
    "server",
    "three",
    "told",
    "wait_for",
]

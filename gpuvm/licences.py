"""A vSphere licence as a value; the key itself is nobody's business and is never kept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """``expires`` is a date as text, None for one that never does or does not say."""

    name: str
    expires: str | None = None
    expired: bool = False

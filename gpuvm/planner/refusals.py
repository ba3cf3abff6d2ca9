"""Everything that stands in the way, said at once: who mends one thing wants to know the next."""

import contextlib
from collections.abc import Iterator

from gpuvm.errors import GpuvmError, SeveralRefused


class Refusals:
    """Checks run in ``collected()`` blocks of their own; ``check()`` says what they refused."""

    def __init__(self) -> None:
        self._errors: list[GpuvmError] = []

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        try:
            yield
        except GpuvmError as error:
            self._errors.append(error)

    def check(self) -> None:
        """Raises the only one as it is, several as SeveralRefused."""
        once = list({str(error): error for error in self._errors}.values())
        if len(once) > 1:
            raise SeveralRefused(once)
        if once:
            raise once[0]

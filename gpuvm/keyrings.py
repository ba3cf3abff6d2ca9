"""The passwords of accounts in the operating system's keyring.

The library ``keyring`` is imported where a keyring is used, on a thread with a deadline: to find a
backend it tries them all, and one that waits for a desktop which is not there never answers.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import SecretStr

from gpuvm.errors import NoKeyring

SERVICE = "gpuvm"
ANSWER_S = 20.0
"""A person may have to unlock it first."""

Answer = TypeVar("Answer")

_silent: set[str] = set()
"""Why no keyring is used any more: this process waits for an answer only once."""


def backend() -> str:
    """The name of the keyring that is used. Raises NoKeyring."""
    return str(_asked(lambda ring: getattr(ring, "name", type(ring).__name__)))


def read(server: str, user: str) -> SecretStr | None:
    """The password that is kept for this account of this server. Raises NoKeyring."""
    found = _asked(lambda ring: ring.get_password(SERVICE, _entry(server, user)))
    return SecretStr(found) if found else None


def store(server: str, user: str, password: SecretStr) -> None:
    """Keep it, in place of an older one. Raises NoKeyring, also if it is not there afterwards."""
    entry = _entry(server, user)

    def stored(ring: Any) -> bool:
        ring.set_password(SERVICE, entry, password.get_secret_value())
        return bool(ring.get_password(SERVICE, entry) == password.get_secret_value())

    if not _asked(stored):
        raise NoKeyring("the keyring did not keep the password")


def delete(server: str, user: str) -> bool:
    """Whether there was one. Raises NoKeyring."""
    entry = _entry(server, user)

    def deleted(ring: Any) -> bool:
        if ring.get_password(SERVICE, entry) is None:
            return False
        ring.delete_password(SERVICE, entry)
        return True

    return _asked(deleted)


def _entry(server: str, user: str) -> str:
    return f"{user} on {server.lower()}"


def _asked(question: Callable[[Any], Answer]) -> Answer:
    """Ask on a thread that nobody waits for at the end of the process."""
    if _silent:
        raise NoKeyring(*_silent)
    answers: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(question(_ring()))
        except BaseException as error:  # noqa: BLE001 - raised again below
            answers.put(error)

    threading.Thread(target=ask, name="keyring", daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_S)
    except queue.Empty:
        _silent.add(f"the keyring did not answer within {ANSWER_S:g} seconds")
        raise NoKeyring(*_silent) from None
    if isinstance(answer, NoKeyring):
        raise answer
    if isinstance(answer, BaseException):
        reason = " ".join(str(answer).split()) or type(answer).__name__
        raise NoKeyring(f"the keyring refused: {reason}") from None
    return answer


def _ring() -> Any:
    import keyring  # noqa: PLC0415 - with its backends, it takes long to import
    from keyring.backends import fail, null  # noqa: PLC0415

    ring = keyring.get_keyring()
    if isinstance(ring, (fail.Keyring, null.Keyring)):
        raise NoKeyring("this system has no keyring")
    return ring

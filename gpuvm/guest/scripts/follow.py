"""follow DIR OFFSETS: prints what is new in a program's files until it has ended.

OFFSETS is JSON, a byte offset for each file's name. One JSON object a line comes out:
    {"file": "out/stdout.log", "offset": 120, "data": "…"}    bytes up to that offset
    {}                                                         still there, nothing new
    {"exit": 0, "age": 0.1}                                    ended, so many seconds ago
    {"exit": null}                                             gone without leaving a status
Bytes that are not UTF-8 come as lone surrogates (PEP 383).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

CHUNK = 1 << 16
EVERY_S = 0.2
SIGN_OF_LIFE_S = 2.0


def main() -> None:
    os.chdir(sys.argv[1])
    offsets = json.loads(sys.argv[2])
    said = time.monotonic()
    while True:
        # Looked at before the files: what was written until then is read below.
        end = ended()
        news = [name for name in offsets if read_on(name, offsets)]
        if end is not None and not news:
            say(end)
            return
        if news:
            said = time.monotonic()
            continue
        if time.monotonic() - said > SIGN_OF_LIFE_S:
            said = time.monotonic()
            say({})
        time.sleep(EVERY_S)


def ended() -> dict[str, Any] | None:
    status = left_status()
    if status is not None or supervised():
        return status
    return left_status() or {"exit": None}  # it may have ended between the two looks


def left_status() -> dict[str, Any] | None:
    try:
        left = json.loads(Path("exit_status").read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    return {"exit": left["status"], "age": max(0.0, time.time() - left["t"])}


def supervised() -> bool:
    with Path("supervisor.lock").open(encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_on(name: str, offsets: dict[str, int]) -> bool:
    try:
        with Path(name).open("rb") as file:
            file.seek(offsets[name])
            data = file.read(CHUNK)
    except FileNotFoundError:
        return False
    if data:
        offsets[name] += len(data)
        text = data.decode("utf-8", "surrogateescape")
        say({"file": name, "offset": offsets[name], "data": text})
    return bool(data)


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


main()

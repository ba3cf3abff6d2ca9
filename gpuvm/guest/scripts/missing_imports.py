"""missing_imports NAME...: prints the top-level modules that this Python lacks."""

import importlib.util
import sys


def missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except (ImportError, ValueError):
        return True


sys.stdout.write("".join(f"{name}\n" for name in sys.argv[1:] if missing(name)))

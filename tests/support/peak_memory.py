"""The command line; its last line on standard error is the most memory that it had, in kB.

python peak_memory.py run mine/prints.py
"""

import sys
from pathlib import Path


def main() -> None:
    sys.argv[0] = "gpuvm"
    from gpuvm.cli.main import app

    try:
        app()
    finally:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        sys.stderr.write(f"{status.split('VmHWM:')[1].split()[0]}\n")


if __name__ == "__main__":
    main()

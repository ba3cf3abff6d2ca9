"""What check_tensorflow.py says where TensorFlow sees no GPU: the driver's own answer, run.

The driver is a library with the three functions that are called, built here.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuvm.guest import scripts

DRIVER = """
int cuInit(unsigned flags) {{ return {code}; }}
int cuDeviceGetCount(int *count) {{ *count = 1; return 0; }}
int cuGetErrorString(int code, const char **text)
{{ *text = "system not yet initialized"; return 0; }}
"""


def answer(tmp_path: Path, code: int | None) -> str:
    compiler = shutil.which("cc")
    if code is not None:
        if compiler is None:
            pytest.skip("a C compiler is needed")
        source = tmp_path / "driver.c"
        source.write_text(DRIVER.format(code=code))
        library = str(tmp_path / "libcuda.so.1")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(source)], check=True)
    done = subprocess.run(
        [*scripts.command(sys.executable, "check_tensorflow", "GPU")],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    event_log = json.loads(done.stdout.splitlines()[-1])
    assert event_log["device"] == "CPU:0"
    return str(event_log["problem"])


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (802, "the driver reports CUDA error 802, system not yet initialized"),
        (None, "the driver library cannot be loaded (libcuda.so.1: "),
    ],
)
def test_missing_gpu_is_reported_with_the_drivers_answer(
    tmp_path: Path, code: int | None, message: str
) -> None:
    problem = answer(tmp_path, code)
    assert "sees no GPU: " in problem
    assert message in problem

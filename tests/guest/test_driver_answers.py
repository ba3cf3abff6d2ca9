"""What check_tensorflow.py says where TensorFlow sees no GPU: the driver's own answer, run.

The driver is a library of ours with the three functions that are asked, built here.
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
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["device"] == "CPU:0"
    return str(told["problem"])


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (802, "the driver reports CUDA error 802, system not yet initialized"),
        (None, "the driver library cannot be loaded (libcuda.so.1: "),
    ],
)
def test_no_gpu_is_said_with_the_drivers_answer(
    tmp_path: Path, code: int | None, said: str
) -> None:
    problem = answer(tmp_path, code)
    assert "sees no GPU: " in problem
    assert said in problem

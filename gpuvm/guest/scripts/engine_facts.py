"""engine_facts: prints as JSON which requirements of SkyPilot, dstack and Ray the guest meets."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys

TIMEOUT_S = 30


def output_of(*command: str) -> str | None:
    """None when the command is missing, fails or times out."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def os_release() -> dict[str, str]:
    found = {}
    try:
        with open("/etc/os-release", encoding="utf-8") as lines:  # noqa: PTH123 - as old as open
            for line in lines:
                key, _, value = line.strip().partition("=")
                found[key] = value.strip("\"'")
    except OSError:
        pass
    return found


def ray_program() -> str:
    """On the PATH, or beside the Python that has TensorFlow."""
    beside = os.path.join(os.path.dirname(sys.executable), "ray")  # noqa: PTH118, PTH120
    return shutil.which("ray") or (beside if os.access(beside, os.X_OK) else "")


system = os_release()
family = (system.get("ID", "") + " " + system.get("ID_LIKE", "")).split()
ray = ray_program()
sys.stdout.write(
    json.dumps(
        {
            "system": system.get("PRETTY_NAME") or system.get("ID") or platform.system(),
            "debian_like": "debian" in family and shutil.which("apt-get") is not None,
            "systemd": os.path.isdir("/run/systemd/system"),  # noqa: PTH112
            "sudo": output_of("sudo", "-n", "true") is not None,
            "docker": output_of("sudo", "-n", "docker", "info") is not None
            or output_of("docker", "info") is not None,
            "container_toolkit": any(map(shutil.which, ("nvidia-ctk", "nvidia-container-runtime"))),
            "gpu": bool(output_of("nvidia-smi", "-L")),
            "programs": [p for p in ("bash", "curl", "rsync") if shutil.which(p)],
            "ray": ray,
            "ray_version": (output_of(ray, "--version") or "") if ray else "",
        }
    )
    + "\n"
)

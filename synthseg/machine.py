"""The machine: what computes here, by which versions; a run card says so."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from synthseg import METHOD_VERSION
from synthseg.project import plural, project_root

PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "synthseg")
"""Packages whose versions a run card states."""


def commit() -> str | None:
    """The git commit, followed by ``+changes`` if the module or the profiles differ from it."""
    git = ["git", "-C", str(project_root())]
    # Chapters have a fingerprint of their own, and publishing rewrites their outputs.
    asked = "rev-parse --short=12 HEAD", "status --porcelain -- synthseg params"
    try:
        head, changed = (
            subprocess.run(git + words.split(), capture_output=True, text=True, check=True).stdout
            for words in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head.strip()}+changes" if changed else head.strip()


def describe() -> dict[str, Any]:
    """What numbers depend on beside data and parameters, as in a run card."""
    installed = {package: metadata.version(package) for package in PACKAGES}
    return {
        "method_version": METHOD_VERSION,
        "versions": {"python": platform.python_version(), **installed},
        "commit": commit(),
        "device": device(),
    }


def device() -> str:
    """What computes here: graphics cards, or the processor and its number of threads."""
    import tensorflow as tf

    if gpus := tf.config.list_physical_devices("GPU"):
        details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
        return ", ".join(str(detail.get("device_name", "GPU")) for detail in details)
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    extras = [label for flag, label in (("amx_", "AMX"), ("avx512f", "AVX-512")) if flag in text]
    count = int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)) or os.cpu_count() or 1
    return f"{name}{' with ' + ' and '.join(extras) if extras else ''}, {plural(count, 'thread')}"


def peak_memory() -> int | None:
    """Most memory that this process has used, in MiB; None on Windows, which doesn't say."""
    if platform.system() == "Windows":
        return None
    import resource

    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit

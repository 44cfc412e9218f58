"""The machine: what computes here, by which versions; a run card says so."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from synthseg.project import project_root

PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "synthseg")
"""Packages whose versions a run card states."""


def commit() -> str | None:
    """The git commit, followed by ``+changes`` if the module or the profiles differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        # Chapters have a fingerprint of their own, and publishing rewrites their outputs.
        changed = git("status", "--porcelain", "--", "synthseg", "params")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+changes" if changed else head


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    installed = {package: metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **installed}


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
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "0")
    count = int(threads) if int(threads) > 0 else os.cpu_count()
    unit = "thread" if count == 1 else "threads"
    return f"{name}{' with ' + ' and '.join(extras) if extras else ''}, {count} {unit}"


def peak_memory() -> int | None:
    """Most memory that this process has used, in MiB; None where the system doesn't say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit

"""What all tests share: a quiet, single-threaded TensorFlow, and the real data where it exists."""

import os
from pathlib import Path

import matplotlib
import pytest

# Before anything imports TensorFlow.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}.items():
    os.environ.setdefault(name, value)

# Not by MPLBACKEND: the kernels of chapters would inherit it and show no figures.
matplotlib.use("Agg")


@pytest.fixture(scope="session")
def epfl_folder() -> Path:
    """The folder of the four EPFL files; tests that need it are skipped elsewhere."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "epfl"
    folder = Path(os.environ.get("SYNTHSEG_DATA") or beside)
    if not (folder / "training.tif").exists():
        pytest.skip(f"needs the EPFL data: no training.tif in {folder}; set SYNTHSEG_DATA")
    return folder


@pytest.fixture
def bound_by_permissions(tmp_path: Path) -> None:
    """Skip a test where permissions are no obstacle, as to an administrator."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    try:
        (locked / "file").touch()
    except PermissionError:
        return
    pytest.skip("permissions do not bind this user")

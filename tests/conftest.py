"""What several test files share."""

import fcntl
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Before torch is imported, here and in what tests start: threads that wait for a core which other
# threads hold make small nets many times slower.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"  # of the few runs with two threads: sleep, do not spin
WAITING = ("runtime/test_workers", "runs/test_torchrun", "scripts/test_soak")


def pytest_collection_modifyitems(items):
    """Begin with the tests that wait: at the end one process would wait and the others be idle."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in WAITING))


def pytest_collection_finish():
    """Leave what was collected out of garbage collections, which go through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    """Skip the tests of a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.device_count():
            pytest.skip("there is no CUDA device")


@pytest.fixture(scope="session")
def shared_data():
    """The data sets of `../shared/data` (or $NORMBENCH_SHARED), unpacked once and kept."""
    beside = Path(__file__).resolve().parents[2] / "shared/data"
    place = Path(os.environ.get("NORMBENCH_SHARED") or beside)
    if not (place / "unpack").is_file():
        pytest.skip(f"the shared data is not in {place}; set NORMBENCH_SHARED")
    kept = Path(tempfile.gettempdir()) / f"normbench-test-data-{os.getuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    with (kept / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, place / "unpack", kept], check=True, capture_output=True)
    return kept

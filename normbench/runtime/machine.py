"""What this machine is: device, cores, threads, memory allocator, and what of it is recorded."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from normbench import __version__
from normbench.errors import MachineError, counted

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # what torchrun tells each of its processes
WORKERS_PER_CORE = 64  # with more of them they do not even come to meet
NO_MEMORY = ("can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED")
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
)  # of the environment, by which numerical libraries choose their kernels
PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "tensorboard")


def resolve_device(name: str, workers: int = 1) -> str:
    """Return `cpu`, `cuda` or `mps` for a `device` setting and a number of workers.

    Raises: MachineError if there are not so many; nothing is replaced silently.
    """
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return _with_workers("cpu", workers)
    import torch  # here, for commands that train nothing start without it

    there = gpus()
    if name == "auto":
        return _with_workers("cuda" if there else "cpu", workers, there)
    if not (there if name == "cuda" else torch.backends.mps.is_available()):
        raise MachineError(f"device={name}", "this machine has no such device", "device=cpu")
    return _with_workers(name, workers, there)


def _with_workers(device: str, workers: int, there: int = 0) -> str:
    """The device, if it can have so many workers; those of torchrun are torchrun's matter."""
    if workers == 1 or rank_info() is not None:
        return device
    if device == "cuda" and workers > there:
        why = f"this machine has {counted(there, 'CUDA device')}"
        raise MachineError(f"gpus={workers}", why, "device=cpu")
    most = WORKERS_PER_CORE * cores()
    if device == "cpu" and workers > most:
        why = f"is too much for this machine of {cores()} CPU cores"
        raise MachineError(f"gpus={workers}", why, f"gpus={most}")
    if device == "mps" or sys.platform != "linux":
        why = "several workers need Linux, on CPUs or CUDA devices"
        raise MachineError(f"gpus={workers}", why, "gpus=1")
    return device


def check_port(port: int | None) -> None:
    """See to it that workers can meet at a port.

    Raises: MachineError if it is in use.
    """
    if port is None:
        return
    import socket

    with socket.socket() as here:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just been left
        try:
            here.bind(("127.0.0.1", port))
        except OSError as error:
            why = f"cannot be taken ({os.strerror(error.errno or 0).lower()})"
            raise MachineError(f"dist.port={port}", why, "dist.port=null") from None


def cores() -> int:
    """Count the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(threads: int) -> None:
    """Set threads, allocator and GPU arithmetic of this process; call before the first tensor.

    glibc gives large blocks back to the system after each step, and every step then pays page
    faults again. Where the allocator is another one nothing happens. On a GPU, convolutions of
    float32 would by default round their inputs to ten bits (TF32), and sum in an order that
    differs from run to run; neither is what `precision=fp32` and equal bits of equal runs say.
    """
    _keep_memory()
    import torch  # here, for commands that train nothing start without it

    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute by one thread until the block ends.

    So no pool of threads comes to be, which a fork would not carry over, and the last bits do not
    depend on the number of threads.
    """
    import torch  # here, for commands that train nothing start without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send a signal to this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class RankInfo:
    """Which worker of a run this process is, of how many, and which one on this machine."""

    rank: int
    workers: int
    local: int


def rank_info() -> RankInfo | None:
    """Read which worker torchrun made of this process, None if it was not started by torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    rank, workers, local = (int(os.environ[name]) for name in RANK_VARIABLES)
    return RankInfo(rank, workers, local)


def take_device(device: str, number: int) -> None:
    """Let `cuda` mean the device of this number from now on; nothing for other devices."""
    if device == "cuda":
        import torch  # here, for commands that train nothing start without it

        torch.cuda.set_device(number)


def gpus() -> int:
    """Count the CUDA devices, without a context on one where NVIDIA's own library tells."""
    import torch  # here, for commands that train nothing start without it

    return torch.cuda.device_count()


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on the host or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    import torch  # here, for commands that train nothing start without it

    # CUDA's libraries, and CUDA itself before torch's allocator has a say, name no class of it.
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
    )


def environment(device: str, threads: int, workers: int = 1) -> dict[str, Any]:
    """Describe what a run depends on besides its configuration; no names of users or hosts.

    Args: workers: that this process is going to fork; it then keeps off CUDA.
    """
    return {
        "normbench": __version__,
        "source": source_digest(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "device": device,
        "device_name": _device_name(device, workers),
        "threads": threads,
    }


def numerics(device: str) -> dict[str, Any]:
    """Describe what moves the last digits from one machine to another, besides `environment`.

    Sums in another order round otherwise: by the instruction set and the number of threads, by the
    libraries for matrices and convolutions, and by the variables that choose among their kernels.
    """
    import torch  # here, for commands that train nothing start without it

    backends = torch.backends
    on_gpu = device == "cuda"
    return {
        "cpu_capability": backends.cpu.get_cpu_capability(),
        "mkl": backends.mkl.is_available(),  # type: ignore[no-untyped-call]
        "mkldnn": backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "interop_threads": torch.get_num_interop_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": backends.cudnn.version() if on_gpu else None,  # type: ignore[no-untyped-call]
        "cudnn_tf32": backends.cudnn.allow_tf32 if on_gpu else None,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


@cache
def source_digest() -> str:
    """Return the SHA-256 over the names and bytes of the package's Python files."""
    import hashlib

    folder = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def memory_mib() -> float:
    """Return the peak resident memory of this process in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _may_have_gpu() -> bool:
    """Tell whether it is worth importing torch to ask for a GPU."""
    return sys.platform != "linux" or any(
        Path(path).exists()
        for path in ("/dev/nvidiactl", "/dev/kfd", "/proc/driver/nvidia", "/dev/dxg")
    )


def _keep_memory() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(-4, 0)  # M_MMAP_MAX: never map a block of its own
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never give the top of the heap back
    mallopt(-2, 64 * 2**20)  # M_TOP_PAD: grow the heap in large pieces


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _device_name(device: str, workers: int) -> str:
    if device != "cuda":
        return _cpu_model()
    return _gpu_model() if workers == 1 else _told_by_child(_gpu_model)


def _gpu_model() -> str:
    import torch  # here, for commands that train nothing start without it

    return torch.cuda.get_device_name()


def _told_by_child(ask: Callable[[], str]) -> str:
    """What a forked child answers: a process that has asked CUDA itself cannot fork workers."""
    answer, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(end, ask().encode())
        finally:
            os._exit(0)  # no clean-up of what belongs to the parent
    os.close(end)
    with os.fdopen(answer) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text

"""Runs one command under an audit hook that is installed before anything is imported.

    python audited.py LOG WORDS...

Each event of `WATCHED`, and the import of a module called `trap`, becomes one JSON line of the file
LOG, in this process and its forks. The hook itself only writes to a file that is open already.
"""

from __future__ import annotations

import json
import os
import sys

WATCHED = (
    *("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"),
    *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("shutil.rmtree", "socket.bind", "socket.connect", "socket.getaddrinfo", "ctypes.dlopen"),
    "os.chmod",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def watch(log: str) -> None:
    """Install the hook in this process; it cannot be taken away again."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, args: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and bool(args[2] & WRITING)
        trapped = event == "import" and args[0] == "trap"
        if writes or trapped or event in WATCHED:
            texts = [os.fsdecode(arg) if isinstance(arg, bytes) else str(arg) for arg in args]
            os.write(file, json.dumps([event, *texts]).encode() + b"\n")

    sys.addaudithook(hook)


def main() -> None:
    """Watch, and be `normbench`."""
    watch(sys.argv[1])
    sys.argv = ["normbench", *sys.argv[2:]]
    from normbench.cli.main import program

    sys.exit(program())


if __name__ == "__main__":
    main()

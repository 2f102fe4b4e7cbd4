"""A file system that is slow, or answers nothing: `slow_disk.py SOURCE MOUNTED SECONDS [NAME …]` shows a folder so.

A real one, over /dev/fuse (Linux, and who may mount): every look-up and every read of it takes SECONDS, and reads of
files with one of these names never come back, as when a file server has gone. Who waits for one of them is woken by
what ends the process, and by no other signal: so it is with NFS mounted `hard`. It prints a line when it is mounted,
and goes on until it is killed, which wakes all who wait with an error.
"""

import ctypes
import errno
import os
import signal
import stat
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 5, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 25, 26, 27, 28, 29, 36, 42
REQUEST = struct.Struct("<IIQQIIII")
"""Length, operation, number, node, user, group, process, and what nobody uses (fuse_in_header)."""
ATTRIBUTES = struct.Struct("<6Q10I")
DIRECT = 1
LONGEST = 1 << 17
SECONDS_KEPT = 3600
"""For how long the kernel believes what it was told; files do not change here."""


def main() -> None:
    """Mount, and answer."""
    source, mounted, seconds, *dead = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other,max_read={LONGEST}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"slow_disk", mounted.encode(), b"fuse.slow_disk", 0x1 | 0x2, options.encode()):  # read only
        raise OSError(ctypes.get_errno(), "mount")
    disk = SlowDisk(device, Path(source), float(seconds), set(dead))
    print("mounted", flush=True)
    while True:
        try:
            request = os.read(device, LONGEST + 4096)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            if error.errno not in (errno.EINTR, errno.ENOENT):
                raise
            continue
        threading.Thread(target=disk.answer, args=(request,), daemon=True).start()


def ending(thread: int) -> bool:
    """Tell whether SIGKILL waits for a thread, or it is gone: what ends a process is that to each of its threads."""
    try:
        lines = Path(f"/proc/{thread}/status").read_text().splitlines()
    except OSError:
        return True
    return any(line.startswith("SigPnd:") and int(line.split()[1], 16) >> (signal.SIGKILL - 1) & 1 for line in lines)


class SlowDisk:
    """Answers requests; nodes are paths below the source, numbered as they are met, and 1 is the source."""

    def __init__(self, device: int, source: Path, seconds: float, dead: set[str]) -> None:
        self._device, self._seconds, self._dead = device, seconds, dead
        self._paths, self._numbers = [source, source], {source: 1}
        self._lock = threading.Lock()

    def answer(self, request: bytes) -> None:
        """Answer one request, late."""
        _, operation, unique, node, _, _, thread, _ = REQUEST.unpack_from(request)
        body = request[REQUEST.size :]
        if operation in (FORGET, BATCH_FORGET, INTERRUPT):  # want no answer; who is interrupted waits on
            return
        path = self._paths[node] if node < len(self._paths) else None
        if operation == READ and path is not None and path.name in self._dead:
            while not ending(thread):
                time.sleep(0.02)
        if operation in (LOOKUP, READ):
            time.sleep(self._seconds)
        try:
            status, content = 0, self._content(operation, path, body)
        except OSError as error:
            status, content = -(error.errno or errno.EIO), b""
        os.write(self._device, struct.pack("<IiQ", 16 + len(content), status, unique) + content)

    def _content(self, operation: int, path: Any, body: bytes) -> bytes:
        if operation == INIT:
            major, minor, ahead, _ = struct.unpack_from("<IIII", body)
            return struct.pack("<IIIIHHIIHHI7I", major, min(minor, 31), ahead, 0, 64, 48, 4096, 1, 32, 0, *[0] * 8)
        if operation == LOOKUP:
            below = path / os.fsdecode(body.rstrip(b"\0"))
            attributes = self._attributes(below)
            return struct.pack("<QQQQII", self._number(below), 0, SECONDS_KEPT, SECONDS_KEPT, 0, 0) + attributes
        if operation == GETATTR:
            return struct.pack("<QII", SECONDS_KEPT, 0, 0) + self._attributes(path)
        if operation == READLINK:
            return os.fsencode(os.readlink(path))
        if operation in (OPEN, OPENDIR):  # who reads ahead could not even be killed: a dead file is read directly
            return struct.pack("<QII", 0, DIRECT if path.name in self._dead else 0, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            with path.open("rb") as file:
                return os.pread(file.fileno(), size, offset)
        if operation == READDIR:
            return self._listing(path, *struct.unpack_from("<QQI", body)[1:])
        if operation == STATFS:
            return struct.pack("<5Q4I24x", 1, 0, 0, 1, 0, 4096, 255, 4096, 0)
        if operation in (FLUSH, RELEASE, RELEASEDIR):
            return b""
        raise OSError(errno.ENOSYS, "not here")

    def _number(self, path: Path) -> int:
        with self._lock:
            if path not in self._numbers:
                self._numbers[path] = len(self._paths)
                self._paths.append(path)
            return self._numbers[path]

    def _attributes(self, path: Path) -> bytes:
        of = path.lstat()
        times = [int(seconds) for seconds in (of.st_atime, of.st_mtime, of.st_ctime)]
        owner = [of.st_mode, of.st_nlink, of.st_uid, of.st_gid]
        return ATTRIBUTES.pack(self._number(path), of.st_size, of.st_blocks, *times, 0, 0, 0, *owner, 0, 4096, 0)

    def _listing(self, path: Path, offset: int, size: int) -> bytes:
        found = b""
        for place, name in enumerate(sorted(os.listdir(path))[offset:], start=offset + 1):
            encoded = os.fsencode(name)
            kind = stat.S_IFMT((path / name).lstat().st_mode) >> 12
            entry = struct.pack("<QQII", self._number(path / name), place, len(encoded), kind) + encoded
            entry = entry.ljust(-(-len(entry) // 8) * 8, b"\0")
            if len(found) + len(entry) > size:
                break
            found += entry
        return found


if __name__ == "__main__":
    main()

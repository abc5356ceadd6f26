"""
Disks for the power-cut test: loop devices, the recorder's log, and images of what a disk may hold after a power cut.

What a device promises, and all it promises: a write that was done before a flush began survives when the flush has been done. Of
the writes since then any subset may be there, each sector (512 bytes) by itself. Two things are taken as given beyond that:
- A write that was under way when the flush was asked for, and reached the recorder before it, counts as flushed; a filesystem
  waits for the writes it means first.
- A superblock is written whole. ext4 and btrfs check its sum before anything else, and mount nothing when it is torn.
"""
import ctypes
import ctypes.util
import errno
import fcntl
import mmap
import os
import random
import struct
import subprocess
import time
import zlib

SECTOR = 512
HEADER = struct.Struct("=QII")
WRITE, ZERO, DISCARD, FLUSH = b"WZDF"

LOOP_CONFIGURE, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO = 4, 16
FALLOC_PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)


class Unavailable(Exception):
    """The machine does not have what the test needs."""


class Unmountable(Exception):
    """The kernel's filesystem does not take the image."""


def run(*command, quiet=True, timeout=120):
    """(status, what it printed)"""
    p = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout, check=False)
    if not quiet:
        print(f"$ {' '.join(map(str, command))}\n{p.stdout.rstrip()}\n[{p.returncode}]", flush=True)
    return p.returncode, p.stdout


def must(*command):
    status, out = run(*command)
    if status:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {status}: {out.strip()}")
    return out


# ---- loop devices ----

class Loop:
    """A loop device over a file. It frees itself when nobody has it open or mounted any more, whatever happens to us."""

    def __init__(self, path, direct=False):
        info = bytearray(232)  # struct loop_info64
        struct.pack_into("=I", info, 52, LO_FLAGS_AUTOCLEAR | (LO_FLAGS_DIRECT_IO if direct else 0))
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(100):  # someone else may take the free one first
                try:
                    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
                    try:
                        n = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
                    finally:
                        os.close(control)
                    self.path = f"/dev/loop{n}"
                    self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
                except OSError as e:
                    raise Unavailable(f"no loop device: {e}") from None
                try:
                    fcntl.ioctl(self.fd, LOOP_CONFIGURE, struct.pack("=II", fd, 0) + bytes(info) + bytes(64))
                    return
                except OSError as e:
                    os.close(self.fd)
                    if e.errno != errno.EBUSY:
                        raise Unavailable(f"{self.path} cannot be set up: {e}") from None
            raise Unavailable("no loop device is free")
        finally:
            os.close(fd)

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


# ---- the filesystems ----

class Kind:
    """What is to be known of a filesystem."""

    def __init__(self, name, mib, mkfs, fsck, options="", supers=()):
        self.name, self.mib, self.mkfs, self.fsck, self.options = name, mib, mkfs, fsck, options
        self.supers = supers  # where superblocks of 4096 bytes begin

    def make(self, device):
        must(*self.mkfs, device)

    def mount(self, device, where):
        if self.name == "btrfs":
            # It remembers the devices it has seen by UUID, and all images have the same one.
            run("btrfs", "device", "scan", "--forget")
        status, out = run("mount", "-t", self.name, *(["-o", self.options] if self.options else []), device, where)
        if status:
            raise Unmountable(out.strip())


KINDS = {k.name: k for k in (
    Kind("ext4", 256, ["mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=8", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
         ["e2fsck", "-fn"], supers=(0,)),
    Kind("xfs", 300, ["mkfs.xfs", "-q", "-f"], ["xfs_repair", "-n", "-f"], "nouuid"),
    Kind("btrfs", 256, ["mkfs.btrfs", "-q", "-f"], ["btrfs", "check", "--readonly"], supers=(64 << 10, 64 << 20)),
)}


def sync_filesystem(where):
    """This one; sync(2) would wait for all others on the machine."""
    fd = os.open(where, os.O_RDONLY)
    try:
        if libc.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)


def umount(where):
    """All that is mounted there, now."""
    while libc.umount2(os.fsencode(where), 0) == 0:
        pass
    if ctypes.get_errno() == errno.EBUSY:
        status, out = run("fuser", "-vm", where)
        libc.umount2(os.fsencode(where), 2)  # MNT_DETACH
        raise RuntimeError(f"{where} is busy: {out.strip() if status == 0 else ''}")


# ---- recording ----

class Recorder:
    """A disk whose every write is recorded in `log`, as a loop device."""

    def __init__(self, program, log, mib, where, *options):
        os.makedirs(where, exist_ok=True)
        self.loop = None
        self.proc = subprocess.Popen([program, log, str(mib), where, *options], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE)
        if self.proc.stdout.readline() != b"ready\n":
            raise Unavailable(f"the recorder does not start: status {self.proc.wait()}")
        self.position = Position(log)
        self.disk = f"/proc/{self.proc.pid}/root{os.path.join(where, 'disk')}"
        try:
            self.loop = Loop(self.disk, direct=True)
        except BaseException:
            self.close()
            raise

    @property
    def device(self):
        return self.loop.path

    def checksum(self):
        """Of the disk as it is; nothing may be mounted."""
        crc, fd = 0, os.open(self.disk, os.O_RDONLY)
        while True:
            part = os.read(fd, 1 << 20)
            if not part:
                os.close(fd)
                return crc
            crc = zlib.crc32(part, crc)

    def close(self):
        if self.loop:
            self.loop.close()
        self.proc.terminate()
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        self.proc.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


class Position:
    """How many records a recorder has written so far."""

    def __init__(self, log):
        with open(log + ".position", "rb") as f:
            self.map = mmap.mmap(f.fileno(), 8, prot=mmap.PROT_READ)

    def __call__(self):
        return struct.unpack("=Q", self.map[:8])[0]


# ---- the recorded stream ----

class Recording:
    """A recorder's log: kind[i], off[i], len[i], and at[i], where a write's data are in `data`."""

    def __init__(self, log):
        self.kind, self.off, self.len, self.at = bytearray(), [], [], []
        size = os.path.getsize(log)
        with open(log, "rb") as f:
            self.data = mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ) if size else b""
        p = 0
        while p + HEADER.size <= size:
            off, n, kind = HEADER.unpack_from(self.data, p)
            p += HEADER.size
            if kind not in (WRITE, ZERO, DISCARD, FLUSH):
                raise RuntimeError(f"{log}: record {len(self.kind)} has kind {kind}")
            self.kind.append(kind)
            self.off.append(off)
            self.len.append(n)
            self.at.append(p)
            if kind == WRITE:
                p += n
        self.flushes = [i for i, k in enumerate(self.kind) if k == FLUSH]

    def __len__(self):
        return len(self.kind)

    def flushed(self, cut):
        """How many records the last flush before this position covers, itself included."""
        i = self.kind.rfind(FLUSH, 0, cut)
        return i + 1


class Image:
    """A file that records are applied to."""

    def __init__(self, path, size=0):
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if size:
            os.ftruncate(self.fd, 0)
            os.ftruncate(self.fd, size)
        self.size = os.fstat(self.fd).st_size

    def put(self, rec, i, first=0, last=None):
        """Bytes first..last of record i."""
        kind, off, n = rec.kind[i], rec.off[i], rec.len[i]
        if kind == FLUSH:
            return
        last = n if last is None else last
        if kind == WRITE:
            os.pwrite(self.fd, memoryview(rec.data)[rec.at[i] + first:rec.at[i] + last], off + first)
        elif libc.fallocate(self.fd, FALLOC_PUNCH, ctypes.c_long(off + first), ctypes.c_long(last - first)):
            raise OSError(ctypes.get_errno(), "fallocate")

    def copy(self, path):
        """A sparse copy."""
        out = Image(path, self.size)
        at = 0
        while True:
            try:
                at = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError as e:
                if e.errno != errno.ENXIO:
                    raise
                return out
            end = os.lseek(self.fd, at, os.SEEK_HOLE)
            while at < end:
                part = os.pread(self.fd, min(end - at, 1 << 20), at)
                at += os.pwrite(out.fd, part, at)

    def checksum(self):
        crc, at = 0, 0
        while at < self.size:
            part = os.pread(self.fd, 1 << 20, at)
            crc = zlib.crc32(part, crc)
            at += len(part)
        return crc

    def close(self):
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


class Cut:
    """
    A power cut: after `cut` records; of the writes since the last flush before it, `keep` percent are there, and with
    grain 512 some of the others in part. Its text form is CUT.KEEP.GRAIN.SEED.
    """

    def __init__(self, cut, keep=0, grain=0, seed=0):
        self.cut, self.keep, self.grain, self.seed = cut, keep, grain, seed

    @classmethod
    def parse(cls, text):
        return cls(*map(int, text.split(".")))

    def __str__(self):
        return f"{self.cut}.{self.keep}.{self.grain}.{self.seed}"

    def apply(self, rec, image, supers):
        """To an image that holds all that was flushed before the cut. Returns (kept, torn, lost)."""
        rng = random.Random(self.seed)
        kept = torn = lost = 0
        for i in range(rec.flushed(self.cut), self.cut):
            whole = rng.random() * 100 < self.keep
            part = rng.random() < 0.5
            if whole:
                image.put(rec, i)
                kept += 1
            elif self.keep and self.grain and part and rec.kind[i] != DISCARD and rec.len[i] > self.grain:
                self._tear(rec, i, image, rng, supers)
                torn += 1
            else:
                lost += 1
        return kept, torn, lost

    def _tear(self, rec, i, image, rng, supers):
        off, n = rec.off[i], rec.len[i]
        ends = [p for p in range(self.grain, n, self.grain) if not any(0 < off + p - s < 4096 for s in supers)] + [n]
        pieces = list(zip([0] + ends, ends))
        if rng.random() < 0.5:
            mine = pieces[:rng.randrange(len(pieces))]
        else:
            mine = [p for p in pieces if rng.random() < 0.5]
        for first, last in mine:
            image.put(rec, i, first, last)


class Base:
    """An image that moves forward along a recording, to take copies from."""

    def __init__(self, rec, path, size, supers):
        self.rec, self.done, self.image, self.supers = rec, 0, Image(path, size), supers

    def forward(self, to):
        if to < self.done:
            raise ValueError("images are made in order")
        for i in range(self.done, to):
            self.image.put(self.rec, i)
        self.done = to

    def make(self, cut, path):
        """The image of a cut; (Image, kept, torn, lost)."""
        self.forward(self.rec.flushed(cut.cut))
        image = self.image.copy(path)
        return (image, *cut.apply(self.rec, image, self.supers))


# ---- is the device honest? ----

def honest(program, scratch, *options):
    """
    Does every flush that the device's user asks for reach the recorder, behind the writes before it? Also one that is asked for
    as part of a write (FUA). None, or what is wrong.
    """
    log = os.path.join(scratch, "honest.log")
    block = mmap.mmap(-1, 4096)
    block.write(b"x" * 4096)
    with Recorder(program, log, 8, os.path.join(scratch, "honest"), *options) as r:
        fd = os.open(r.device, os.O_RDWR | os.O_DIRECT)
        for i in range(20):
            os.pwritev(fd, [block], 8192 * i)
            os.fsync(fd)
            os.pwritev(fd, [block], 8192 * i + 4096, os.RWF_DSYNC)
        os.close(fd)
        at = r.position()
    rec = Recording(log)
    if at > len(rec):
        return f"the log has {len(rec)} records, the position is {at}"
    for i in range(40):
        where = [k for k in range(len(rec)) if rec.kind[k] == WRITE and rec.off[k] == 4096 * i]
        if len(where) != 1:
            return f"write {i} was recorded {len(where)} times"
        if rec.kind[where[0] + 1:where[0] + 2] != b"F":
            return f"there is no flush behind write {i}"
    return None

"""System calls that the os module of Python 3.11 lacks, by way of ctypes."""
import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
AT_SYMLINK_NOFOLLOW = 0x100
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
FALLOC_COLLAPSE_RANGE = 8
FALLOC_ZERO_RANGE = 16
FALLOC_INSERT_RANGE = 32
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
MNT_FORCE = 1
MNT_DETACH = 2
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
CLONE_NEWNS = 0x20000
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _call(name, *args):
    """Call a libc function; -1 becomes an OSError. Integers are passed as 64-bit, str as bytes."""
    conv = []
    for a in args:
        if isinstance(a, str):
            a = os.fsencode(a)
        conv.append(ctypes.c_long(a) if isinstance(a, int) else a)
    fn = getattr(_libc, name)
    fn.restype = ctypes.c_long
    ctypes.set_errno(0)
    r = fn(*conv)
    if ctypes.c_int(r).value == -1:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return r


def fallocate(fd, mode, off, length):
    _call("fallocate", fd, mode, off, length)


def renameat2(old, new, flags):
    _call("renameat2", AT_FDCWD, old, AT_FDCWD, new, flags)


def linkat(old, new, flags):
    _call("linkat", AT_FDCWD, old, AT_FDCWD, new, flags)


def utimensat(path, atime, mtime, flags=0):
    """Times are (seconds, nanoseconds); nanoseconds may be UTIME_NOW or UTIME_OMIT."""
    ts = struct.pack("qqqq", atime[0], atime[1], mtime[0], mtime[1])
    _call("utimensat", AT_FDCWD, path, ctypes.c_char_p(ts), flags)


def mount(src, dst, fstype, flags=0, data=""):
    _call("mount", src, dst, fstype, flags, data)


def unshare(flags):
    _call("unshare", flags)


def umount2(path, flags=0):
    _call("umount2", path, flags)


def prctl(option, arg):
    _call("prctl", option, arg, 0, 0, 0)




class Dir:
    """A directory stream with telldir and seekdir."""

    def __init__(self, path):
        _libc.opendir.restype = ctypes.c_void_p
        self.d = _libc.opendir(os.fsencode(path))
        if not self.d:
            e = ctypes.get_errno()
            raise OSError(e, os.strerror(e), path)

    def read(self):
        """The next name as bytes, None at the end."""
        _libc.readdir64.restype = ctypes.c_void_p
        ctypes.set_errno(0)
        p = _libc.readdir64(ctypes.c_void_p(self.d))
        if not p:
            e = ctypes.get_errno()
            if e:
                raise OSError(e, os.strerror(e))
            return None
        return ctypes.string_at(p + 19)  # struct dirent64: ino 8, off 8, reclen 2, type 1, name

    def tell(self):
        _libc.telldir.restype = ctypes.c_long
        return _libc.telldir(ctypes.c_void_p(self.d))

    def seek(self, pos):
        _libc.seekdir(ctypes.c_void_p(self.d), ctypes.c_long(pos))

    def close(self):
        if self.d:
            _libc.closedir(ctypes.c_void_p(self.d))
            self.d = None

"""What the tests of membership need from the kernel: pid namespaces, chosen pids, forbidden system calls."""
import ctypes
import os
import pickle
import platform
import struct

import sysc
from harness import Failure, Skip

CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
UNSHARE = {"x86_64": 272, "aarch64": 97}


def setns(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        sysc._call("setns", fd, 0)
    finally:
        os.close(fd)


def in_pid_namespace(fn, *args):
    """
    fn(*args) as process 1 of a pid namespace, with a /proc and mounts of its own; its value or exception comes back,
    and all processes that it leaves are killed.
    """
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            sysc.unshare(CLONE_NEWPID | sysc.CLONE_NEWNS)
            sysc.mount("none", "/", "none", sysc.MS_REC | sysc.MS_PRIVATE)
            inner = os.fork()
            if inner:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xff)
            try:
                sysc.mount("proc", "/proc", "proc")
                out = (True, fn(*args))
            except BaseException as e:
                out = (False, e)
        except BaseException as e:
            out = (False, e)
        try:
            with os.fdopen(w, "wb") as f:
                f.write(pickle.dumps(out))
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        data = f.read()
    os.waitpid(pid, 0)
    if not data:
        raise Failure("the process in the pid namespace died without an answer")
    ok, value = pickle.loads(data)
    if ok:
        return value
    raise value


def fork_as(pid):
    """fork, where the child's id in this namespace is to be pid, which must be free."""
    try:
        with open("/proc/sys/kernel/ns_last_pid", "w") as f:
            f.write(str(pid - 1))
    except OSError as e:
        raise Skip(f"pids cannot be chosen here: {e}") from None
    return os.fork()


def map_root():
    """In a new user namespace: be root in it, whoever that is outside."""
    uid, gid = os.getuid(), os.getgid()
    sysc.unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)


def forbid_unshare():
    """From now on unshare(2) is EPERM for this process and its children, as in a container's usual sandbox."""
    nr = UNSHARE.get(platform.machine())
    if nr is None:
        raise Skip(f"the number of unshare on {platform.machine()} is not known here")
    code = [(0x20, 0, 0, 0),             # load the number
            (0x15, 0, 1, nr),            # unshare?
            (0x06, 0, 0, 0x00050000 | 1),  # EPERM
            (0x06, 0, 0, 0x7fff0000)]    # allowed
    raw = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *c) for c in code))
    prog = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(raw)))
    sysc.prctl(PR_SET_NO_NEW_PRIVS, 1)
    sysc._call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(prog)))

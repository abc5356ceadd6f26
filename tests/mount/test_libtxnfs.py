"""libtxnfs, the library for programs in C: its calls on real mounts, and what `cmake --install` leaves of it."""
import os
import re
import shutil
import subprocess

from harness import OPT, TROUBLE, Failure, Skip, check, equal, exists, ls, patience, quick, read, wait_until, write
from scenes import bank

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def program(name="libtxnfs_client"):
    path = os.path.join(os.path.dirname(OPT.txnfs), "tests", name)
    if not os.access(path, os.X_OK):
        raise Failure(f"no program at {path}: build it")
    return path


def client(case, mnt, *args, seconds=60, **kw):
    p = subprocess.run([program(), case, mnt, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                       stdin=subprocess.DEVNULL, timeout=patience(seconds), errors="replace", **kw)
    check(p.returncode == 0 and not any(m in p.stdout for m in TROUBLE), f"{case}: exit {p.returncode}:\n{p.stdout}")


def test_ambient(t):
    client("ambient", t.mount().mnt)


@quick
def test_named(t):
    m = t.mount()
    client("named", m.mnt)
    equal([n for n in ls(m(".txn")) if n not in ("ctl", "status", "transactions", "prepared")], [])


def test_options(t):
    m = t.mount()
    client("options", m.mnt)
    wait_until(lambda: not exists(m(".txn/mine")), 10, "the rollback for an owner that has ended")
    check(not exists(m("g")), "rolled back")


def test_prepared(t):
    client("prepared", t.mount().mnt)


@quick
def test_threads(t):
    client("threads", t.mount().mnt)


def test_signals(t):
    client("signals", t.mount().mnt)


def test_control_name(t):
    m = t.mount(options="control=.ctl")
    client("named", m.mnt, env={**os.environ, "TXNFS_CONTROL": ".ctl"})
    client("nothing", m.mnt)


def test_no_mount(t):
    client("nothing", t.tmp())


def test_mount_goes_and_comes(t):
    m = t.mount()
    p = subprocess.Popen([program(), "gone", m.mnt], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True)

    def step(word):
        line = p.stdout.readline()
        if line != word + "\n":
            raise Failure(f"the client did not say {word}: {line}{p.stdout.read()}")

    def go():
        p.stdin.write("go\n")
        p.stdin.flush()

    step("open")
    m.kill9(detach=False)
    go()
    step("killed")
    m.detach()
    go()
    step("unmounted")
    m.start()
    go()
    rest, _ = p.communicate(timeout=patience(20))
    equal(p.returncode, 0, rest)
    equal(read(m("f")), b"2")


# ---- as it is installed ----

def installed(t):
    """cmake --install of this build into a scratch DESTDIR; its prefix in there."""
    build = os.path.dirname(OPT.txnfs)
    if not shutil.which("cmake"):
        raise Skip("no cmake")
    dest = t.path("dest")
    p = subprocess.run(["cmake", "--install", build, "--prefix", "/opt/txnfs"], env={**os.environ, "DESTDIR": dest},
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    equal(p.returncode, 0, p.stdout)
    return dest, dest + "/opt/txnfs"


def pkg_config(dest, prefix, *args):
    """Flags for what is installed there: the file is the same wherever it comes to lie."""
    found = [os.path.join(d, f) for d, _, files in os.walk(prefix) for f in files if f == args[-1] + ".pc"]
    equal(len(found), 1)
    text = read(found[0]).decode()
    check(dest not in text and os.path.dirname(OPT.txnfs) not in text, "the file speaks of no place on this machine:", text)
    env = {**os.environ, "PKG_CONFIG_LIBDIR": os.path.dirname(found[0])}
    return subprocess.run(["pkg-config", *args], env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def manual_example(name):
    """The C program of a manual page, as man would show it."""
    page = read(os.path.join(ROOT, "tools/man", name)).decode()
    found = re.search(r"^\.RS\n(#include.*?)^\.RE", page, re.M | re.S)[1]
    return found.replace("\\e", "\\").replace("\\-", "-").replace("\\&", "")


def readme_example(header):
    for block in re.findall(r"^```c\n(.*?)^```", read(os.path.join(ROOT, "README.md")).decode(), re.M | re.S):
        if f"#include <{header}>" in block:
            return block
    raise Failure(f"no example with {header} in README.md")


def sanitized():
    program_text = read(OPT.txnfs)
    return b"__asan_init" in program_text or b"__tsan_init" in program_text


def compile_example(t, name, text, flags):
    source, out = t.path(name + ".c"), t.path(name)
    write(source, text)
    p = subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", source, "-o", out, *flags],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    equal(p.returncode, 0, p.stdout)
    return out


def needed(path):
    """What a program or library is linked with."""
    text = subprocess.run(["readelf", "-d", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", text), re.findall(r"\(SONAME\).*\[(.*)\]", text)


def exports(path):
    text = subprocess.run(["nm", "-D", "--defined-only", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[2].split("@")[0] for line in text.splitlines() if line.split()[1] != "A"}


def declared(header):
    text = re.sub(r"/\*.*?\*/", "", read(os.path.join(ROOT, "tools/lib", header)).decode(), flags=re.S)
    return set(re.findall(r"\b(txnfs_[a-z_]+)\(", text))


def test_installed(t):
    """The examples, compiled as a stranger would do it, shared and static."""
    if sanitized():
        raise Skip("the sanitizers' libraries would have to be linked too")
    dest, prefix = installed(t)
    libdir = os.path.dirname(next(os.path.join(d, f) for d, _, fs in os.walk(prefix) for f in fs if f == "libtxnfs.so"))
    library = os.path.join(libdir, "libtxnfs.so")
    libraries, soname = needed(library)
    equal(soname, ["libtxnfs.so.0"])
    check(all(n.startswith(("libc.so", "ld-linux")) for n in libraries), "no dependency but libc:", libraries)
    equal(exports(library), declared("txnfs.h"))
    check(exists(prefix + "/share/man/man3/libtxnfs.3"), "the manual page")
    flags = pkg_config(dest, prefix, "--cflags", "--libs", "libtxnfs")
    static = ["-static", *pkg_config(dest, prefix, "--static", "--cflags", "--libs", "libtxnfs")]
    m = bank(t)
    for name, text in (("manual", manual_example("libtxnfs.3")), ("readme", readme_example("txnfs.h"))):
        for kind, how in ("shared", flags), ("static", static):
            write(m("account_a"), "100\n")
            write(m("account_b"), "200\n")
            out = compile_example(t, f"{name}-{kind}", text, how)
            equal("libtxnfs.so.0" in needed(out)[0], kind == "shared")
            p = subprocess.run([out, m.mnt], env={**os.environ, "LD_LIBRARY_PATH": libdir}, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
            equal(p.returncode, 0, p.stdout)
            equal(read(m("account_a")), b"70\n")
            equal(read(m("account_b")), b"230\n")

"""How many transactions, how long, how much log; the list of those that are open; ending someone else's."""
import errno
import json
import os
import time
import subprocess

from harness import check, ctl, equal, expect, needs_root, quick, read, tool, wait_until, write


def listed(mnt):
    lines = read(mnt + "/.txn/transactions").decode().splitlines()
    names = lines[0].split("\t")
    return {int(x.split("\t")[0]): dict(zip(names, x.split("\t"))) for x in lines[1:]}


@quick
def test_the_list_and_ending_from_anywhere(t):
    m = t.mount()
    write(m("f"), "old")
    equal(listed(m.mnt), {})
    a = t.actor()
    a(ctl, m.mnt, "begin backup")
    a(write, m("f"), "new")
    n = m.named("deploy")
    write(n.root + "/g", "x")
    b = t.actor()
    b.start(write, n.root + "/f", "mine")
    wait_until(lambda: "waiting: 1" in read(m(".txn/status")).decode(), 30, "the wait")
    rows = listed(m.mnt)
    equal([(r["kind"], r["name"], r["uid"]) for r in rows.values()],
          [("ambient", "backup", str(os.getuid())), ("named", "deploy", str(os.getuid()))])
    first, second = rows
    equal((rows[first]["owner"], rows[second]["owner"]), (str(a.pid), "-"))
    check(int(rows[first]["operations"]) > 0 and int(rows[first]["log_bytes"]) > 0, rows[first])
    equal((rows[first]["waits_for"], rows[second]["waits_for"]), ("-", str(first)))
    s = json.loads(tool("status", "--json", m.mnt).stdout)
    equal([(x["number"], x["name"], x["waits_for"]) for x in s["transactions"]],
          [(first, "backup", None), (second, "deploy", str(first))])
    check("deploy" in tool("status", m.mnt).stdout)
    # From a process that has nothing to do with it.
    tool("rollback", m.mnt, "--id", first)
    b.result()
    equal(a(read, m("f")), b"old", "the committed view")
    line = a(read, m(".txn/ctl")).decode()
    check("was rolled back" in line and "ENOTCONN" in line and "no transaction" in line, line)
    expect(errno.ENOTCONN, a, os.write, a(os.open, m(".txn/ctl"), os.O_WRONLY), b"commit")
    expect(errno.ENOENT, ctl, m.mnt, f"rollback transaction {first}")
    ctl(m.mnt, f"rollback transaction {second}")
    equal(listed(m.mnt), {})
    equal(read(m("f")), b"old")


@quick
@needs_root
def test_others_see_and_end_only_their_own(t):
    m = t.mount(options="allow_other,max_transactions=2")
    os.chmod(m.mnt, 0o777)
    a = t.actor(uid=1000)
    b = t.actor(uid=1001)
    a(os.mkdir, m(".txn/a"))
    b(os.mkdir, m(".txn/b"))
    numbers = {r["name"]: n for n, r in listed(m.mnt).items()}
    equal(sorted(numbers), ["a", "b"])
    equal([r["name"] for r in a(listed, m.mnt).values()], ["a"])
    expect(errno.EACCES, a, ctl, m.mnt, f"rollback transaction {numbers['b']}")
    # Two each, but root.
    a(ctl, m.mnt, "begin")
    expect(errno.EUSERS, a, os.mkdir, m(".txn/a3"))
    check("max_transactions" in a(read, m(".txn/ctl")).decode())
    b(os.mkdir, m(".txn/b2"))
    for i in range(5):
        os.mkdir(m(f".txn/root{i}"))
    a(ctl, m.mnt, f"rollback transaction {numbers['a']}")
    a(os.mkdir, m(".txn/a3"))
    ctl(m.mnt, f"rollback transaction {numbers['b']}")


@quick
def test_idle_ones_are_rolled_back(t):
    m = t.mount(options="idle_timeout=1,lock_timeout=100")
    write(m("f"), "old")
    write(m("g"), "old")
    idle, busy = t.actor(), m.named("busy")
    idle(ctl, m.mnt, "begin")
    idle(write, m("f"), "new")
    m.named("forgotten")

    def use():
        write(busy.root + "/g", "new")
        return [r["name"] for r in listed(m.mnt).values()] == ["busy"]
    wait_until(use, 30, "the end of what nobody uses")
    equal(read(m("f")), b"old")
    line = idle(read, m(".txn/ctl")).decode()
    check("nobody has used it" in line, line)
    # One that waits for another is not idle.
    w = m.named("waiting")
    b = t.actor()
    b.start(write, w.root + "/g", "mine")
    began = time.monotonic()
    while time.monotonic() - began < 2:
        write(busy.root + "/h", "x")
    check("waiting" in [r["name"] for r in listed(m.mnt).values()], listed(m.mnt))
    busy.ctl("commit")
    b.result()
    w.ctl("commit")
    equal(read(m("g")), b"mine")


@quick
def test_log_space(t):
    m = t.mount(options="max_log=1")
    n, other = m.named("n"), m.named("other")
    write(n.root + "/a", b"x" * 600000)
    expect(errno.EDQUOT, write, n.root + "/b", b"y" * 600000)
    expect(errno.EDQUOT, write, other.root + "/c", b"y" * 600000)
    write(m("plain"), b"z" * 3000000)  # nobody's business
    n.ctl("commit")
    m.tool("status", m.mnt)

    def room():
        try:
            write(other.root + "/c", b"y" * 600000)
            return True
        except OSError as e:
            equal(e.errno, errno.EDQUOT)
            return False
    wait_until(room, 20, "room, once it is installed")
    other.rollback()
    equal(os.stat(m("a")).st_size, 600000)
    write(m.named("again").root + "/d", b"y" * 600000)

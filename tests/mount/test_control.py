"""The control files: what they say, what they refuse, savepoints, and whose transaction it is."""
import errno
import os

from harness import (NOBODY, append, check, ctl, ctl_refused, equal, exists, expect, in_child, ls, needs_root, quick,
                     read, same_tree, snapshot, tool, write)
from scenes import balances, bank, ctl_refused_in, sh


# ---- what the control files say ----

@quick
def test_changes_lists_each_change(t):
    m = t.mount()
    os.mkdir(m("d"))
    for f in ("mod", "del", "ren", "props", "d/in"):
        write(m(f), f)
    n = m.named("n")
    equal(n.changes(), [], "nothing yet")
    write(n("mod"), "changed")
    os.unlink(n("del"))
    os.rename(n("ren"), n("ren2"))
    os.chmod(n("props"), 0o600)
    write(n("new"), "new")
    os.mkdir(n("newdir"))
    write(n("newdir/x"), "x")
    write(n("gone"), "x")
    os.unlink(n("gone"))
    equal(sorted(n.changes()), sorted(["M mod", "D del", "R ren\tren2", "P props", "A new", "A newdir",
                                       "A newdir/x"]))
    n.ctl("savepoint s")
    write(n("d/in"), "changed too")
    check("M d/in" in n.changes(), n.changes())
    n.ctl("rollback to s")
    check("M d/in" not in n.changes(), "undone by rollback to:", n.changes())


def test_changes_quotes_odd_names(t):
    m = t.mount()
    n = m.named("n")
    write(n("two\nlines"), "")
    write(n('quo"te'), "")
    write(n("plain name"), "")
    equal(sorted(n.changes()), sorted(['A "two\\nlines"', 'A "quo\\"te"', "A plain name"]))


def test_status_tells(t):
    m = bank(t)
    n = m.named("n")
    write(n("account_a"), "1")
    n.ctl("savepoint here")
    text = n.status()
    for line in text.splitlines():
        check(": " in line or line.endswith(":"), "status has `key: value` lines:", line)
    check("active" in text.lower(), text)
    p = tool("status", m.mnt)
    check("n" in p.stdout, p.stdout)


@quick
def test_ctl_answers_on_the_same_descriptor(t):
    m = bank(t)

    def body(path):
        out = []
        fd = os.open(path, os.O_RDWR)
        for cmd in (b"begin\n", b"nonsense\n", b"rollback\n"):
            try:
                os.write(fd, cmd)
            except OSError as e:
                out.append(errno.errorcode[e.errno])
            out.append(os.pread(fd, 4096, 0).decode())
        os.close(fd)
        return out

    out = t.actor()(body, m(".txn/ctl"))
    equal(len(out), 4, "one refusal")
    equal(out[1], "EINVAL")
    check(out[2] and "nonsense" in out[2], "the line names the word that is wrong:", out)
    for line in (out[0], out[2], out[3]):
        check(line.endswith("\n") and len(line) > 4, out)


def test_ctl_can_be_read_by_a_shell(t):
    m = bank(t)
    out = sh("""exec 3<>"$1"/.txn/ctl; echo begin >&3; read -r a <&3; echo nonsense >&3 2>/dev/null; read -r b <&3
        echo rollback >&3; read -r c <&3; printf '%s\\n' "$a" "$b" "$c" """, m.mnt)
    lines = out.splitlines()
    equal(len(lines), 3)
    check(all(lines) and "nonsense" in lines[1], out)


def test_ctl_keeps_the_last_line_per_process(t):
    m = bank(t)
    a, b = t.actor(), t.actor()
    a(ctl, m.mnt, "begin")
    try:
        b(ctl, m.mnt, "commit")
    except OSError:
        pass
    la, lb = a(read, m(".txn/ctl")).decode(), b(read, m(".txn/ctl")).decode()
    check(la != lb, "each process has its own last line:", la, lb)
    check("ENOTCONN" in lb or "error" in lb.lower(), "what went wrong:", lb)
    a(ctl, m.mnt, "rollback")


@quick
def test_several_commands_in_one_write(t):
    m = bank(t)
    n = m.named("n")
    write(n("account_a"), "1")
    n.ctl("SavePoint one; savepoint two\nRELEASE two;\n")
    write(n("account_a"), "2")
    n.ctl("ROLLBACK TO one; Commit")
    equal(balances(m.mnt), (b"1", b"200"))


def test_a_failed_command_stops_the_rest(t):
    m = bank(t)
    n = m.named("n")
    write(n("account_a"), "1")
    ctl_refused(errno.ENOENT, m.mnt, "savepoint s; rollback to nowhere; commit", "n")
    equal(balances(m.mnt), (b"100", b"200"), "commit was not run")
    n.ctl("rollback to s; commit")
    equal(balances(m.mnt), (b"1", b"200"))


# ---- savepoints ----

@quick
def test_savepoint_names_may_repeat(t):
    """As in SQLite: the newest wins, rollback to keeps it, release removes it and all after it."""
    m = t.mount()
    n = m.named("n")
    for v in "12":
        write(n("f"), v)
        n.ctl("savepoint s")
    write(n("f"), "3")
    n.ctl("rollback to s")
    equal(read(n("f")), b"2")
    write(n("f"), "4")
    n.ctl("rollback to s")
    equal(read(n("f")), b"2", "rollback to keeps the savepoint")
    n.ctl("release s")
    write(n("f"), "5")
    n.ctl("rollback to s")
    equal(read(n("f")), b"1", "then the older one of that name")
    n.ctl("savepoint a; savepoint b; release a")
    ctl_refused(errno.ENOENT, m.mnt, "rollback to b", "n")
    ctl_refused(errno.ENOENT, m.mnt, "release b", "n")
    write(n("f"), "6")
    n.ctl("rollback to s; commit")
    equal(read(m("f")), b"1")


def test_savepoints_undo_every_kind_of_change(t):
    m = t.mount()
    os.makedirs(m("d/e"))
    write(m("d/e/f"), "f")
    write(m("g"), "g" * 10000)
    n = m.named("n")
    write(n("g"), "G")
    os.mkdir(n("made"))
    states = [snapshot(n.root)]
    steps = [
        lambda: os.rename(n("d/e"), n("made/e")),
        lambda: os.unlink(n("made/e/f")),
        lambda: os.link(n("g"), n("g2")),
        lambda: append(n("g2"), "more" * 1000),
        lambda: os.truncate(n("g"), 5),
        lambda: os.setxattr(n("g"), "user.x", b"1"),
        lambda: os.utime(n("g"), (1000, 2000)),
        lambda: os.symlink("g", n("link")),
        lambda: os.chown(n("g"), 12, 34) if os.geteuid() == 0 else None,
        lambda: os.rmdir(n("made/e")),
    ]
    for i, step in enumerate(steps):
        n.ctl(f"savepoint s{i}")
        step()
        states.append(snapshot(n.root))
    for i in range(len(steps) - 1, -1, -1):
        n.ctl(f"rollback to s{i}")
        same_tree(snapshot(n.root), states[i], f"after rollback to s{i}")
    n.ctl("commit")
    same_tree(snapshot(m.mnt), states[0], "after commit")


# ---- refused ----

@quick
def test_commands_outside_a_transaction(t):
    m = bank(t)
    for cmd in ("commit", "rollback", "savepoint s", "rollback to s", "release s"):
        ctl_refused(errno.ENOTCONN, m.mnt, cmd)


@quick
def test_begin_twice(t):
    m = bank(t)
    a = t.actor()
    a(ctl, m.mnt, "begin")
    line = ctl_refused_in(a, (errno.EALREADY,), m, "begin")
    check("savepoint" in line, "the line says to use a savepoint:", line)
    a(write, m("account_a"), "1")
    a(ctl, m.mnt, "commit")
    equal(read(m("account_a")), b"1", "the transaction went on")


@quick
def test_unknown_savepoint(t):
    m = bank(t)
    a = t.actor()
    a(ctl, m.mnt, "begin; savepoint known")
    a(write, m("account_a"), "1")
    for cmd in ("rollback to unknown", "release unknown", 'rollback to "kno"'):
        line = ctl_refused_in(a, (errno.ENOENT,), m, cmd)
        check("kno" in line, "the line names it:", line)
    equal(a(read, m("account_a")), b"1", "nothing changed")
    a(ctl, m.mnt, "commit")


BAD = [b"nonsense", b"begin begin begin", b"savepoint", b"rollback to", b"release", b"commit now please",
       b"savepoint a b c", b"\xff\xfe\x80\x81", b"\0\0\0\0", b"begin\0", b"savepoint \x01\x02",
       b"begin isolation sometimes", b"begin timeout never", b"begin owner me", b"begin timeout -1",
       b'savepoint "open', b"\x7fELF\x02\x01\x01\0\0\0\0"]


@quick
def test_malformed_commands(t):
    m = bank(t)
    m.named("n")
    for bad in BAD:
        for tx in (None, "n"):
            ctl_refused((errno.EINVAL,), m.mnt, bad, tx)
    check(tool("status", m.mnt).returncode == 0)
    equal(ls(m(".txn/n/root")), ["account_a", "account_b"])


@quick
def test_huge_and_empty_commands(t):
    m = bank(t)
    m.named("n")
    for tx in (None, "n"):
        for bad in (b"x" * (1 << 20), b"savepoint s;" * 90000, b"\0" * (1 << 20), os.urandom(1 << 20),
                    b"savepoint " + b"n" * 70000):
            e = expect((errno.EINVAL, errno.E2BIG, errno.EMSGSIZE, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTCONN),
                       ctl, m.mnt, bad, tx)
            check(e.line.strip(), "a readable line")
        for empty in (b"", b"\n", b" ;; \n;\t\n", b"# a comment\n"):
            try:
                ctl(m.mnt, empty, tx)
            except OSError as e:
                check(e.errno == errno.EINVAL, f"{empty!r}: ", e)
    expect((errno.EINVAL, errno.ENAMETOOLONG), ctl, m.mnt, "savepoint " + "n" * 256, "n")
    ctl(m.mnt, "savepoint " + "n" * 255, "n")
    ctl(m.mnt, "rollback to " + "n" * 255, "n")
    ctl(m.mnt, 'savepoint "with blanks; and \'quotes\'"', "n")
    ctl(m.mnt, 'rollback to "with blanks; and \'quotes\'"', "n")


def test_random_commands(t):
    """Grammar's words in random order never harm: every write is taken or refused with a line."""
    m = bank(t)
    m.named("n")
    words = ["begin", "rollback", "to", "savepoint", "release", "prepare", "a", "b", ";", "\n", '"', "isolation",
             "timeout", "owner", "1", "-1", "transaction", "work", "prepared", "#", "\x00", "é", "9" * 30]
    for _ in range(600):
        text = " ".join(t.rng.choice(words) for _ in range(t.rng.randrange(1, 8)))
        try:
            ctl(m.mnt, text, "n" if exists(m(".txn/n")) else None)
        except OSError as e:
            check(getattr(e, "line", "x").strip(), f"{text!r}: no line")
        if not exists(m(".txn/n")):
            m.named("n")
    equal(balances(m.mnt), (b"100", b"200"))


@quick
@needs_root
def test_another_users_transaction(t):
    m = bank(t)
    os.chmod(m("account_a"), 0o666)
    n = m.named("roots")
    write(n("account_a"), "1")

    def stranger(path, tx):
        expect(errno.EACCES, ctl, path, "commit", tx)
        expect(errno.EACCES, ctl, path, "rollback", tx)
        expect(errno.EACCES, os.listdir, f"{path}/.txn/{tx}/root")
        expect(errno.EACCES, read, f"{path}/.txn/{tx}/root/account_a")
        expect((errno.EACCES, errno.EPERM), os.rmdir, f"{path}/.txn/{tx}")

    in_child(stranger, m.mnt, "roots", uid=NOBODY)
    in_child(os.mkdir, m(".txn/nobodys"), uid=NOBODY)
    in_child(stranger, m.mnt, "nobodys", uid=1234)
    ctl(m.mnt, "rollback", "nobodys")  # root may
    n.ctl("commit")
    equal(read(m("account_a")), b"1")


@needs_root
def test_a_member_of_another_uid_cannot_end_it(t):
    m = bank(t)
    os.chmod(m.mnt, 0o777)
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(write, m("account_a"), "1")
    mnt = m.mnt
    e = expect(errno.EACCES, a, lambda: in_child(ctl, mnt, "commit", uid=NOBODY))
    check("EACCES" in str(e) or "denied" in str(e), e)
    equal(read(m("account_a")), b"100")
    a(ctl, m.mnt, "commit")
    equal(read(m("account_a")), b"1")


@needs_root
def test_ordinary_user_has_transactions(t):
    m = t.mount()
    os.chmod(m.mnt, 0o777)
    a = t.actor(uid=NOBODY)
    a(ctl, m.mnt, "begin")
    a(write, m("f"), "mine")
    check(not exists(m("f")))
    a(ctl, m.mnt, "commit")
    st = os.stat(m("f"))
    equal((st.st_uid, st.st_gid), (NOBODY, NOBODY))
    a(os.mkdir, m(".txn/n"))
    a(write, m(".txn/n/root/g"), "mine too")
    a(ctl, m.mnt, "commit", "n")
    equal(os.stat(m("g")).st_uid, NOBODY)

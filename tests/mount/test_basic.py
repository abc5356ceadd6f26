"""The transactions a newcomer meets first: three ways to have one, who is a member, what others see."""
import errno
import os
import shutil
import signal
import subprocess
import time

from harness import (OPT, append, check, ctl, equal, exists, expect, in_child, ls, quick, read, same_tree, snapshot,
                     tool, wait_until, write)
from scenes import balances, bank, ctl_refused_in, sh


# ---- the seed scenarios ----

@quick
def test_transfer_commits(t):
    m = bank(t)
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(write, m("account_a"), "50")
    a(write, m("account_b"), "250")
    equal(a(balances, m.mnt), (b"50", b"250"), "the member sees its own changes")
    equal(balances(m.mnt), (b"100", b"200"), "a stranger sees nothing yet")
    equal(balances(m.src), (b"100", b"200"), "nothing is at home yet")
    line = a(ctl, m.mnt, "commit")
    check("commit" in line.lower(), "ctl says what happened:", line)
    equal(balances(m.mnt), (b"50", b"250"), "everyone sees it after commit")
    m.umount()
    equal(balances(m.src), (b"50", b"250"), "it is at home")


@quick
def test_transfer_rolls_back(t):
    m = bank(t)
    before = snapshot(m.mnt)
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(write, m("account_a"), "50")
    a(write, m("account_b"), "250")
    a(write, m("receipt"), "x")
    a(ctl, m.mnt, "rollback")
    equal(a(balances, m.mnt), (b"100", b"200"))
    same_tree(snapshot(m.mnt), before, "after rollback")
    m.umount()
    same_tree(snapshot(m.src), before, "the backing directory")


@quick
def test_shell_transfer(t):
    m = bank(t)
    out = sh("""set -e
        cd "$1"; echo begin > .txn/ctl
        echo -n 50 > account_a; echo -n 250 > account_b; cat account_a account_b
        echo commit > .txn/ctl; cat .txn/ctl""", m.mnt)
    check(out.startswith("50250"), out)
    check("commit" in out.lower(), "ctl later from the same process tells what happened:", out)
    equal(balances(m.mnt), (b"50", b"250"))


def order(ctl_, path, stock_in, commit):
    """The order-processing example, in a transaction that has begun; files are the tables."""
    os.mkdir(path("orders/1"))
    write(path("orders/1/order"), "customer 7, 2 items")
    ctl_("savepoint after_order")
    for item in ("blue", "green"):
        stock = int(read(path(f"stock/{item}")))
        write(path(f"stock/{item}"), str(stock - 2))
        write(path(f"orders/1/{item}"), "2")
        if stock - 2 >= 0:
            break
        ctl_("rollback to after_order")
    equal(item, stock_in, "the item that was in stock")
    ctl_("savepoint after_inventory")
    append(path("payments"), "7 paid 20\n")
    ctl_("commit" if commit else "rollback")


ORDERED = {"orders/1/order": b"customer 7, 2 items", "orders/1/green": b"2", "stock/blue": b"1", "stock/green": b"3",
           "payments": b"7 paid 20\n"}


def shop(t):
    m = t.mount()
    for d in ("stock", "orders"):
        os.mkdir(m(d))
    write(m("stock/blue"), "1")
    write(m("stock/green"), "5")
    write(m("payments"), "")
    return m


def ordered(m):
    for path, data in ORDERED.items():
        equal(read(m(path)), data, path)
    check(not exists(m("orders/1/blue")), "the first reservation is gone")
    equal(ls(m("orders/1")), ["green", "order"])


@quick
def test_order_processing_ambient(t):
    m = shop(t)
    mnt = m.mnt
    a = t.actor()
    a(ctl, mnt, "begin")
    a(lambda: order(lambda c: ctl(mnt, c), lambda p: os.path.join(mnt, p), "green", True))
    ordered(m)


@quick
def test_order_processing_named(t):
    m = shop(t)
    n = m.named("order")
    order(n.ctl, n, "green", True)
    ordered(m)


def test_order_processing_rolled_back(t):
    m = shop(t)
    before = snapshot(m.mnt)
    mnt = m.mnt
    a = t.actor()
    a(ctl, mnt, "begin")
    a(lambda: order(lambda c: ctl(mnt, c), lambda p: os.path.join(mnt, p), "green", False))
    same_tree(snapshot(m.mnt), before, "after rollback")


@quick
def test_run_commits_on_zero(t):
    m = bank(t)
    script = 'cd "$1" && echo -n 1 >account_a && echo -n 299 >account_b && cat account_a'
    p = tool("run", m.mnt, "--", "sh", "-c", script, "sh", m.mnt)
    equal(p.stdout, "1")
    equal(balances(m.mnt), (b"1", b"299"))


@quick
def test_run_rolls_back_on_failure(t):
    m = bank(t)
    before = snapshot(m.mnt)
    script = 'cd "$1" && echo 1 >account_a && mkdir d && rm account_b && exit 3'
    tool("run", m.mnt, "--", "sh", "-c", script, "sh", m.mnt, status=3)
    same_tree(snapshot(m.mnt), before, "after a failed run")
    check(all(n in ("ctl", "prepared", "status", "transactions") for n in ls(m(".txn"))), "no transaction is left:", ls(m(".txn")))


def test_run_in_the_mount(t):
    """Started with the working directory in the mount, relative paths are the transaction's too."""
    m = bank(t)
    os.mkdir(m("d"))
    p = tool("run", m.mnt, "--", "sh", "-c", "pwd; echo hi > f; cat ../account_a; exit 0", cwd=m("d"))
    check(p.stdout.startswith(m("d") + "\n"), p.stdout)
    equal(read(m("d/f")), b"hi\n")


def test_run_has_its_own_ctl(t):
    m = bank(t)
    script = """cd "$1"; echo 1 > account_a; echo savepoint s > .txn/ctl || exit 1; echo 2 > account_b
        echo rollback to s > .txn/ctl || exit 2; cat account_b; exit 0"""
    equal(tool("run", m.mnt, "--", "sh", "-c", script, "sh", m.mnt).stdout, "200")
    equal(balances(m.mnt), (b"1\n", b"200"))


@quick
def test_second_process_sees_nothing_until_commit(t):
    m = bank(t)
    os.mkdir(m("d"))
    write(m("d/old"), "old")
    a, b = t.actor(), t.actor()
    before = b(snapshot, m.mnt)
    a(ctl, m.mnt, "begin")
    a(write, m("account_a"), "1")
    a(write, m("new"), "n")
    a(os.unlink, m("account_b"))
    a(os.rename, m("d"), m("e"))
    a(os.mkdir, m("dir"))
    a(os.chmod, m("e/old"), 0o600)
    same_tree(b(snapshot, m.mnt), before, "a second process, before commit")
    inside = a(snapshot, m.mnt)
    equal(sorted(inside), ["", "account_a", "dir", "e", "e/old", "new"])
    a(ctl, m.mnt, "commit")
    same_tree(b(snapshot, m.mnt), inside, "a second process, after commit")
    m.umount()
    same_tree(snapshot(m.src), inside, "the backing directory")


# ---- membership ----

@quick
def test_children_are_members_strangers_are_not(t):
    m = bank(t)
    mnt = m.mnt
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(in_child, write, m("account_a"), "1")
    equal(a(in_child, read, m("account_a")), b"1", "a child of the owner")
    equal(a(lambda: in_child(in_child, read, mnt + "/account_a")), b"1", "a grandchild")
    equal(a(lambda: subprocess.check_output(["cat", mnt + "/account_a"])), b"1", "exec keeps membership")
    equal(read(m("account_a")), b"100", "a stranger")
    equal(t.actor()(read, m("account_a")), b"100", "another stranger")
    a(in_child, ctl, m.mnt, "commit")
    equal(read(m("account_a")), b"1", "a member of the owner's uid may end it")


def test_children_from_before_begin_are_members(t):
    m = bank(t)
    out = sh("""cd "$1"; mkfifo "$2"/go
        (read x < "$2"/go; cat account_a) & child=$!
        echo begin > .txn/ctl; echo -n 7 > account_a; echo > "$2"/go; wait $child; echo commit > .txn/ctl""",
             m.mnt, t.dir)
    equal(out, "7")


def test_threads_are_members(t):
    m = bank(t)
    mnt = m.mnt

    def body():
        from concurrent.futures import ThreadPoolExecutor
        ctl(mnt, "begin")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: write(f"{mnt}/f{i}", str(i)), range(20)))
            inside = sorted(pool.map(lambda i: read(f"{mnt}/f{i}"), range(20)))
        ctl(mnt, "rollback")
        return inside

    equal(t.actor()(body), sorted(str(i).encode() for i in range(20)))
    equal(ls(m.mnt), ["account_a", "account_b"])


@quick
def test_owner_death_rolls_back(t):
    for sig in (signal.SIGKILL, signal.SIGTERM, None):
        with_child = sig == signal.SIGKILL
        m = t.mounts[0] if t.mounts else bank(t)
        before = snapshot(m.mnt)
        a = t.actor()
        a(ctl, m.mnt, "begin")
        a(write, m("account_a"), "1")
        a(write, m("new"), "1")
        if sig:
            a.kill(sig)
        else:
            a.end()
        # Another writer gets through as soon as the locks are gone.
        wait_until(lambda: _try(write, m("account_a"), b"100"), 5,
                   f"the end of the transaction of a dead owner ({sig})")
        check(not exists(m("new")), "what the dead owner made is gone", with_child)
        same_tree(snapshot(m.mnt), before, "after the owner's death")


def _try(fn, *args):
    try:
        fn(*args)
        return True
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise
        return False


def test_owner_exec_keeps_the_transaction(t):
    m = bank(t)
    out = sh("""cd "$1"; echo begin > .txn/ctl; echo -n 5 > account_a
        exec sh -c 'cat account_a; echo -n 6 > account_b; cat account_b; echo commit > .txn/ctl'""", m.mnt)
    equal(out, "56")
    equal(balances(m.mnt), (b"5", b"6"))


def test_child_survives_the_owner_as_a_stranger_to_it(t):
    """When the owner has died its orphans go on outside any transaction."""
    m = bank(t)
    sh("""cd "$1"; (while ! [ -e "$2"/go ]; do sleep 0.02; done; cat account_a > "$2"/saw; mv "$2"/saw "$2"/done) \
          >/dev/null 2>&1 & echo begin > .txn/ctl; echo -n 9 > account_a; exit 0""", m.mnt, t.dir)
    wait_until(lambda: _try(write, m("account_a"), b"100"), 5, "the end of the transaction")
    write(t.path("go"), "")
    wait_until(lambda: exists(t.path("done")), 5, "the orphan")
    equal(read(t.path("done")), b"100")


def test_several_ambient_transactions_at_once(t):
    m = t.mount()
    actors = [t.actor() for _ in range(5)]
    for i, a in enumerate(actors):
        a(ctl, m.mnt, "begin")
        a(write, m(f"f{i}"), str(i))
    for i, a in enumerate(actors):
        equal(a(ls, m.mnt), [f"f{i}"], "each sees its own file only")
    for i, a in enumerate(actors):
        a(ctl, m.mnt, "commit" if i % 2 == 0 else "rollback")
    equal(ls(m.mnt), ["f0", "f2", "f4"])


@quick
def test_owner_pid_lets_a_tool_serve_its_shell(t):
    m = bank(t)
    out = sh("""set -e
        "$2" begin "$1"; echo -n 1 > "$1"/account_a
        "$2" savepoint "$1" s; echo -n 2 > "$1"/account_a; "$2" rollback --to s "$1" >&2
        cat "$1"/account_a
        "$2" commit -q "$1" """, m.mnt, OPT.txnfs)
    check(out.endswith("1"), out)
    equal(balances(m.mnt), (b"1", b"200"))


def test_owner_must_be_an_ancestor(t):
    m = bank(t)
    other = t.actor()
    a = t.actor()
    expect((errno.EINVAL, errno.EACCES, errno.EPERM, errno.ESRCH), a, ctl, m.mnt, f"begin owner {other.pid}")
    ctl_refused_in(a, (errno.EINVAL, errno.ESRCH), m, "begin owner 99999999")




# ---- named transactions ----

@quick
def test_named_commit_and_rmdir(t):
    m = bank(t)
    n = m.named("one")
    equal(sorted(os.listdir(n.dir)), ["changes", "ctl", "root", "status"])
    write(n("account_a"), "1")
    equal(balances(m.mnt), (b"100", b"200"))
    equal(balances(n.root), (b"1", b"200"))
    n.ctl("commit")
    equal(balances(m.mnt), (b"1", b"200"))
    wait_until(lambda: not exists(n.dir), 2, "the directory of an ended transaction to go")
    n = m.named("one")
    write(n("account_a"), "2")
    os.rmdir(n.dir)
    check(not exists(n.dir), "rmdir leaves the directory")
    equal(balances(m.mnt), (b"1", b"200"), "rmdir rolls back")


@quick
def test_named_is_listed_in_txn_only(t):
    m = bank(t)
    n = m.named("listed")
    check("listed" in os.listdir(m(".txn")) and "ctl" in os.listdir(m(".txn")), "listing of .txn:", ls(m(".txn")))
    equal(ls(m.mnt), ["account_a", "account_b"])
    equal(ls(n.root), ["account_a", "account_b"])
    n.rollback()
    check("listed" not in os.listdir(m(".txn")))


def test_named_has_no_owner(t):
    """It lives until commit, rollback or unmount; any process can work in it."""
    m = bank(t)
    a = t.actor()
    a(os.mkdir, m(".txn/n"))
    a(write, m(".txn/n/root/account_a"), "1")
    a.kill()
    equal(read(m(".txn/n/root/account_a")), b"1")
    t.actor()(write, m(".txn/n/root/account_b"), "2")
    t.actor()(ctl, m.mnt, "commit", "n")
    equal(balances(m.mnt), (b"1", b"2"))


def test_named_with_an_owner(t):
    m = bank(t)
    a = t.actor()
    a(os.mkdir, m(".txn/n"))
    a(ctl, m.mnt, f"owner {a.pid}", "n")
    a(write, m(".txn/n/root/account_a"), "1")
    a.kill()
    wait_until(lambda: not exists(m(".txn/n")), 5, "the rollback of a named transaction whose owner died")
    equal(balances(m.mnt), (b"100", b"200"))


def test_named_ends_at_unmount(t):
    m = bank(t)
    n = m.named("n")
    write(n("account_a"), "1")
    m.remount()
    check(not exists(m(".txn/n")))
    equal(balances(m.mnt), (b"100", b"200"))


def test_named_views_are_apart(t):
    m = bank(t)
    x, y = m.named("x"), m.named("y")
    write(x("fx"), "x")
    write(y("fy"), "y")
    equal(ls(x.root), ["account_a", "account_b", "fx"])
    equal(ls(y.root), ["account_a", "account_b", "fy"])
    equal(ls(m.mnt), ["account_a", "account_b"])
    x.ctl("commit")
    equal(ls(y.root), ["account_a", "account_b", "fx", "fy"], "read committed: y sees what x committed")
    y.ctl("commit")
    equal(ls(m.mnt), ["account_a", "account_b", "fx", "fy"])


def test_named_view_has_its_own_txn(t):
    m = bank(t)
    n = m.named("n")
    write(n("account_a"), "1")
    ctl(n.root, "savepoint s")
    write(n("account_a"), "2")
    ctl(n.root, "rollback to s")
    equal(read(n("account_a")), b"1")
    check(".txn" not in os.listdir(n.root))
    ctl(n.root, "commit")
    equal(balances(m.mnt), (b"1", b"200"))


@quick
def test_named_errors(t):
    m = bank(t)
    m.named("n")
    expect(errno.EEXIST, os.mkdir, m(".txn/n"))
    expect((errno.EEXIST, errno.EINVAL), os.mkdir, m(".txn/ctl"))
    expect(errno.ENOENT, ctl, m.mnt, "commit", "unknown")
    expect((errno.EPERM, errno.EACCES, errno.EINVAL, errno.EROFS), write, m(".txn/file"), "x")
    expect((errno.EPERM, errno.EACCES, errno.EBUSY), os.unlink, m(".txn/n/ctl"))
    expect((errno.EPERM, errno.EACCES, errno.EBUSY), os.rmdir, m(".txn/n/root"))
    expect((errno.EPERM, errno.EACCES, errno.EINVAL, errno.EROFS), os.mkdir, m(".txn/n/other"))
    expect((errno.EPERM, errno.EACCES, errno.EINVAL, errno.EXDEV, errno.EROFS), os.rename, m(".txn/n"), m(".txn/o"))
    expect(errno.EALREADY, ctl, m.mnt, "begin", "n")
    os.mkdir(m(".txn/" + "x" * 255))
    os.rmdir(m(".txn/" + "x" * 255))
    expect(errno.ENAMETOOLONG, os.mkdir, m(".txn/" + "x" * 256))


# ---- names ----

@quick
def test_names_of_255_bytes(t):
    m = t.mount()
    long, too_long = "n" * 255, "n" * 256
    for where in (m.mnt, m.named("n").root):
        write(os.path.join(where, long), "x")
        equal(read(os.path.join(where, long)), b"x")
        os.rename(os.path.join(where, long), os.path.join(where, "m" * 255))
        expect(errno.ENAMETOOLONG, write, os.path.join(where, too_long), "x")
        expect(errno.ENAMETOOLONG, os.mkdir, os.path.join(where, too_long))
        expect(errno.ENAMETOOLONG, os.rename, os.path.join(where, "m" * 255), os.path.join(where, too_long))
        os.unlink(os.path.join(where, "m" * 255))
        write(os.path.join(where, "é" * 127), "utf-8")
        write(os.fsencode(where) + b"/\xff\xfe\x01 \n", "bytes")
        check(b"\xff\xfe\x01 \n" in os.listdir(os.fsencode(where)))
        os.unlink(os.fsencode(where) + b"/\xff\xfe\x01 \n")
        os.unlink(os.path.join(where, "é" * 127))


def test_paths_near_path_max(t):
    """A directory so deep that its path is longer than any system call takes: reached step by step."""
    m = t.mount()
    n = m.named("n")

    def deep(where):
        os.chdir(where)
        for _ in range(18):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        write("leaf", "deep")
        os.rename("leaf", "leaf2")
        return read("leaf2")

    def find(where):
        os.chdir(where)
        for _ in range(18):
            os.chdir("d" * 250)
        return read("leaf2")

    equal(in_child(deep, n.root), b"deep")
    check(len(n.changes()) == 19, "changes:", len(n.changes()))
    n.ctl("commit")
    equal(in_child(find, m.mnt), b"deep")
    path = m.mnt + "/" + "/".join(["d" * 250] * 15)
    expect(errno.ENAMETOOLONG, os.stat, path + "/" + "/".join(["d" * 250] * 15))
    m.umount()
    equal(in_child(find, m.src), b"deep")
    m.start()
    subprocess.run(["rm", "-rf", m("d" * 250)], check=True)
    equal(ls(m.mnt), [])


# ---- .txn and .txnfs ----

@quick
def test_txn_is_not_listed_but_answers(t):
    m = bank(t)
    equal(ls(m.mnt), ["account_a", "account_b"])
    check(os.path.isdir(m(".txn")) and exists(m(".txn/ctl")))
    found = subprocess.check_output(["find", m.mnt], text=True)
    check("/.txn" not in found, found)
    os.mkdir(t.path("copy"))
    subprocess.run(["cp", "-r", m.mnt + "/.", t.path("copy")], check=True)
    equal(ls(t.path("copy")), ["account_a", "account_b"])
    n = m.named("n")
    equal(len(subprocess.check_output(["find", n.root], text=True).splitlines()), 3)
    subprocess.run(f"rm -rf {m.mnt}/*", shell=True, check=True)
    equal(ls(m.mnt), [])
    check(os.path.isdir(m(".txn/n")))


def intrusions(root, path):
    """Operations that must not succeed on a name that is not the user's."""
    other = os.path.join(root, "account_a")
    return [(os.rmdir, path), (os.unlink, path), (os.mkdir, path), (os.rename, path, os.path.join(root, "x")),
            (os.rename, other, path), (os.rename, os.path.join(root, "d"), path), (os.symlink, "x", path),
            (os.link, other, path), (os.open, path, os.O_CREAT | os.O_WRONLY)]


@quick
def test_txn_cannot_be_changed(t):
    m = bank(t)
    refused = (errno.EPERM, errno.EACCES, errno.EBUSY, errno.EEXIST, errno.EINVAL, errno.EROFS, errno.EISDIR,
               errno.ENOTEMPTY, errno.EXDEV, errno.ENOTDIR)
    os.mkdir(m("d"))
    n = m.named("n")
    for root in (m.mnt, n.root):
        path = os.path.join(root, ".txn")
        other = os.path.join(root, "account_a")
        for op, *args in intrusions(root, path) + [
                (os.open, path, os.O_CREAT | os.O_WRONLY | os.O_EXCL), (os.unlink, path + "/ctl"),
                (os.rename, other, path + "/ctl"), (os.link, path + "/ctl", os.path.join(root, "ctl"))]:
            expect(refused, op, *args)
    equal(ls(m.mnt), ["account_a", "account_b", "d"])


@quick
def test_state_directory_is_invisible_and_immune(t):
    m = bank(t)
    os.mkdir(m("d"))
    refused = (errno.EPERM, errno.EACCES, errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EXDEV)
    n = m.named("n")
    a = t.actor()
    a(ctl, m.mnt, "begin")
    equal(a(exists, m(".txnfs")), False)
    for root in (m.mnt, n.root):
        path = os.path.join(root, ".txnfs")
        check(not exists(path))
        check(".txnfs" not in os.listdir(root))
        for op, *args in intrusions(root, path) + [
                (os.listdir, path), (os.chmod, path, 0o777), (read, path + "/format"), (os.mknod, path)]:
            expect(refused, op, *args)
    a(ctl, m.mnt, "rollback")
    n.rollback()
    state = snapshot(m.home(".txnfs"), data=False)
    shutil.copytree(m.mnt, t.path("copy"))
    equal(ls(t.path("copy")), ["account_a", "account_b", "d"])
    subprocess.run(["bash", "-c", f"shopt -s dotglob; rm -rf {m.mnt}/*"], check=False, stderr=subprocess.DEVNULL)
    equal(ls(m.mnt), [])
    check(set(snapshot(m.home(".txnfs"), data=False)) >= {p for p in state if "/" not in p},
          "the state directory is whole")
    os.mkdir(m("sub"))
    os.mkdir(m("sub/.txnfs"))  # only the root's is special
    write(m("sub/.txnfs/f"), "x")
    equal(ls(m("sub")), [".txnfs"])


@quick
def test_files_stay_ordinary(t):
    """The backing directory holds ordinary files before, while and after it is mounted."""
    m = t.mount()
    write(m("f"), "through the mount")
    equal(read(m.home("f")), b"through the mount")
    m.umount()
    write(m.home("f"), "directly")
    write(m.home("g"), "new")
    m.start()
    equal(read(m("f")), b"directly")
    equal(read(m("g")), b"new")


def test_large_data_commits_and_rolls_back(t):
    m = t.mount()
    block = bytes(t.rng.randrange(256) for _ in range(4096)) * 256  # 1 MiB
    write(m("old"), block * 8)
    n = m.named("big")
    with open(n("new"), "wb") as f:
        for _ in range(40):
            f.write(block)
    with open(n("old"), "r+b") as f:
        f.seek(3 << 20)
        f.write(block[::-1])
    n.ctl("savepoint s")
    os.truncate(n("new"), 0)
    write(n("old"), "short")
    n.ctl("rollback to s")
    equal(os.stat(n("new")).st_size, 40 << 20)
    equal(read(m("old")), block * 8)
    began = time.monotonic()
    n.ctl("commit")
    t.note(f"commit of 41 MiB {time.monotonic() - began:.2f} s")
    want = block * 3 + block[::-1] + block * 4
    check(read(m("old")) == want and read(m("new")) == block * 40, "contents after commit")
    n = m.named("big2")
    write(n("new"), b"z" * (20 << 20))
    n.rollback()
    check(read(m("new")) == block * 40, "contents after rollback")
    m.umount()
    check(read(m.home("old")) == want and read(m.home("new")) == block * 40, "contents at home")

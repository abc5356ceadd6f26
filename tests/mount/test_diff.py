"""`txnfs diff`: what it shows of all kinds of changes, and that its patch is true."""
import errno
import json
import os
import resource
import shutil
import stat
import subprocess

from harness import (NOBODY, OPT, Skip, append, check, equal, in_child, named_open, needs_root, patience, quick, read,
                     tool, write)
from scenes import refused
from terminal import Terminal, plain


def diff(m, *args, **kw):
    p = tool("diff", m.mnt, *args, **kw)
    equal(p.stderr, "")
    return p.stdout


def numbers(prefix, n):
    return "".join(f"{prefix}{i}\n" for i in range(1, n + 1))


def replaced(path, data):
    """As editors do it: a new file takes the name."""
    write(path + ".new", data)
    os.rename(path + ".new", path)


# ---- what it shows ----

@quick
def test_a_patch(t):
    m = t.mount()
    for d in ("d", "d/sub", "gone", "moved", "moved/in"):
        os.mkdir(m(d))
    for f in ("a", "mode", "owner", "ren", "remod", "back", "old", "d/sub/deep", "gone/x", "moved/in/f", "saved"):
        write(m(f), numbers("l", 9))
    write(m("bin"), b"\0\1\2")
    write(m("noeol"), "x")
    write(m("same"), "same\n")
    os.symlink("here", m("link"))
    n = m.named("n")
    equal(diff(m, "n"), "", "nothing yet")
    write(n("a"), numbers("l", 4) + "changed\n" + numbers("l", 9)[15:])
    os.chmod(n("mode"), 0o4755)
    os.chown(n("owner"), 7, 8)
    os.setxattr(n("owner"), "user.note", b"hello")
    os.rename(n("ren"), n("renamed"))
    os.rename(n("remod"), n("d/remod"))
    append(n("d/remod"), "more\n")
    os.rename(n("back"), n("back~"))
    write(n("back"), numbers("l", 8))
    os.unlink(n("old"))
    shutil.rmtree(n("gone"))
    os.rename(n("moved"), n("elsewhere"))
    append(n("elsewhere/in/f"), "more\n")
    replaced(n("saved"), numbers("l", 9) + "saved\n")
    write(n("bin"), b"\0\1\2\3")
    append(n("noeol"), "y")
    write(n("same"), "same\n")
    os.unlink(n("link"))
    os.symlink("there", n("link"))
    os.mkdir(n("new dir"))
    write(n("new dir/f"), "new\n")
    write(n("empty"), "", 0o600)
    os.mkfifo(n("fifo"), 0o644)
    os.utime(n("d/sub/deep"), (1000000000, 1000000000))
    equal(diff(m, "n").replace(ctime_free(m("d/sub/deep")), "THEN"), PATCH)
    equal(diff(m, "--stat", "n").replace(ctime_free(m("d/sub/deep")), "THEN"), STAT)
    equal(diff(m, "--name-status", "n"), NAMES)
    rows = {r["path"]: r for r in json.loads(diff(m, "--json", "n"))}
    equal(sorted(rows), sorted(line.rstrip("/").split("\t")[-1].rstrip("/") for line in NAMES.splitlines()))
    equal([rows[p]["status"] for p in ("a", "mode", "renamed", "old", "back~", "elsewhere/in/f")], list("MPRDCM"))
    equal((rows["a"]["insertions"], rows["a"]["deletions"], rows["a"]["contents"]), (1, 1, "text"))
    equal((rows["mode"]["old"]["mode"], rows["mode"]["new"]["mode"]), ("100644", "104755"))
    equal((rows["owner"]["new"]["uid"], rows["owner"]["new"]["gid"]), (7, 8))
    equal(rows["owner"]["xattrs"], {"user.note": {"old": None, "new": "hello"}})
    equal((rows["renamed"]["from"], rows["elsewhere/in/f"]["from"]), ("ren", "moved/in/f"))
    equal((rows["bin"]["contents"], rows["bin"]["old"]["size"], rows["bin"]["new"]["size"]), ("binary", 3, 4))
    equal((rows["link"]["old"]["target"], rows["link"]["new"]["target"]), ("here", "there"))
    equal((rows["old"]["new"], rows["empty"]["old"], rows["fifo"]["new"]["type"]), (None, None, "fifo"))
    equal(diff(m, "-U0", "n").count("\n l"), 0, "no context")
    n.ctl("rollback")


def ctime_free(path):
    """The modification time as it is printed."""
    p = subprocess.run(["date", "-u", "-r", path, "+%Y-%m-%dT%H:%M:%S.%NZ"], stdout=subprocess.PIPE, check=True, text=True)
    return p.stdout.strip()


PATCH = """\
diff --git a/a b/a
--- a/a
+++ b/a
@@ -2,7 +2,7 @@
 l2
 l3
 l4
-l5
+changed
 l6
 l7
 l8
diff --git a/back b/back
--- a/back
+++ b/back
@@ -6,4 +6,3 @@
 l6
 l7
 l8
-l9
diff --git a/back b/back~
similarity index 100%
copy from back
copy to back~
diff --git a/bin b/bin
Binary files a/bin and b/bin differ: 3 -> 4 bytes
diff --git a/remod b/d/remod
rename from remod
rename to d/remod
--- a/remod
+++ b/d/remod
@@ -7,3 +7,4 @@
 l7
 l8
 l9
+more
diff --git a/d/sub/deep b/d/sub/deep
mtime THEN -> 2001-09-09T01:46:40Z
diff --git a/moved/ b/elsewhere/
directory moved from moved/ to elsewhere/
diff --git a/moved/in/f b/elsewhere/in/f
--- a/moved/in/f
+++ b/elsewhere/in/f
@@ -7,3 +7,4 @@
 l7
 l8
 l9
+more
diff --git a/empty b/empty
new file mode 100600
diff --git a/fifo b/fifo
new fifo, mode 0644
diff --git a/gone/ b/gone/
deleted directory, mode 0755
diff --git a/gone/x b/gone/x
deleted file mode 100644
--- a/gone/x
+++ /dev/null
@@ -1,9 +0,0 @@
-l1
-l2
-l3
-l4
-l5
-l6
-l7
-l8
-l9
diff --git a/link b/link
old mode 120000
new mode 120000
--- a/link
+++ b/link
@@ -1 +1 @@
-here
\\ No newline at end of file
+there
\\ No newline at end of file
diff --git a/mode b/mode
old mode 100644
new mode 104755
diff --git "a/new dir/" "b/new dir/"
new directory, mode 0755
diff --git "a/new dir/f" "b/new dir/f"
new file mode 100644
--- /dev/null
+++ "b/new dir/f"
@@ -0,0 +1 @@
+new
diff --git a/noeol b/noeol
--- a/noeol
+++ b/noeol
@@ -1 +1 @@
-x
\\ No newline at end of file
+xy
\\ No newline at end of file
diff --git a/old b/old
deleted file mode 100644
--- a/old
+++ /dev/null
@@ -1,9 +0,0 @@
-l1
-l2
-l3
-l4
-l5
-l6
-l7
-l8
-l9
diff --git a/owner b/owner
owner 0:0 -> 7:8
xattr user.note added, "hello"
diff --git a/ren b/renamed
similarity index 100%
rename from ren
rename to renamed
diff --git a/saved b/saved
--- a/saved
+++ b/saved
@@ -7,3 +7,4 @@
 l7
 l8
 l9
+saved
"""

STAT = """\
 a                     | 2 +-
 back                  | 1 -
 back => back~         | 0
 bin                   | Bin 3 -> 4 bytes
 remod => d/remod      | 1 +
 d/sub/deep            | mtime THEN -> 2001-09-09T01:46:40Z
 {moved => elsewhere}/ | directory moved
 elsewhere/in/f        | 1 +
 empty                 | 0
 fifo                  | new fifo
 gone/                 | deleted directory
 gone/x                | 9 ---------
 link                  | 2 +-
 mode                  | mode 0644 -> 4755
 new dir/              | new directory
 new dir/f             | 1 +
 noeol                 | 2 +-
 old                   | 9 ---------
 owner                 | owner 0:0 -> 7:8, xattr user.note added, "hello"
 ren => renamed        | 0
 saved                 | 1 +
 18 files, 3 directories changed, 7 insertions(+), 22 deletions(-)
 copy back => back~
 create mode 100600 empty
 delete mode 100644 gone/x
 create mode 100644 new dir/f
 delete mode 100644 old
"""

NAMES = """\
M	a
M	back
C	back	back~
M	bin
R	remod	d/remod
P	d/sub/deep
R	moved/	elsewhere/
M	elsewhere/in/f
A	empty
A	fifo
D	gone/
D	gone/x
M	link
P	mode
A	new dir/
A	new dir/f
M	noeol
D	old
P	owner
R	ren	renamed
M	saved
"""


# ---- the patch is true ----

ODD = ["plain", "two words", "nl\nname", "quo\"te", "back\\slash", "tab\there", "-dash", "\u00e9t\u00e9", "bell\a"]


def text_tree(root):
    """{path: (mode's x bit, contents)} of the files and links below; directories are not in a patch."""
    out = {}
    for d, dirs, files in os.walk(os.fsencode(root)):
        for f in files + [x for x in dirs if os.path.islink(os.path.join(d, x))]:
            path = os.path.join(d, f)
            st = os.lstat(path)
            rel = os.path.relpath(path, os.fsencode(root))
            out[rel] = (os.readlink(path) if stat.S_ISLNK(st.st_mode) else (bool(st.st_mode & 0o100), read(path)))
    return out


def patched(t, m, text):
    """A copy of what is committed (as it is in the source directory) with the patch applied."""
    if not shutil.which("patch"):
        raise Skip("no patch(1)")
    copy = t.path("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(m.mnt, copy, symlinks=True)
    if text:
        p = subprocess.run(["patch", "-p1", "-s", "-f", "--no-backup-if-mismatch", "-d", copy], input=text,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        none = b"Only garbage was found" in p.stdout and b"\n--- " not in text and b" mode 1" not in text  # directories
        check(p.returncode == 0 or none, "patch:", p.stdout.decode("utf-8", "replace"), text.decode("utf-8", "replace"))
    return text_tree(copy)


def shuffle(rng, root, n, dirs=False):
    """Changes of text files and links; dirs: and moves of directories."""
    def some(kind=None):
        found = [p for p in text_tree(root)]
        found = [p for p in found if kind is None or os.path.islink(os.path.join(os.fsencode(root), p)) == (kind == "l")]
        return os.path.join(os.fsencode(root), rng.choice(found)) if found else None

    def fresh():
        d = rng.choice(["", "d1", "d1/d2", "d3"])
        os.makedirs(os.path.join(root, d), exist_ok=True)
        return os.fsencode(os.path.join(root, d, rng.choice(ODD + [f"f{rng.randrange(12)}"])))

    def free():
        p = fresh()
        return p if not os.path.lexists(p) else None

    def lines():
        starts = ["a", "bb", "--- x", "+++ y", "@@", "", " ", "c\t", "diff --git a/x b/x"]
        body = "".join(f"{rng.choice(starts)}{rng.randrange(30)}\n" for _ in range(rng.randrange(30)))
        return body[:-1] if body and rng.randrange(4) == 0 else body

    def edit():
        p = some("f")
        if p:
            old = read(p).decode().splitlines(True)
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(old) + 1)
                old[at:at + rng.randrange(3)] = [f"edit{rng.randrange(99)}\n"] * rng.randrange(3)
            (write if rng.randrange(2) else lambda q, d: replaced(os.fsdecode(q), d))(p, "".join(old))

    def make():
        p = free()
        if p:
            write(p, lines())

    def link():
        p = free()
        if p:
            os.symlink(rng.choice(["x", "../y", "d1"]), p)

    def remove():
        p = some()
        if p:
            os.unlink(p)

    def move():
        p, q = some(), fresh()
        if p and not (os.path.isdir(q) and not os.path.islink(q)):
            os.rename(p, q)

    def backup():
        p, q = some("f"), free()
        if p and q:
            os.rename(p, q)
            write(p, lines())

    def swap():
        p, q = some("f"), some("f")
        if p and q and p != q:
            os.rename(p, p + b".x")
            os.rename(q, p)
            os.rename(p + b".x", q)

    def mode():
        p = some("f")
        if p:
            os.chmod(p, 0o644 if os.stat(p).st_mode & 0o100 else 0o755)

    def prune():
        d = os.path.join(root, rng.choice(["d1", "d1/d2", "d3"]))
        if os.path.isdir(d) and rng.randrange(3) == 0:
            shutil.rmtree(d)

    def move_dir():
        d, e = (os.path.join(root, rng.choice(["d1", "d1/d2", "d3", "d4", "d1/d5"])) for _ in range(2))
        apart = not (e + "/").startswith(d + "/") and not (d + "/").startswith(e + "/")
        if apart and os.path.isdir(d) and os.path.isdir(os.path.dirname(e)):
            if os.path.isdir(e) and rng.randrange(2):
                shutil.rmtree(e)
            if not os.path.lexists(e):
                os.rename(d, e)

    for _ in range(n):
        rng.choice([edit, edit, edit, make, make, link, remove, move, move, backup, swap, mode, prune] +
                   [move_dir] * (3 * dirs))()


@quick
def test_the_patch_leads_to_the_transactions_tree(t):
    """Random changes, named and ambient: patch(1) makes of what is committed what the transaction shows."""
    m = t.mount()
    a = t.actor()
    rounds = int(os.environ.get("TXNFS_DIFFS", "12"))
    for i in range(rounds):
        if i % 2:
            n = m.named("n")
            shuffle(t.rng, n.root, t.rng.randrange(1, 14))
            text = subprocess.run([OPT.txnfs, "diff", m.mnt, "n"], stdout=subprocess.PIPE, check=True).stdout
            want = text_tree(n.root)
            listed = json.loads(diff(m, "--json", "n"))
        else:
            a(m_ctl, m.mnt, "begin")
            a.start(shuffle, t.rng, m.mnt, t.rng.randrange(1, 14))
            a.result()
            t.rng.random()  # the actor's generator is a copy
            text, js, want = a(seen_by_member, OPT.txnfs, m.mnt)
            listed = json.loads(js)
        before = text_tree(m.mnt)
        got = patched(t, m, text)
        if got != want:
            lines = [f"{p!r}: patched {got.get(p)!r}, want {want.get(p)!r}, was {before.get(p)!r}"
                     for p in sorted(set(got) | set(want)) if got.get(p) != want.get(p)]
            equal(lines, [], f"round {i}, seed {t.seed}:\n{text.decode('utf-8', 'replace')}")
        changed = {os.fsdecode(p) for p in set(before) | set(want) if before.get(p) != want.get(p)}
        told = {r["path"] for r in listed} | {r["from"] for r in listed if r["status"] == "R"}
        equal(changed - told, set(), "every change is in --json")
        if i % 2:
            n.ctl("commit")
        else:
            a(m_ctl, m.mnt, "commit")
        equal(text_tree(m.mnt), want)
        equal(named_open(m.mnt), [], "nothing is left of diff's own transaction")


def explained(before, after, listed):
    """What --json leaves unexplained: everything that it does not list must be as it was, at the place where it says."""
    rows = {os.fsencode(r["path"]): r for r in listed if r["status"] != "D"}
    gone = {os.fsencode(r["path"]) for r in listed if r["status"] == "D"}
    used, lines = set(), []
    for p, now in after.items():
        row = rows.get(p)
        if row:
            old = os.fsencode(row.get("from", row["path"])) if row["old"] else None
        else:
            at = p
            while at and not (at in rows and rows[at]["status"] in "RA"):
                at = os.path.dirname(at)
            moved = rows.get(at)
            if moved and moved["status"] == "A":
                lines.append(f"{p!r} is in a new directory and not listed")
                continue
            old = os.fsencode(moved["from"]) + p[len(at):] if moved else p
        was = before.get(old) if old else None
        if old and was is None:
            lines.append(f"{p!r} was not at {old!r}")
        elif row and row["contents"] == "same" and was and now[-1] != was[-1]:
            lines.append(f"{p!r}: its contents are said to be the same")
        elif not row and now != was:
            lines.append(f"{p!r} is not listed, was {was!r}, is {now!r}")
        if not (row and row["status"] == "C"):
            used.add(old)
    lines += [f"{p!r} is no more, and not listed" for p in before if p not in used and p not in gone]
    return lines


@quick
def test_moved_directories_hide_nothing(t):
    """Random changes with moves of directories: what the list does not tell is as it was."""
    m = t.mount()
    for i in range(int(os.environ.get("TXNFS_DIFFS", "12"))):
        n = m.named("n")
        shuffle(t.rng, n.root, t.rng.randrange(1, 20), dirs=True)
        changes = n.changes()
        lines = explained(text_tree(m.mnt), text_tree(n.root), json.loads(diff(m, "--json", "n")))
        equal(lines, [], f"round {i}, seed {t.seed}: {changes}")
        n.ctl("commit")


def m_ctl(mnt, text):
    from harness import ctl
    ctl(mnt, text)


def seen_by_member(txnfs, mnt):
    import subprocess as sp
    import test_diff
    out = [sp.run([txnfs, "diff", *o, mnt], stdout=sp.PIPE, check=True).stdout for o in ([], ["--json"])]
    return (*out, test_diff.text_tree(mnt))


# ---- names, links, kinds ----

@quick
def test_odd_names(t):
    """Each name is one line, quoted as git does; --json has it as it is."""
    m = t.mount()
    names = ODD + ["new\nline/in\tdir"]
    n = m.named("n")
    os.mkdir(n("new\nline"))
    for f in names:
        write(n(f), "x\n")
    write(os.path.join(os.fsencode(n.root), b"bad\xff"), "x\n")
    out = diff(m, "--name-status", "n").splitlines()
    equal(len(out), len(names) + 2)
    for line in ('A\t"nl\\nname"', 'A\t"quo\\"te"', 'A\t"back\\\\slash"', 'A\t"bell\\a"', 'A\t"bad\\377"', "A\t\u00e9t\u00e9",
                 'A\t"new\\nline/"', 'A\t"new\\nline/in\\tdir"', "A\t-dash"):
        check(line in out, line, out)
    equal({r["path"] for r in json.loads(diff(m, "--json", "n"))}, set(names) | {"bad\ufffd", "new\nline"})
    text = subprocess.run([OPT.txnfs, "diff", m.mnt, "n"], stdout=subprocess.PIPE, check=True).stdout
    equal(patched(t, m, text), text_tree(n.root))


@quick
def test_hard_links(t):
    """A change is not hidden behind a new name, nor behind one that has gone."""
    m = t.mount()
    for f in ("secret", "two", "cut", "keep"):
        write(m(f), "old\n")
    os.link(m("two"), m("two2"))
    os.link(m("cut"), m("cut2"))
    n = m.named("n")
    os.link(n("secret"), n("innocent"))
    write(n("innocent"), "evil\n")
    append(n("two2"), "more\n")
    append(n("cut2"), "more\n")
    os.unlink(n("cut"))
    os.link(n("keep"), n("kept"))
    check("M secret" in n.changes() and "A innocent" in n.changes(), n.changes())
    out = diff(m, "n")
    blocks = {b.split(" ", 1)[0]: b for b in out.split("diff --git a/")[1:]}
    check("-old\n+evil" in blocks["secret"] and "one of 2 names, all of which change" in blocks["secret"], out)
    check("+evil" in blocks["innocent"] and "one of 2 names" in blocks["innocent"], out)
    two = blocks.get("two") or blocks["two2"]
    check("+more" in two and "all of which change" in two, out)
    check("+more" in blocks.get("cut2", "") or "CHANGED under other names" in blocks["cut"], out)
    check("one of 2 names" in blocks["kept"] and "keep" not in blocks, out)
    n.ctl("rollback")
    # The name that is known of the changed file is removed afterwards.
    n = m.named("n")
    append(n("cut2"), "more\n")
    os.stat(n("cut"))
    append(n("cut"), "more\n")
    os.unlink(n("cut"))
    out = diff(m, "n")
    check("+more" in out or "CHANGED under other names" in out, n.changes(), out)
    n.rollback()


@quick
@needs_root
def test_kinds(t):
    """Things that are no files, and what changes its kind."""
    m = t.mount()
    write(m("file"), "text\n")
    os.mknod(m("dev"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mkfifo(m("fifo"), 0o600)
    os.mkdir(m("dir"), 0o755)
    os.mkdir(m("other"), 0o755)
    write(m("other/x"), "x\n")
    n = m.named("n")
    os.unlink(n("file"))
    os.symlink("target", n("file"))
    os.unlink(n("dev"))
    os.mknod(n("dev"), stat.S_IFCHR | 0o640, os.makedev(1, 5))
    os.chmod(n("fifo"), 0o666)
    os.chmod(n("dir"), 0o1777)
    os.setxattr(n("dir"), "user.b", b"\0\1")
    os.unlink(n("other/x"))
    os.rmdir(n("other"))
    write(n("other"), "now a file\n")
    out = diff(m, "n")
    for want in ("diff --git a/file b/file\ndeleted file mode 100644\n--- a/file\n+++ /dev/null\n@@ -1 +0,0 @@\n-text\n"
                 "diff --git a/file b/file\nnew file mode 120000\n--- /dev/null\n+++ b/file\n@@ -0,0 +1 @@\n+target\n",
                 "diff --git a/dev b/dev\nmode 0600 -> 0640\ndevice 1:3 -> 1:5\n",
                 "diff --git a/fifo b/fifo\nmode 0600 -> 0666\n",
                 'diff --git a/dir/ b/dir/\nmode 0755 -> 1777\nxattr user.b added, 0x0001\n',
                 "diff --git a/other/ b/other/\ndeleted directory, mode 0755\n",
                 "diff --git a/other b/other\nnew file mode 100644\n"):
        check(want in out, want, out)
    names = diff(m, "--name-status", "n").splitlines()
    for want in ("T\tfile", "P\tdev", "P\tfifo", "P\tdir/", "D\tother/", "A\tother", "D\tother/x"):
        check(want in names, want, names)
    diff(m, "--stat", "n")
    n.rollback()


@quick
def test_moved_directories(t):
    """What lies below a moved directory is compared with what it was, wherever it went."""
    m = t.mount()
    for d in ("a", "a/b", "c"):
        os.mkdir(m(d))
    for f in ("a/x", "a/b/y", "a/b/z", "c/w"):
        write(m(f), f + "\n")
    n = m.named("n")
    os.rename(n("a/b"), n("c/b2"))
    os.rename(n("a"), n("a2"))
    os.mkdir(n("a"))
    write(n("a/x"), "another\n")
    append(n("c/b2/y"), "more\n")
    replaced(n("c/b2/z"), "replaced\n")
    append(n("a2/x"), "more\n")
    names = diff(m, "--name-status", "n").splitlines()
    equal(sorted(names), sorted(["A\ta/", "A\ta/x", "R\ta/\ta2/", "M\ta2/x", "R\ta/b/\tc/b2/", "M\tc/b2/y",
                                 "M\tc/b2/z"]))
    out = diff(m, "n")
    check("--- a/a/b/y\n+++ b/c/b2/y\n@@ -1 +1,2 @@\n a/b/y\n+more\n" in out, out)
    check("--- a/a/b/z\n+++ b/c/b2/z\n@@ -1 +1 @@\n-a/b/z\n+replaced\n" in out, out)
    check("--- a/a/x\n+++ b/a2/x\n@@ -1 +1,2 @@\n a/x\n+more\n" in out, out)
    n.rollback()


# ---- limits ----

@quick
def test_large_files(t):
    """Beyond the limit only the sizes are told, in little memory; what is equal is not told at all."""
    m = t.mount()
    write(m("big"), b"x" * 300_000)
    write(m("same"), b"y\n" * 100_000)
    write(m("small"), "s\n")
    write(m("sparse"), "")
    n = m.named("n")
    append(n("big"), "end\n")
    write(n("same"), b"y\n" * 100_000)
    append(n("small"), "t\n")
    os.truncate(n("sparse"), 1 << 34)
    out = diff(m, "--max-size=64k", "n", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (512 << 20,) * 2)
               if not OPT.slow > 1 else None)
    check("Large files a/big and b/big differ: 300000 -> 300004 bytes, not shown" in out, out)
    check(f"a/sparse and b/sparse differ: 0 -> {1 << 34} bytes" in out and "same" not in out and "+t" in out, out)
    out = diff(m, "--max-size=64k", "--stat", "n")
    check(" big    | Large 300000 -> 300004 bytes" in out and "same" not in out, out)
    write(n("small"), b"s\n\0")
    check("Binary" in diff(m, "n", "--max-size=64k") and "Binary" not in diff(m, "n", "-a", "--max-size=64k"))
    check("xend\n" in diff(m, "--max-size=1M", "n"), "within the limit")
    for bad in ("x", "4G", "-1", "", "1T"):
        refused("diff", f"--max-size={bad}", m.mnt, "n", status=2, words=["--max-size"])
    n.rollback()


def test_what_has_little_in_common(t):
    """diff(1) would take hours; the patch is true all the same. Slow: set TXNFS_DIFFS to run it."""
    if "TXNFS_DIFFS" not in os.environ:
        raise Skip("TXNFS_DIFFS is not set")
    m = t.mount()
    write(m("f"), "".join(f"{t.rng.randrange(50)}\n" for _ in range(1_000_000)))
    n = m.named("n")
    write(n("f"), "".join(f"{t.rng.randrange(50)}\n" for _ in range(900_000)) + "end")
    text = diff(m, "n", seconds=60)
    check("@@ -1,1000000 +1,900001 @@ too different" in text, text[:200])
    check("900001 insertions(+), 1000000 deletions(-)" in diff(m, "n", "--stat", seconds=60))
    equal(patched(t, m, text.encode()), text_tree(n.root))
    n.rollback()


@quick
@needs_root
def test_what_cannot_be_read(t):
    """It is said, the rest is shown, and the status tells."""
    m = t.mount()
    os.chmod(m.mnt, 0o777)
    write(m("locked"), "old\n", 0o666)
    os.chmod(m("locked"), 0o222)
    write(m("open"), "old\n")
    os.chown(m("open"), NOBODY, NOBODY)

    def work():
        os.mkdir(m(".txn/n"))
        append(m(".txn/n/root/locked"), "more\n")
        append(m(".txn/n/root/open"), "more\n")
        p = tool("diff", m.mnt, "n", status=1)
        check("+more" in p.stdout and "cannot be read: Permission denied" in p.stdout, p.stdout)
        check("locked" in p.stderr and "Permission denied" in p.stderr, p.stderr)
        p = tool("diff", "--exit-code", "--stat", m.mnt, "n", status=2)
        check("unreadable" in p.stdout, p.stdout)
        tool("diff", "--json", m.mnt, "n", status=1)
        tool("diff", "--name-status", m.mnt, "n", status=1)

    exe = t.path("txnfs")
    shutil.copy(OPT.txnfs, exe)
    os.chmod(exe, 0o755)
    OPT.txnfs, was = exe, OPT.txnfs
    in_child(work, uid=NOBODY)
    OPT.txnfs = was
    p = tool("diff", m.mnt, "n")
    check(p.stdout.count("+more") == 2 and "owner" not in p.stdout, p.stdout)
    os.rmdir(m(".txn/n"))


@quick
def test_statuses_and_refusals(t):
    m = t.mount()
    write(m("f"), "f\n")
    n = m.named("n")
    equal(tool("diff", "--exit-code", m.mnt, "n").stdout, "")
    write(n("f"), "f\n")  # written anew as it was
    equal(tool("diff", "--exit-code", m.mnt, "n").stdout, "")
    append(n("f"), "g\n")
    check("+g" in tool("diff", "--exit-code", m.mnt, "n", status=1).stdout)
    equal(tool("diff", m.mnt, "--txn", "n", "--stat").stdout, diff(m, "n", "--stat"))
    equal(tool("diff", "--stat", "-n", "n", cwd=m.mnt).stdout, diff(m, "n", "--stat"))
    refused("diff", m.mnt, words=["in no transaction"])
    refused("diff", m.mnt, "nobody", words=["no transaction named"])
    refused("diff", m.mnt, "f/..", words=["cannot be the name"])
    refused("diff", m.mnt, "ctl", words=["no transaction named"])
    refused("diff", t.dir, "n", words=["not in a txnfs mount"])
    refused("diff", "--exit-code", m.mnt, "nobody", status=2, words=["no transaction named"])
    refused("diff", "--stat", "--json", m.mnt, "n", status=2, words=["only one"])
    refused("diff", "--color=maybe", m.mnt, "n", status=2, words=["maybe"])
    n.ctl("prepare gid")
    refused("diff", m.mnt, "gid", words=["prepared"])
    m.ctl("rollback prepared gid")
    if os.getuid() == 0:
        n = m.named("n")
        exe = t.path("txnfs")
        shutil.copy(OPT.txnfs, exe)
        os.chmod(exe, 0o755)
        p = subprocess.run([exe, "diff", m.mnt, "n"], user=NOBODY, group=NOBODY, extra_groups=[], check=False,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        check(p.returncode == 1 and "another user" in p.stderr, p.stderr)
        n.rollback()


@quick
def test_a_transaction_that_ends_or_goes_on_meanwhile(t):
    """The reader of the patch stops; then the transaction ends, or changes. It is said."""
    m = t.mount()
    for end in ("commit", "rollback", "go on"):
        n = m.named("n")
        for i in range(8):
            write(n(f"f{i}"), f"{end} {i} {'x' * 30}\n" * 2000)
        p = subprocess.Popen([OPT.txnfs, "diff", m.mnt, "n"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        head = p.stdout.read(100)  # the pipe holds less than all of it: the tool is in the middle
        check(b"new file mode" in head, head)
        if end == "go on":
            append(n("f0"), "more\n")
        else:
            n.ctl(end)
        _, err = p.communicate(timeout=patience(20))
        check((b"has gone on" if end == "go on" else b"has ended") in err, err)
        equal(p.returncode, 0 if end == "go on" else 1, err)
        if end == "go on":
            n.rollback()
        for f in os.listdir(m.mnt):
            os.unlink(m(f))


# ---- whose transaction ----

@quick
def test_ambient(t):
    """A member sees its own; the committed version comes from an empty transaction, of which nothing is left."""
    m = t.mount()
    write(m("f"), "old\n")
    n = m.named("n")
    write(n("g"), "named\n")
    a = t.actor()

    def member(txnfs, mnt):
        import subprocess as sp
        from harness import ctl as control
        control(mnt, "begin")
        with open(mnt + "/f", "a") as f:
            f.write("new\n")
        out = []
        for args in (["diff", mnt], ["diff", mnt, "n"], ["status", "-C", mnt]):
            p = sp.run([txnfs, *args], stdout=sp.PIPE, stderr=sp.PIPE, text=True, check=False)
            out.append((p.returncode, p.stdout, p.stderr))
        with open(mnt + "/.txn/changes") as f:
            out.append(f.read())
        return out, os.listdir(mnt + "/.txn")

    (mine, other, status, changes), left = a(member, OPT.txnfs, m.mnt)
    equal(mine[:2], (0, "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1,2 @@\n old\n+new\n"), mine)
    check(other[0] == 0 and "b/g" in other[1] and "b/f" not in other[1], other)
    check("M f" in status[1], status)
    equal(changes, "M f\n")
    equal([x for x in left if x.startswith("diff-")], [])
    equal(read(m("f")), b"old\n")
    try:
        read(m(".txn/changes"))
        check(False, "there is no file changes for others")
    except FileNotFoundError:
        pass
    refused("status", "-C", m.mnt, words=["--changes"])
    a(m_ctl, m.mnt, "rollback")
    n.rollback()


@quick
def test_reads_of_a_serializable_transaction(t):
    """Looking at a rename reads nothing in the transaction: a change of the file by others does not cancel it."""
    m = t.mount()
    write(m("f"), "f\n")
    n = m.named("n")
    n.ctl("isolation serializable")
    os.rename(n("f"), n("g"))
    check("rename to g" in diff(m, "n"))
    n.ctl("commit")
    equal(os.listdir(m.mnt), ["g"])


# ---- on a terminal ----

@quick
def test_on_a_terminal(t):
    """Colour, the pager, and what a terminal must not be sent."""
    m = t.mount()
    write(m("f"), "old\n")
    n = m.named("n")
    write(n("f"), "e\x1b[2Kvil \u202ertl \r\n\x9b\n")
    write(n("nl\x1bname"), "x\n")
    cmd = [OPT.txnfs, "diff", m.mnt, "n"]
    raw = subprocess.run(cmd, stdout=subprocess.PIPE, check=True).stdout
    check(b"\x1b[2K" in raw and "\u202e".encode() in raw, "a patch is as it is", raw)
    for env, colour in (({"PAGER": "cat"}, True), ({"PAGER": ""}, True), ({"PAGER": "cat", "NO_COLOR": "1"}, False),
                        ({"PAGER": "cat", "TERM": "dumb"}, False)):
        text = Terminal(*cmd, env=env).end(0)
        equal("\x1b[32m" in text, colour, env)
        for bad in ("\x1b[2K", "\u202e", "\x9b"):
            check(bad not in text, env, bad, text)
        for good in ("^[", "<U+202E>", "^M", "-old"):
            check(good in plain(text), env, good, text)
    text = Terminal(*cmd, "--color=never", "--no-pager", env={"PAGER": "echo PAGED; cat"}).end(0)
    check("\x1b" not in text and "PAGED" not in text and "^[[2K" in text, text)
    text = Terminal(*cmd, env={"PAGER": "echo PAGED; echo LESS=$LESS; cat"}).end(0)
    check("PAGED" in text and "LESS=FRX" in text, text)
    text = Terminal(*cmd, env={"PAGER": "echo LESS=$LESS; cat", "LESS": "-S"}).end(0)
    check("LESS=-S" in text, text)
    text = Terminal(*cmd, "--json", env={"PAGER": "echo PAGED"}).end(0)
    check("PAGED" not in text, text)
    check(b"\x1b[32m" in subprocess.run([*cmd, "--color=always"], stdout=subprocess.PIPE, check=True).stdout)
    # A pager that ends at once, and one that is left before the end.
    for i in range(6):
        write(n(f"many{i}"), "line\n" * 40000)
    Terminal(*cmd, env={"PAGER": "true"}).end(0)
    text = Terminal(*cmd, env={"PAGER": "head -n 3"}).end(0)
    equal(len(text.splitlines()), 3)
    n.rollback()


def test_closed_outputs(t):
    m = t.mount()
    n = m.named("n")
    write(n("f"), "line\n" * 100000)
    with open("/dev/full", "w") as full:
        p = subprocess.run([OPT.txnfs, "diff", m.mnt, "n"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    check(p.returncode == 1 and "standard output" in p.stderr, p.returncode, p.stderr)
    n.rollback()

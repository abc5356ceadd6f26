"""`txnfs run --review`: shows what the command did, asks on the terminal, and commits only what was shown."""
import os
import shutil
import signal
import subprocess

from harness import OPT, append, check, equal, exists, ls, named_open, quick, read, tool, wait_until, write
from scenes import refused
from terminal import Terminal, plain

WAYS = ([], ["--ambient"])
QUESTION = "[s]hell, [?] "


def start(m, script, *options, **kw):
    return Terminal(OPT.txnfs, "run", "--review", *options, m.mnt, "--", "sh", "-c", script, "sh", m.mnt, **kw)


def fresh(t, name="m"):
    m = t.mount(name)
    write(m("f"), "old\n")
    return m


def free(path):
    """Nobody holds it (any more)."""
    try:
        os.utime(path)
        return True
    except OSError:
        return False


@quick
def test_each_answer(t):
    """Both ways to run: the answers, their statuses, and what is left."""
    m = fresh(t)
    work = 'echo new >> "$1/f"; echo n > "$1/n"'
    for way in WAYS:
        for answer, status in (("r", 1), ("rollback", 1), ("ROLL", 1), ("c", 0), ("commit", 0)):
            p = start(m, work, *way)
            shown = p.expect(QUESTION)
            check(" f | 1 +" in plain(shown) and " create mode 100644 n" in plain(shown), shown)
            equal((read(m("f")), ls(m.mnt)), (b"old\n", ["f"]), "nothing yet")
            p.line(answer)
            text = p.end(status)
            check(("rolled back" if status else "committed") in text, text)
            equal(read(m("f")), b"old\n" if status else b"old\nnew\n", f"{way} {answer}")
            if not status:
                os.unlink(m("n"))
                write(m("f"), "old\n")
        p = start(m, work, *way)
        p.expect(QUESTION)
        p.line("what")
        check("rollback" in p.expect(QUESTION), "help")
        p.line("")
        p.expect(QUESTION)
        p.line("d")
        shown = p.expect(QUESTION)
        check("+new" in plain(shown) and "+++ b/n" in plain(shown), shown)
        p.line("stat")
        check(" f | 1 +" in plain(p.expect(QUESTION)))
        p.line("c")
        p.end(0)
        equal(ls(m.mnt), ["f", "n"])
        os.unlink(m("n"))
        write(m("f"), "old\n")
    equal(named_open(m.mnt), [])


@quick
def test_no_answer_is_no(t):
    """^C, the end of input, signals, a closed terminal, a kill: nothing is committed."""
    m = fresh(t)
    work = 'echo new >> "$1/f"; exit 0'
    for way in WAYS:
        for keys, status in (("\x03", 128 + signal.SIGINT), ("\x04", 1), ("\x1c", 128 + signal.SIGQUIT)):
            p = start(m, work, *way)
            p.expect(QUESTION)
            p.send(keys)
            p.end(status)
            equal(read(m("f")), b"old\n", f"{way} {keys!r}")
        for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            p = start(m, work, *way)
            p.expect(QUESTION)
            p.kill(sig)
            p.end(128 + sig)
            equal(read(m("f")), b"old\n", f"{way} {sig}")
        p = start(m, work, *way)
        p.expect(QUESTION)
        os.close(p.fd)  # the terminal goes away
        os.waitpid(p.pid, 0)
        wait_until(lambda: free(m("f")), 5, "the rollback")
        equal(read(m("f")), b"old\n", f"{way}: hangup")
        p = start(m, work, *way)
        p.expect(QUESTION)
        p.kill()
        wait_until(lambda: free(m("f")), 5, "the rollback")
        equal(read(m("f")), b"old\n", f"{way}: killed")
    equal(named_open(m.mnt), [])


@quick
def test_without_a_question(t):
    """The command fails, or changes nothing, or there is no terminal: no question, and in the last case no command."""
    m = fresh(t)
    for way in WAYS:
        p = start(m, 'echo new >> "$1/f"; exit 7', *way)
        check("[c]ommit" not in p.end(7))
        p = start(m, 'cat "$1/f"', *way)
        text = p.end(0)
        check("changed nothing" in text and "[c]ommit" not in text, text)
        text = refused("run", "--review", *way, m.mnt, "--", "touch", t.path("ran"), status=125, words=["terminal"],
                       start_new_session=True)
        check(not exists(t.path("ran")), "nothing was run")
        equal(read(m("f")), b"old\n")
    p = start(m, 'echo new >> "$1/f"; echo rollback > "$1/.txn/ctl"')
    check("itself" in p.end(125))
    # What is only written anew shows no difference, but is a change: it is asked for.
    p = start(m, 'echo old > "$1/f"')
    check("no differences" in p.expect(QUESTION))
    p.line("c")
    p.end(0)
    p = start(m, "true", "--name", "x y")  # a name with a blank
    p.end(0)
    p = start(m, 'echo new >> "$1/f"', "--name=-x")
    p.expect(QUESTION)
    p.line("c")
    p.end(0)
    equal(read(m("f")), b"old\nnew\n")


@quick
def test_a_shell_in_the_view(t):
    """It sees and changes the transaction; what it changed is shown before the next question; `txnfs diff` works in it."""
    m = fresh(t)
    for way in WAYS:
        p = start(m, 'echo new >> "$1/f"', *way)
        p.expect(QUESTION)
        p.line("s")
        p.expect("view$ ")
        p.line(f"cat {m.mnt}/f && echo more >> {m.mnt}/f && echo done-$?")
        shown = p.expect("done-0")
        check("new" in shown, shown)
        p.line(f"{OPT.txnfs} diff --no-pager --color=never {m.mnt}; echo diff-$?")
        shown = p.expect("diff-0")
        check("+new" in shown and "+more" in shown and " old" in shown, shown)
        p.line("exit 5")
        check(" f | 2 ++" in plain(p.expect(QUESTION)), "shown again")
        equal(read(m("f")), b"old\n")
        p.line("c")
        p.end(0)
        equal(read(m("f")), b"old\nnew\nmore\n", way)
        write(m("f"), "old\n")
        p = start(m, 'echo new >> "$1/f"', *way)
        p.expect(QUESTION)
        p.line("s")
        p.expect("view$ ")
        p.send("\x03")  # the shell's
        p.expect("view$ ")
        p.line("echo still-here-$((1+1))")
        p.expect("still-here-2")
        p.line("exit")
        p.expect(QUESTION)
        p.line("r")
        p.end(1)
        equal(read(m("f")), b"old\n", way)
    equal(named_open(m.mnt), [])


@quick
def test_only_what_was_shown_is_committed(t):
    """A process that the command left behind changes something behind the reviewer's back."""
    m = fresh(t)
    go, done = t.path("go"), t.path("done")
    behind = f"(while ! [ -e {go} ]; do sleep 0.01; done; WHAT; : > {done}) > /dev/null 2>&1 < /dev/null & "
    tricks = ('echo evil >> "$1/f"', 'echo "rollback to s" > "$1/.txn/ctl"')
    for trick in tricks:
        p = start(m, 'echo evil > "$1/f"; echo "savepoint s" > "$1/.txn/ctl"; echo good > "$1/f"; ' +
                  behind.replace("WHAT", trick))
        p.expect(QUESTION)
        write(go, "")
        wait_until(lambda: exists(done), 10, "the trick")
        p.line("c")
        shown = p.expect(QUESTION)
        check("another version" in shown or "other version" in shown or "of another" in shown, shown)
        p.line("d")
        check("+evil" in plain(p.expect(QUESTION)), trick)
        equal(read(m("f")), b"old\n")
        p.line("r")
        p.end(1)
        equal(read(m("f")), b"old\n")
        os.unlink(go)
        os.unlink(done)


@quick
def test_the_terminal(t):
    """What was typed ahead is no answer, and a terminal that the command has spoilt is set right."""
    m = fresh(t)
    p = start(m, f'echo new >> "$1/f"; stty raw -echo; echo ready; while ! [ -e {t.path("go")} ]; do sleep 0.01; done')
    p.expect("ready")
    p.send("c\nc\n")
    write(t.path("go"), "")
    p.expect(QUESTION)
    equal(p.modes(), (True, True), "echo and signals")
    equal(read(m("f")), b"old\n")
    p.send("\x03")
    p.end(128 + signal.SIGINT)
    equal(read(m("f")), b"old\n")
    if not shutil.which("less"):
        return
    # ^C in the pager is no answer.
    p = start(m, 'seq 1000 > "$1/f"', rows=20)
    p.expect(QUESTION)
    p.line("d")
    p.expect("+5")
    p.send("\x03")
    p.leave(QUESTION)
    p.line("\x15r")  # without what was pressed once too often
    p.end(1)


@quick
def test_ended_from_elsewhere(t):
    m = fresh(t)
    p = start(m, 'echo new >> "$1/f"', "--name", "mine")
    p.expect(QUESTION)
    os.rmdir(m(".txn/mine"))
    p.line("c")
    p.end(125)
    equal(read(m("f")), b"old\n")


@quick
def test_commit_of_a_version(t):
    """`commit version N` for programs: only if nothing has changed since status said so."""
    m = fresh(t)
    n = m.named("n")

    def version():
        return int(dict(line.split(": ", 1) for line in n.status().splitlines() if ": " in line)["version"])

    seen = version()
    append(n("f"), "new\n")
    check(version() > seen)
    try:
        n.ctl(f"commit version {seen}")
        check(False, "committed")
    except OSError as e:
        check("version" in e.line and "still open" in e.line, e.line)
    n.ctl("savepoint s")
    append(n("f"), "more\n")
    seen = version()
    n.ctl("rollback to s")
    check(version() > seen, "going back is a change, too")
    try:
        n.ctl(f"commit version {seen}")
        check(False, "committed")
    except OSError as e:
        check("version" in e.line, e.line)
    n.ctl(f"commit version {version()}")
    equal(read(m("f")), b"old\nnew\n")
    p = subprocess.run([OPT.txnfs, "run", "--help"], stdout=subprocess.PIPE, text=True, check=True)
    check("--review" in p.stdout)
    tool("diff", "--help")

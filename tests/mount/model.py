"""
A directory tree in memory, simple enough to be right by inspection, and the operations on it and on a real one.

An operation is a tuple (name, arguments...) of plain values, so that it can be printed and repeated. Tree.apply() runs
it on the model, real() on a directory; both give the result or the errno's name.
"""
import errno
import hashlib
import os
import random
import stat

import sysc

ANY = object()  # an mtime that is not compared
SKIP = "skip"   # the operation has lost what it refers to (after others were left out)
HANDLES = {}    # of the process that works on the real tree


class Unsure(Exception):
    """The model does not say what happens then."""


class Err(Exception):
    def __init__(self, code):
        super().__init__(errno.errorcode[code])


class Node:
    __slots__ = ("kind", "mode", "uid", "gid", "data", "xattrs", "target", "rdev", "mtime", "entries", "links")

    def __init__(self, kind, mode):
        self.kind, self.mode = kind, mode
        self.uid = self.gid = 0
        self.data = b""
        self.xattrs = {}
        self.target = None
        self.rdev = 0
        self.mtime = None  # as set by utimens; None: recent
        self.entries = {} if kind == stat.S_IFDIR else None
        self.links = 0


def content(seed, n):
    return random.Random(seed).randbytes(n)


def punch(data, off, n):
    end = min(off + n, len(data))
    return data if off >= end else data[:off] + bytes(end - off) + data[end:]


def patch(data, off, new):
    if len(data) < off:
        data += bytes(off - len(data))
    return data[:off] + new + data[off + len(new):]


class Tree:
    def __init__(self):
        self.root = Node(stat.S_IFDIR, 0o755)
        self.handles = {}

    def clone(self):
        """A copy that shares nothing that can change; open handles are not part of it."""
        copies = {}

        def copy(node):
            if id(node) in copies:
                return copies[id(node)]
            new = Node(node.kind, node.mode)
            copies[id(node)] = new
            for k in ("uid", "gid", "data", "target", "rdev", "mtime", "links"):
                setattr(new, k, getattr(node, k))
            new.xattrs = dict(node.xattrs)
            if node.entries is not None:
                new.entries = {n: copy(c) for n, c in node.entries.items()}
            return new
        t = Tree()
        t.root = copy(self.root)
        return t

    # ---- finding ----

    def parent(self, path):
        node = self.root
        *dirs, name = path.split("/")
        for d in dirs:
            if node.kind == stat.S_IFLNK:
                raise Unsure
            if node.kind != stat.S_IFDIR:
                raise Err(errno.ENOTDIR)
            if d not in node.entries:
                raise Err(errno.ENOENT)
            node = node.entries[d]
        if node.kind == stat.S_IFLNK:
            raise Unsure
        if node.kind != stat.S_IFDIR:
            raise Err(errno.ENOTDIR)
        return node, name

    def find(self, path):
        if not path:
            return self.root
        d, name = self.parent(path)
        if name not in d.entries:
            raise Err(errno.ENOENT)
        return d.entries[name]

    def regular(self, path):
        node = self.find(path)
        if node.kind == stat.S_IFDIR:
            raise Err(errno.EISDIR)
        if node.kind == stat.S_IFLNK:
            raise Err(errno.ELOOP)
        if node.kind != stat.S_IFREG:
            raise Unsure
        return node

    def paths(self):
        out, todo = [], [("", self.root)]
        while todo:
            path, node = todo.pop()
            out.append((path, node))
            if node.entries is not None:
                todo += [(f"{path}/{n}" if path else n, c) for n, c in node.entries.items()]
        return sorted(out, key=lambda x: x[0])

    # ---- operations ----

    def apply(self, op):
        try:
            return getattr(self, "op_" + op[0])(*op[1:])
        except Err as e:
            return str(e)
        except Unsure:
            return SKIP

    def _add(self, path, node):
        d, name = self.parent(path)
        if name in d.entries:
            raise Err(errno.EEXIST)
        d.entries[name] = node
        d.mtime = None
        node.links += 1

    def op_create(self, path, mode):
        self._add(path, Node(stat.S_IFREG, mode))

    def op_mkdir(self, path, mode):
        self._add(path, Node(stat.S_IFDIR, mode))

    def op_mkfifo(self, path, mode):
        self._add(path, Node(stat.S_IFIFO, mode))

    def op_mkdev(self, path, mode, rdev):
        node = Node(stat.S_IFCHR, mode)
        node.rdev = rdev
        self._add(path, node)

    def op_symlink(self, target, path):
        node = Node(stat.S_IFLNK, 0o777)
        node.target = target
        self._add(path, node)

    def _write(self, node, off, data):
        if data:
            node.data = patch(node.data, off, data)
            node.mtime = None
        return len(data)

    def op_write(self, path, off, seed, n):
        return self._write(self.regular(path), off, content(seed, n))

    def op_append(self, path, seed, n):
        node = self.regular(path)
        return self._write(node, len(node.data), content(seed, n))

    def op_rewrite(self, path, mode, seed, n):
        """O_CREAT|O_TRUNC."""
        try:
            node = self.regular(path)
        except Err as e:
            if str(e) != "ENOENT":
                raise
            node = Node(stat.S_IFREG, mode)
            self._add(path, node)
        node.data = b""
        node.mtime = None
        return self._write(node, 0, content(seed, n))

    def op_replace(self, path, mode, seed, n):
        """The way editors save: write a temporary file, rename it over."""
        tmp = path + ".tmp"
        r = self.op_rewrite(tmp, mode, seed, n)
        self.op_rename(tmp, path, 0)
        return r

    def _truncate(self, node, size):
        node.data = node.data[:size] + bytes(max(0, size - len(node.data)))
        node.mtime = ANY

    def op_truncate(self, path, size):
        node = self.find(path)
        if node.kind == stat.S_IFDIR:
            raise Err(errno.EISDIR)
        if node.kind != stat.S_IFREG:
            raise Unsure
        self._truncate(node, size)

    def op_fallocate(self, path, mode, off, n):
        node = self.regular(path)
        if mode & (sysc.FALLOC_PUNCH_HOLE | sysc.FALLOC_ZERO_RANGE):
            node.data = punch(node.data, off, n)
        if not mode & sysc.FALLOC_KEEP_SIZE and off + n > len(node.data):
            node.data += bytes(off + n - len(node.data))
        node.mtime = ANY

    def op_copy(self, a, off_a, b, off_b, n):
        src, dst = self.find(a), self.find(b)
        if src.kind != stat.S_IFREG or dst.kind != stat.S_IFREG:
            raise Unsure
        data = src.data[off_a:off_a + n]
        return self._write(dst, off_b, data)

    def op_read(self, path):
        node = self.find(path)
        if node.kind != stat.S_IFREG:
            raise Unsure
        return digest(node.data)

    def op_unlink(self, path):
        d, name = self.parent(path)
        node = self.find(path)
        if node.kind == stat.S_IFDIR:
            raise Err(errno.EISDIR)
        del d.entries[name]
        d.mtime = None
        node.links -= 1

    def op_rmdir(self, path):
        d, name = self.parent(path)
        node = self.find(path)
        if node.kind != stat.S_IFDIR:
            raise Err(errno.ENOTDIR)
        if node.entries:
            raise Err(errno.ENOTEMPTY)
        del d.entries[name]
        d.mtime = None

    def op_link(self, old, new):
        node = self.find(old)
        d, name = self.parent(new)
        if name in d.entries:
            raise Err(errno.EEXIST)
        if node.kind == stat.S_IFDIR:
            raise Err(errno.EPERM)
        d.entries[name] = node
        d.mtime = None
        node.links += 1

    def op_rename(self, old, new, flags):
        d1, n1 = self.parent(old)
        d2, n2 = self.parent(new)
        exchange = flags & sysc.RENAME_EXCHANGE
        src, dst = d1.entries.get(n1), d2.entries.get(n2)
        if src is None:
            raise Err(errno.ENOENT)
        if dst is not None and flags & sysc.RENAME_NOREPLACE:
            raise Err(errno.EEXIST)
        if dst is None and exchange:
            raise Err(errno.ENOENT)
        if new.startswith(old + "/"):
            raise Err(errno.EINVAL)
        if old.startswith(new + "/"):
            raise Err(errno.EINVAL if exchange else errno.ENOTEMPTY)
        if src is dst:
            return
        if dst is not None and not exchange:
            if src.kind == stat.S_IFDIR and dst.kind != stat.S_IFDIR:
                raise Err(errno.ENOTDIR)
            if src.kind != stat.S_IFDIR and dst.kind == stat.S_IFDIR:
                raise Err(errno.EISDIR)
            if dst.entries:
                raise Err(errno.ENOTEMPTY)
            dst.links -= 1
        if exchange:
            d1.entries[n1] = dst
        else:
            del d1.entries[n1]
        d2.entries[n2] = src
        d1.mtime = d2.mtime = None

    def _file_or_directory(self, path):
        node = self.find(path)
        if node.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise Unsure
        return node

    def op_chmod(self, path, mode):
        self._file_or_directory(path).mode = mode

    def op_chown(self, path, uid, gid):
        node = self.find(path)
        node.uid, node.gid = uid, gid

    def op_utimens(self, path, ns):
        self.find(path).mtime = ns

    def op_setxattr(self, path, name, seed, n, flags):
        node = self._file_or_directory(path)
        if flags == os.XATTR_CREATE and name in node.xattrs:
            raise Err(errno.EEXIST)
        if flags == os.XATTR_REPLACE and name not in node.xattrs:
            raise Err(errno.ENODATA)
        node.xattrs[name] = content(seed, n)

    def op_removexattr(self, path, name):
        node = self._file_or_directory(path)
        if name not in node.xattrs:
            raise Err(errno.ENODATA)
        del node.xattrs[name]

    # ---- open files ----

    def op_open(self, h, path):
        self.handles[h] = self.regular(path)

    def _handle(self, h):
        if h not in self.handles:
            raise LookupError
        return self.handles[h]

    def op_hwrite(self, h, off, seed, n):
        return self._write(self._handle(h), off, content(seed, n))

    def op_hread(self, h):
        return digest(self._handle(h).data)

    def op_htruncate(self, h, size):
        self._truncate(self._handle(h), size)

    def op_hchmod(self, h, mode):
        self._handle(h).mode = mode

    def op_hlinks(self, h):
        return self._handle(h).links

    def op_close(self, h):
        self._handle(h)
        del self.handles[h]

    # ---- its picture, as harness.snapshot makes one ----

    def snapshot(self):
        out, groups = {}, {}
        for path, node in self.paths():
            e = {"kind": stat.filemode(node.kind | node.mode), "uid": node.uid, "gid": node.gid}
            if path:
                e["nlink"] = node.links if node.entries is None else \
                    2 + sum(c.kind == stat.S_IFDIR for c in node.entries.values())
            if node.mtime is not None:
                e["mtime"] = node.mtime
            if node.kind == stat.S_IFREG:
                e["size"] = len(node.data)
                e["data"] = digest(node.data)
            elif node.kind == stat.S_IFLNK:
                e["target"] = node.target
                e["size"] = len(node.target)
            elif node.kind == stat.S_IFCHR:
                e["rdev"] = node.rdev
            if node.xattrs:
                e["xattrs"] = dict(sorted(node.xattrs.items()))
            if node.entries is None and node.links > 1:
                groups.setdefault(id(node), []).append(path)
            out[path] = e
        for group in groups.values():
            for path in group:
                out[path]["same"] = sorted(group)
        return out


def digest(data):
    """As in harness.snapshot."""
    return data if len(data) <= 80 else hashlib.sha1(data).hexdigest()


# ---- the same on a real directory ----

def _fd(path, flags, mode, fn):
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    try:
        return fn(fd)
    finally:
        os.close(fd)


def _pwrite(fd, data, off):
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], off + done)
    return done


def _read(fd):
    out, off = [], 0
    while part := os.pread(fd, 1 << 20, off):
        out.append(part)
        off += len(part)
    return digest(b"".join(out))


def _copy(a, b, n, off_a, off_b):
    done = 0
    n = min(n, max(0, os.fstat(a).st_size - off_a))  # what is there now: b may be the same file and grow
    while done < n:
        k = os.copy_file_range(a, b, n - done, off_a + done, off_b + done)
        if k == 0:
            break
        done += k
    return done


def real(root, op):
    """Run op below root; the result, or the errno's name."""
    name, *a = op
    try:
        return _real(root, name, a)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))


def _real(root, name, a):
    def p(x):
        return f"{root}/{x}" if x else root
    if name == "create":
        return _fd(p(a[0]), os.O_CREAT | os.O_EXCL | os.O_WRONLY, a[1], lambda fd: None)
    if name == "mkdir":
        return os.mkdir(p(a[0]), a[1])
    if name == "mkfifo":
        return os.mkfifo(p(a[0]), a[1])
    if name == "mkdev":
        return os.mknod(p(a[0]), stat.S_IFCHR | a[1], a[2])
    if name == "symlink":
        return os.symlink(a[0], p(a[1]))
    if name == "write":
        return _fd(p(a[0]), os.O_WRONLY, 0, lambda fd: _pwrite(fd, content(a[2], a[3]), a[1]))
    if name == "append":
        return _fd(p(a[0]), os.O_WRONLY | os.O_APPEND, 0, lambda fd: _pwrite_append(fd, content(a[1], a[2])))
    if name == "rewrite":
        return _fd(p(a[0]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, a[1], lambda fd: _pwrite(fd, content(a[2], a[3]), 0))
    if name == "replace":
        r = _real(root, "rewrite", [a[0] + ".tmp", *a[1:]])
        os.rename(p(a[0]) + ".tmp", p(a[0]))
        return r
    if name == "truncate":
        return os.truncate(p(a[0]), a[1])
    if name == "fallocate":
        return _fd(p(a[0]), os.O_RDWR, 0, lambda fd: sysc.fallocate(fd, *a[1:]))
    if name == "copy":
        return _fd(p(a[0]), os.O_RDONLY, 0, lambda x: _fd(p(a[2]), os.O_WRONLY, 0, lambda y: _copy(x, y, a[4], a[1],
                                                                                                   a[3])))
    if name == "read":
        return _fd(p(a[0]), os.O_RDONLY, 0, _read)
    if name == "unlink":
        return os.unlink(p(a[0]))
    if name == "rmdir":
        return os.rmdir(p(a[0]))
    if name == "link":
        return os.link(p(a[0]), p(a[1]), follow_symlinks=False)
    if name == "rename":
        return _rename(p(a[0]), p(a[1]), a[2])
    if name == "chmod":
        return os.chmod(p(a[0]), a[1])
    if name == "chown":
        return os.lchown(p(a[0]), a[1], a[2])
    if name == "utimens":
        return os.utime(p(a[0]), ns=(a[1], a[1]), follow_symlinks=False)
    if name == "setxattr":
        return os.setxattr(p(a[0]), a[1], content(a[2], a[3]), a[4], follow_symlinks=False)
    if name == "removexattr":
        return os.removexattr(p(a[0]), a[1], follow_symlinks=False)
    return _real_handle(p, name, a)


def _rename(old, new, flags):
    """
    As mv does it, which looks at both names when the first try finds one of them stale (README: a directory that came
    into a member's view below a moved one, and is looked up for the first time by the very rename).
    """
    try:
        return sysc.renameat2(old, new, flags)
    except OSError as e:
        if e.errno != errno.ESTALE:
            raise
    for path in (old, new):
        os.path.lexists(path)
    return sysc.renameat2(old, new, flags)


def _pwrite_append(fd, data):
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])
    return done


def _real_handle(p, name, a):
    if name == "open":
        fd = os.open(p(a[1]), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        if a[0] in HANDLES:
            os.close(HANDLES[a[0]])
        HANDLES[a[0]] = fd
        return None
    fd = HANDLES[a[0]]
    if name == "hwrite":
        return _pwrite(fd, content(a[2], a[3]), a[1])
    if name == "hread":
        return _read(fd)
    if name == "htruncate":
        return os.ftruncate(fd, a[1])
    if name == "hchmod":
        return os.fchmod(fd, a[1])
    if name == "hlinks":
        return os.fstat(fd).st_nlink
    if name == "close":
        return os.close(HANDLES.pop(a[0]))
    raise ValueError(name)


# ---- random operations ----

NAMES = ["a", "b", "c", "d", "e", "long-name-" + "x" * 60, "ü"]
XATTRS = ["user.a", "user.b", "user.c"]
HANDLE_NAMES = ["h1", "h2", "h3"]


class Chooser:
    """Random operations that make sense for a tree: most succeed, some do not."""

    def __init__(self, rng):
        self.rng = rng

    def new_path(self, tree):
        dirs = [p for p, n in tree.paths() if n.kind == stat.S_IFDIR and p.count("/") < 4]
        d = self.rng.choice(dirs)
        name = self.rng.choice(NAMES)
        return f"{d}/{name}" if d else name

    def old_path(self, tree, kinds=None):
        """An existing one of these kinds; sometimes, or when there is none, any path at all."""
        found = [p for p, n in tree.paths() if p and (kinds is None or n.kind in kinds)]
        return self.rng.choice(found) if found and self.rng.random() < 0.97 else None

    def size(self):
        r = self.rng.random()
        if r < 0.5:
            return self.rng.randrange(0, 200)
        if r < 0.93:
            return self.rng.randrange(0, 20_000)
        if r < 0.99:
            return self.rng.randrange(0, 300_000)
        return self.rng.randrange(0, 3_000_000)

    def offset(self):
        r = self.rng.random()
        if r < 0.4:
            return 0
        if r < 0.95:
            return self.rng.randrange(0, 30_000)
        return self.rng.randrange(0, 1_500_000)

    def op(self, tree):
        reg, directory = (stat.S_IFREG,), (stat.S_IFDIR,)
        files_dirs = (stat.S_IFREG, stat.S_IFDIR)
        rng = self.rng
        seed = rng.randrange(1 << 30)
        crowded = len(tree.paths()) > 45
        table = [("create", 3), ("mkdir", 3), ("mkfifo", 0.5), ("mkdev", 0.3), ("symlink", 1), ("write", 8),
                 ("append", 4),
                 ("rewrite", 4), ("replace", 3), ("truncate", 3), ("fallocate", 2), ("copy", 2), ("read", 2),
                 ("unlink", 12 if crowded else 4), ("rmdir", 6 if crowded else 2), ("link", 2), ("rename",
                                                                                                 8), ("chmod", 2),
                 ("chown", 1), ("utimens", 2), ("setxattr", 3), ("removexattr", 1), ("open", 2), ("handle", 6)]
        name = rng.choices([n for n, _ in table], [w for _, w in table])[0]
        if name == "handle":
            return self.handle_op(tree, seed)
        mode = rng.choice([0o644, 0o600, 0o755, 0o444, 0o000])
        if name in ("create", "mkdir", "mkfifo"):
            return (name, self.new_path(tree), mode | 0o700 if name == "mkdir" else mode)
        if name == "mkdev":
            return (name, self.new_path(tree), mode, os.makedev(1, rng.choice((3, 5))))
        if name == "symlink":
            return (name, rng.choice(["a", "../b/c", "x" * rng.randrange(1, 300), "nowhere"]), self.new_path(tree))
        if name == "open":
            h = rng.choice(HANDLE_NAMES)
            return ("close", h) if h in tree.handles else (name, h, self.old_path(tree, reg) or "none")
        if name == "rename":
            flags = rng.choice([0, 0, 0, 0, sysc.RENAME_NOREPLACE, sysc.RENAME_EXCHANGE])
            old = self.old_path(tree) or self.new_path(tree)
            new = (self.old_path(tree) if rng.random() < 0.4 else None) or self.new_path(tree)
            return (name, old, new, flags)
        if name == "link":
            return (name, self.old_path(tree, (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO)) or "none",
                    self.new_path(tree))
        if name == "copy":
            a, b = (self.old_path(tree, reg) or "none" for _ in range(2))
            same = self._node(tree, a) is self._node(tree, b)
            if same:  # ranges of one file must not overlap
                n = rng.randrange(1, 5000)
                return (name, a, 0, b, 10_000, n)
            return (name, a, self.offset(), b, self.offset(), rng.randrange(1, 50_000))
        if name == "fallocate":
            m = rng.choice([0, sysc.FALLOC_KEEP_SIZE, sysc.FALLOC_PUNCH_HOLE | sysc.FALLOC_KEEP_SIZE,
                            sysc.FALLOC_ZERO_RANGE,
                            sysc.FALLOC_ZERO_RANGE | sysc.FALLOC_KEEP_SIZE])
            return (name, self.old_path(tree, reg) or "none", m, rng.randrange(0, 30_000), rng.randrange(1, 30_000))
        if name in ("rmdir", "chmod", "setxattr", "removexattr"):
            path = self.old_path(tree, directory if name == "rmdir" else files_dirs) or self.new_path(tree)
            node = self._node(tree, path)
            if node is not None and node.kind not in files_dirs:
                path = "none"
        elif name in ("chown", "utimens"):
            path = self.old_path(tree) or "none"
        elif name == "unlink":
            path = self.old_path(tree, (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)) or "none"
        else:
            path = self.old_path(tree, reg) or self.new_path(tree)
            node = self._node(tree, path)
            if node is not None and node.kind not in (stat.S_IFREG, stat.S_IFDIR):
                path = "none/none"
        args = {
            "write": lambda: (self.offset(), seed, self.size()),
            "append": lambda: (seed, self.size()),
            "rewrite": lambda: (mode, seed, self.size()),
            "replace": lambda: (mode, seed, self.size()),
            "truncate": lambda: (rng.choice([0, self.offset(), self.size()]),),
            "read": tuple, "unlink": tuple, "rmdir": tuple,
            "chmod": lambda: (rng.choice([0o644, 0o600, 0o755, 0o1777, 0o444]),),
            "chown": lambda: (rng.choice([0, 5, 1000]), rng.choice([0, 6, 1000])),
            "utimens": lambda: (rng.randrange(1, 1_400_000_000_000_000_000),),
            "setxattr": lambda: (rng.choice(XATTRS), seed, rng.choice([0, 5, 300]),
                                 rng.choice([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])),
            "removexattr": lambda: (rng.choice(XATTRS),),
        }
        return (name, path, *args[name]())

    @staticmethod
    def _node(tree, path):
        try:
            return tree.find(path)
        except Err:
            return None

    def handle_op(self, tree, seed):
        if not tree.handles:
            return ("open", self.rng.choice(HANDLE_NAMES), self.old_path(tree, (stat.S_IFREG,)) or "none")
        h = self.rng.choice(sorted(tree.handles))
        return self.rng.choice([("hwrite", h, self.offset(), seed, self.size()), ("hread", h),
                                ("htruncate", h, self.offset()), ("hchmod", h, self.rng.choice([0o600, 0o640])),
                                ("hlinks", h), ("close", h)])

"""
Histories of transactions on lists, and what is wrong with them (after Elle: Kingsbury and Alvaro, VLDB 2020).

Every number is appended once, so a list that was read tells the order of the versions before it, and each version its
writer. From that follow who wrote over whom (ww), who read whose (wr) and who missed whose (rw). Cycles of these are
what isolation levels forbid, in Adya's terms:

    G0        a cycle of ww                       dirty write
    G1a       reads what was rolled back          G1b   reads what its writer was not finished with
    G1c       a cycle of ww and wr
    G-single  a cycle with one rw                 lost update, fuzzy read, read skew
    G-SI      a cycle in which no two rw follow each other (Cerone and Gotsman 2018): what snapshot isolation forbids
    G2        any other cycle: write skew (G2-item), or with rw by a listing, phantoms

and besides: `lost`, a committed number that is not there; `order`, lists that no one order explains; `internal`, a
transaction that does not see its own numbers at the end, or, above read committed, sees one thing twice in two ways.

A history is {"lists": the last state, "txns": [...]}, a transaction {"id", "level", "outcome": "committed" or "aborted",
"ops": [["append", key, number] or ["read", key, [numbers]]...]}. Keys that begin with "dir" are sets: what is created
in a directory, in any order. Reads that failed are left out.
"""
import collections

READ_COMMITTED, SNAPSHOT, SERIALIZABLE = "read committed", "snapshot", "serializable"
ALWAYS = {"G0", "G1a", "G1b", "G1c", "lost", "order", "internal"}
FORBIDDEN = {
    READ_COMMITTED: ALWAYS,
    SNAPSHOT: ALWAYS | {"G-single", "G-SI"},
    SERIALIZABLE: ALWAYS | {"G-single", "G-SI", "G2-item", "G2"},
}
LAST = -1  # the id of the transaction that reads everything at the end


def is_set(key):
    return key.startswith("dir")


class Graph:
    def __init__(self):
        self.out = collections.defaultdict(lambda: collections.defaultdict(set))  # from -> to -> labels

    def add(self, a, b, kind, why):
        if a != b:
            self.out[a][b].add((kind, why))

    def part(self, kinds):
        g = {}
        for a, tos in list(self.out.items()):
            to = [b for b, labels in tos.items() if any(k in kinds for k, _ in labels)]
            if to:
                g[a] = to
        return g


def components(g):
    """Tarjan's strongly connected components of {node: [node]}, those of more than one node; without recursion."""
    index, low, on, stack, found = {}, {}, set(), [], []
    for root in list(g):
        if root in index:
            continue
        work = [(root, iter(g.get(root, ())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on.add(root)
        while work:
            v, it = work[-1]
            for w in it:
                if w not in index:
                    index[w] = low[w] = len(index)
                    stack.append(w)
                    on.add(w)
                    work.append((w, iter(g.get(w, ()))))
                    break
                if w in on:
                    low[v] = min(low[v], index[w])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[v])
                if low[v] == index[v]:
                    comp = set()
                    while True:
                        w = stack.pop()
                        on.discard(w)
                        comp.add(w)
                        if w == v:
                            break
                    if len(comp) > 1:
                        found.append(comp)
    return found


def path(g, start, end, within=None):
    """A shortest path of at least one step from start to end, or None."""
    before, todo = {}, collections.deque([start])
    while todo:
        v = todo.popleft()
        for w in g.get(v, ()):
            if within is not None and w not in within or w in before:
                continue
            before[w] = v
            if w == end:
                steps = [w]
                while True:
                    w = before[w]
                    steps.append(w)
                    if w == start:
                        return steps[::-1]
            todo.append(w)
    return None


class Checker:
    def __init__(self, history):
        self.txns = {t["id"]: t for t in history["txns"]}
        self.committed = [t for t in history["txns"] if t["outcome"] == "committed"]
        self.lists = history["lists"]
        self.last = {"id": LAST, "level": READ_COMMITTED, "outcome": "committed",
                     "ops": [["read", k, v] for k, v in self.lists.items()]}
        self.found = []  # (name, text, ids)
        self.writer, self.place = {}, {}
        for t in history["txns"]:
            own = collections.Counter()
            for op, key, value in t["ops"]:
                if op == "append":
                    self.writer[key, value] = t
                    self.place[key, value] = own[key]
                    own[key] += 1
            for key, n in own.items():
                for op in t["ops"]:
                    if op[0] == "append" and op[1] == key:
                        self.place[key, op[2]] -= n - 1  # 0: its last word about the key

    def report(self, name, text, *ids):
        self.found.append((name, text, ids))

    # ---- single reads ----

    def check_read(self, t, key, got, own):
        """A list that a committed transaction read, having appended `own` to it before; what came from outside."""
        if len(set(got)) != len(got):
            self.report("order", f"{key} holds a number twice: {got}", t["id"])
        mine = [v for v in got if v in own]
        if mine != own if not is_set(key) else set(mine) != set(own):
            self.report("internal", f"transaction {t['id']} appended {own} to {key} and reads {got}", t["id"])
        if own and not is_set(key) and got[-len(own):] != own:
            self.report("internal", f"after transaction {t['id']} appended {own}, {key} is {got}", t["id"])
        foreign = [v for v in got if v not in own]
        for v in foreign:
            w = self.writer.get((key, v))
            if w is None or w["outcome"] == "aborted":
                self.report("G1a", f"transaction {t['id']} reads {v} in {key}, which "
                            f"{'nobody wrote' if w is None else 'transaction %d rolled back' % w['id']}",
                            t["id"], *([w["id"]] if w else []))
            elif w is t:
                self.report("internal", f"transaction {t['id']} reads {v} in {key} before it writes it", t["id"])
        last = {}
        for v in foreign:  # of each writer the newest, which must be its last word
            w = self.writer.get((key, v))
            if w is not None and w is not t:
                last.setdefault(w["id"], []).append(v)
        for wid, values in last.items():
            if not any(self.place[key, v] == 0 for v in values) and self.txns[wid]["outcome"] == "committed":
                self.report("G1b", f"transaction {t['id']} reads {values[-1]} in {key}, to which transaction {wid} "
                            f"appended more", t["id"], wid)
        return foreign

    def external_reads(self):
        """(transaction, key, what came from outside)"""
        for t in [*self.committed, self.last]:
            own, seen = collections.defaultdict(list), {}
            for op, key, value in t["ops"]:
                if op == "append":
                    own[key].append(value)
                    continue
                foreign = self.check_read(t, key, value, own[key])
                foreign = sorted(foreign) if is_set(key) else foreign
                if t["level"] != READ_COMMITTED and seen.setdefault(key, foreign) != foreign:
                    self.report("internal", f"transaction {t['id']} ({t['level']}) reads {seen[key]} and then {foreign} "
                                f"in {key}", t["id"])
                yield t, key, foreign

    # ---- edges ----

    def graph(self):
        g = Graph()
        reads = list(self.external_reads())
        orders = {}
        for t, key, got in reads:
            if not is_set(key) and len(got) > len(orders.get(key, ())):
                orders[key] = got
        final = {key: set(got) for key, got in self.lists.items()}
        for (key, v), w in self.writer.items():
            if w["outcome"] == "committed" and v not in final[key]:
                self.report("lost", f"{v}, which transaction {w['id']} appended to {key}, is not there", w["id"])
        for key, order in orders.items():
            writers = [self.writer[key, v]["id"] for v in order if (key, v) in self.writer]
            for a, b in zip(writers, writers[1:]):
                g.add(a, b, "ww", key)
        everything = collections.defaultdict(list)
        for (key, v), w in self.writer.items():
            if w["outcome"] == "committed":
                everything[key].append(v)
        for t, key, got in reads:
            if is_set(key):
                here = set(got)
                for v in everything.get(key, ()):
                    a, b = self.writer[key, v]["id"], t["id"]
                    if v in here:
                        g.add(a, b, "wr", key)
                    elif a != b:
                        g.add(b, a, "rw", key)
                continue
            order = orders.get(key, [])
            if got and (key, got[-1]) in self.writer:
                g.add(self.writer[key, got[-1]]["id"], t["id"], "wr", key)
            # A transaction's own numbers may come in between.
            mine = {v for op, k, v in t["ops"] if op == "append" and k == key}
            rest = [v for v in order if v not in mine] if mine else order
            if rest[:len(got)] != got:
                self.report("order", f"{key} is {got} for transaction {t['id']}, and {order} for others", t["id"])
            elif len(got) < len(rest) and (key, rest[len(got)]) in self.writer:
                g.add(t["id"], self.writer[key, rest[len(got)]]["id"], "rw", key)
        return g

    # ---- cycles ----

    def describe(self, g, steps):
        text = []
        for a, b in zip(steps, steps[1:]):
            labels = sorted(g.out[a][b])
            text.append(f"T{a} -{labels[0][0]} {labels[0][1]}-> ")
        return "".join(text) + f"T{steps[-1]}"

    def single(self, rw, wwr, parts, tries=300):
        """A cycle with one rw edge that ends in one of these parts."""
        for comp in sorted(parts, key=len):
            for b in comp:
                for a in (x for x, to in rw.items() if b in to):
                    back = path(wwr, b, a)
                    if back:
                        return [a, *back]
                    tries -= 1
                    if not tries:
                        return None
        return None

    def cycles(self, g):
        ww, wwr = g.part({"ww"}), g.part({"ww", "wr"})
        for comp in components(ww):
            steps = path(ww, *[next(iter(comp))] * 2, comp)
            self.report("G0", self.describe(g, steps), *steps[1:])
        for comp in components(wwr):
            a = next(iter(comp))
            if any(comp <= c for c in components(ww)):
                continue
            steps = path(wwr, a, a, comp)
            self.report("G1c", self.describe(g, steps), *steps[1:])
        full = g.part({"ww", "wr", "rw"})
        rw = g.part({"rw"})
        without_rw = components(wwr)
        # D;RW?: what follows whom at snapshot isolation
        composed = {a: set(to) for a, to in wwr.items()}
        for a, to in wwr.items():
            for b in to:
                composed[a].update(rw.get(b, ()))
        for comp in components(full):
            if any(c <= comp for c in without_rw):
                continue  # reported already
            inner = components({a: [b for b in composed.get(a, ()) if b in comp] for a in comp})
            inner += [{a} for a in comp if a in composed.get(a, ())]
            if inner:
                single = self.single(rw, wwr, inner)
                if single:
                    self.report("G-single", self.describe(g, single), *single[1:])
                else:
                    some = min(inner, key=len)
                    self.report("G-SI", f"among transactions {sorted(some)}", *some)
                continue
            a = next(iter(comp))
            steps = path(full, a, a, comp)
            by_set = any(is_set(key) for x, y in zip(steps, steps[1:]) for kind, key in g.out[x][y] if kind == "rw")
            self.report("G2" if by_set else "G2-item", self.describe(g, steps), *steps[1:])

    def run(self):
        self.cycles(self.graph())
        return self.found


def anomalies(history):
    """[(name, text, transactions)], everything that is not serializable in it."""
    return Checker(history).run()


def forbidden(history):
    """Those that the transactions' levels do not allow: one of them must be of a level that forbids it."""
    txns = {t["id"]: t for t in history["txns"]}
    return [a for a in anomalies(history)
            if any(a[0] in FORBIDDEN[txns[i]["level"]] for i in a[2] if i in txns) or
            (a[0] in ALWAYS)]

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections

from txnfs.django import recovery


class Command(BaseCommand):
    help = ("Resolves the files that a crash between the two commits has left prepared: commits them if the database has "
            "committed, else rolls them back. Transactions that are alive are left alone. This also happens by itself, whenever "
            "a process connects and at the next transaction with files.")

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="alias of the database")
        parser.add_argument("--list", action="store_true", help="only tell what would be done")
        parser.add_argument("--json", action="store_true", help="a JSON array of mount, gid and outcome")
        parser.add_argument("--purge", type=float, metavar="DAYS",
                            help="delete rows of txnfs_decision that are so old and not needed any more; all mounts must be "
                                 "there, with the directories that belong to them")

    def handle(self, *args: Any, **options: Any) -> None:
        c = connections[options["database"]]
        if not hasattr(c, "txnfs"):
            raise CommandError(f"the database {options['database']!r} carries no files: its ENGINE is "
                               f"{c.settings_dict['ENGINE']!r}")
        c.txnfs._recovering = True  # not by connecting: it would have nothing left to tell
        try:
            found = recovery.recover(c, wait=not options["list"], dry=options["list"])
        finally:
            c.txnfs._recovering = False
        if options["json"]:
            self.stdout.write(json.dumps([r._asdict() for r in found]))
        else:
            for r in found:
                self.stdout.write(f"{r.gid}  {r.mount}  {'would be ' if options['list'] else ''}{r.outcome}"
                                  if r.outcome in (recovery.COMMITTED, recovery.ROLLED_BACK) else
                                  f"{r.gid}  {r.mount}  left alone: {r.outcome}")
            if not found:
                self.stdout.write("nothing is in doubt")
        if options["purge"] is not None:
            count = recovery.purge(c, options["purge"])
            if not options["json"]:
                self.stdout.write(f"{count} rows deleted")

from __future__ import annotations

import uuid
from typing import Any, List

from django.apps import AppConfig
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models.signals import post_migrate


class TxnfsConfig(AppConfig):
    name = "txnfs.django"
    label = "txnfs"
    verbose_name = "txnfs"
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        post_migrate.connect(make_identity, sender=self)
        checks.register(check_databases)


def make_identity(sender: Any, using: str = DEFAULT_DB_ALIAS, **kw: Any) -> None:
    """After migrate and flush: each database has a name of its own, which is part of its transactions' GIDs."""
    from .models import Identity
    if Identity._meta.db_table in connections[using].introspection.table_names():
        Identity.objects.using(using).get_or_create(id=1, defaults={"uuid": uuid.uuid4().hex})


def check_databases(app_configs: Any, **kw: Any) -> List[Any]:
    found: List[Any] = []
    for alias in connections:
        c = connections[alias]
        if "TXNFS" in c.settings_dict and not hasattr(c, "txnfs"):
            found.append(checks.Error(
                f"the database {alias!r} has a TXNFS mount, but its ENGINE {c.settings_dict['ENGINE']!r} does not carry files",
                hint='"txnfs.django.backends.postgresql" or "txnfs.django.backends.sqlite3", or a backend with '
                     "txnfs.django.backend.FilesMixin", id="txnfs.E001"))
        elif hasattr(c, "txnfs") and not c.txnfs.mounts:
            found.append(checks.Error(f'the database {alias!r} carries files, but has no "TXNFS" that says of which mount',
                                      hint='"TXNFS": "/mnt/site"', id="txnfs.E002"))
    return found

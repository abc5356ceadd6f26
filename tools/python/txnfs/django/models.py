"""The database's side of commits: a row that is there says that the files of that GID are committed."""
from __future__ import annotations

from django.db import models


class Decision(models.Model):
    """
    Inserted before the files are prepared, in the database's own transaction, whose commit is the decision for both.
    Deleted when the files are committed.
    """
    gid = models.CharField(max_length=200, primary_key=True)
    mount = models.TextField()
    created = models.DateTimeField()

    class Meta:
        db_table = "txnfs_decision"


class Identity(models.Model):
    """One row: whose GIDs are this database's. Two projects may share a mount."""
    id = models.SmallIntegerField(primary_key=True)
    uuid = models.CharField(max_length=32)

    class Meta:
        db_table = "txnfs_identity"

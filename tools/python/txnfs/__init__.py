"""
Transactions for files on a txnfs mount.

    with txnfs.atomic("/mnt/site") as tx:
        with tx.open("account_a", "w") as f:
            f.write("70")

tools/python/README.md is the manual.
"""
from ._atomic import AtomicTransaction, atomic, current, on_commit, path
from ._atomic import open_ as open
from ._control import Prepared, commit_prepared, find_mount, prepared, rollback_prepared
from ._errors import (AlreadyInTransaction, Conflict, Deadlock, Disconnected, Error, InUse, LimitExceeded, NoSpace,
                      NotFound, NotInTransaction, NotMounted, NotPermitted, NotSupported, OutcomeUnknown, OutsideTransaction,
                      ReadOnly, RolledBack, SerializationFailure, TransactionError)
from ._retry import retry
from ._transaction import Transaction

__version__ = "1.0"
__all__ = [
    "AlreadyInTransaction", "AtomicTransaction", "Conflict", "Deadlock", "Disconnected", "Error", "InUse",
    "LimitExceeded", "NoSpace", "NotFound", "NotInTransaction", "NotMounted", "NotPermitted", "NotSupported", "OutcomeUnknown",
    "OutsideTransaction", "Prepared", "ReadOnly", "RolledBack", "SerializationFailure", "Transaction",
    "TransactionError", "atomic", "commit_prepared", "current", "find_mount", "on_commit", "open", "path", "prepared",
    "retry", "rollback_prepared",
]

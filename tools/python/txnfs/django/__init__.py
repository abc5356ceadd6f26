"""
Files that go with the rows: transaction.atomic() of a database carries the files of a txnfs mount.

    INSTALLED_APPS = [..., "txnfs.django"]
    DATABASES = {"default": {"ENGINE": "txnfs.django.backends.postgresql", ..., "TXNFS": "/mnt/site"}}
    DEFAULT_FILE_STORAGE = "txnfs.django.storage.TxnfsStorage"
    MEDIA_ROOT = "/mnt/site/media"

tools/python/README.md is the manual. backend.py has the hooks, files.py the two commits, recovery.py what a crash leaves.
"""

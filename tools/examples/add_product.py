#!/usr/bin/python3
"""
A row in a database and a file, both or neither:

    txnfs run --postgres dbname=shop /mnt/site -- add_product.py NUMBER NAME PICTURE

Whatever fails ends this program with an error, and `txnfs run` takes back what there is of both.
"""
import os
import shutil
import sys

import psycopg2

number, name, picture = sys.argv[1:]
db = psycopg2.connect(os.environ["TXNFS_POSTGRES"])
db.tpc_begin(os.environ["TXNFS_POSTGRES_GID"])
with db.cursor() as sql:
    sql.execute("INSERT INTO product (number, name, picture) VALUES (%s, %s, %s)", (number, name, number + ".jpg"))
shutil.copy(picture, os.path.join(os.environ["TXNFS_MOUNT"], number + ".jpg"))
db.tpc_prepare()  # not tpc_commit: `txnfs run` decides for both
db.close()

"""A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket, as a user that is not root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path


def program(name):
    """Where Debian or the path has a program of the server's; None: nowhere."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(places[0]) if places else shutil.which(name)


@contextlib.contextmanager
def serving():
    """A function that makes an empty database in a running server, and returns its address."""
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="dprag-postgres-"))
    who = {}
    if os.getuid() == 0:  # the server refuses root; Debian's package has made this user
        user = pwd.getpwnam("postgres")
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **who}
    address = f"postgresql:///{{}}?host={folder}&user=dprag"
    data = str(folder / "data")
    subprocess.run([program("initdb"), "-D", data, "-U", "dprag", "--auth=trust", "--encoding=UTF8", "--no-locale", "-N"], **run)
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c shared_buffers=32MB"
    control = [program("pg_ctl"), "-D", data, "-w"]
    subprocess.run([*control, "-l", str(folder / "log"), "-o", options, "start"], **run)

    def make():
        name = f"store_{uuid.uuid4().hex}"
        with psycopg.connect(address.format("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return address.format(name)

    try:
        yield make
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)
        shutil.rmtree(folder, ignore_errors=True)

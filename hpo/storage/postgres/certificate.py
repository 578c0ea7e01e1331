"""The certificate of a PostgreSQL server of one's own, which its clients know by heart.

It is its own authority: clients that are given it (`sslrootcert`) and ask for it
(`sslmode=verify-ca`) talk to the holder of its key alone, whatever its machine is called.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from hpo.errors import HpoError
from hpo.storage.postgres.programs import Programs, last_line

CERTIFICATE = "root.crt"
KEY = "server.key"
_DAYS = 3650
_PROGRAM = "openssl"


def require_tls(programs: Programs) -> None:
    """Refuse to let other machines in where what they send could be read on the way.

    Raises
    ------
    HpoError
        If PostgreSQL was built without TLS, or there is no program to make a certificate with.
    """
    lacks = ""
    if not programs.has_tls():
        lacks = f"PostgreSQL {programs.version} in {programs.folder} was built without TLS"
    elif shutil.which(_PROGRAM) is None:
        lacks = f"there is no program {_PROGRAM} to make a certificate with"
    if lacks:
        raise HpoError(
            f"the server is not opened to other machines: {lacks}, so that others on the network "
            "could read what workers send (but no password). Install a PostgreSQL that has it "
            "(Debian: postgresql) and start in a new folder, or say that you trust the network: "
            "--no-tls"
        )


def make_certificate(folder: Path) -> None:
    """Make a key and a certificate in a folder, if they are not there yet.

    Raises
    ------
    HpoError
        If that fails.
    """
    certificate, key = folder / CERTIFICATE, folder / KEY
    if certificate.is_file() and key.is_file():
        return
    # Before there is anything in it, nobody else may read it.
    key.unlink(missing_ok=True)
    key.touch(mode=0o600)
    done = subprocess.run(
        [
            *(_PROGRAM, "req", "-x509", "-nodes", "-days", str(_DAYS), "-subj", "/CN=hpo"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        certificate.unlink(missing_ok=True)
        raise HpoError(f"{certificate}: {_PROGRAM} cannot make it: {last_line(done.stderr)}")
    key.chmod(0o600)

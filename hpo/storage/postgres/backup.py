"""Backups of a PostgreSQL server of one's own: one file, and the command that restores it."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

from hpo.errors import HpoError
from hpo.storage.postgres.address import ROLE
from hpo.storage.postgres.programs import Programs, first_line
from hpo.system.atomic_files import is_stream, replacing


def write_backup(
    folder: Path, service_file: Path, programs: Programs, output: Path | None
) -> tuple[Path, str]:
    """Do what `Server.backup` says, for the server of a folder that `service_file` names."""
    if output is None:
        (folder / "backups").mkdir(mode=0o700, exist_ok=True)
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        output = folder / "backups" / f"hpo-{moment}.dump"
    if not is_stream(output):
        output = output.resolve()
    try:
        with replacing(output, 0o600) as partial:
            for name, arguments in (
                ("pg_dump", ("--format=custom", "--no-password", f"--file={partial}")),
                ("pg_restore", ("--list", partial)),
            ):
                target = () if name == "pg_restore" else (f"--dbname=service={ROLE}",)
                done = programs.run(
                    name, *arguments, *target, environment={"PGSERVICEFILE": str(service_file)}
                )
                if done.returncode != 0:
                    raise HpoError(
                        f"{folder}: {name} failed: {first_line(done.stderr)}; "
                        f"is the server running? (hpo db status {folder})"
                    )
    except OSError as exc:
        raise HpoError(f"{output}: cannot be written: {exc.strerror}") from exc
    service, restore, written = (
        shlex.quote(str(path)) for path in (service_file, programs.folder / "pg_restore", output)
    )
    command = (
        f"PGSERVICEFILE={service} {restore} --clean --if-exists --single-transaction "
        f"--dbname=service={ROLE} {written}"
    )
    return output, command

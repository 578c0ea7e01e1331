"""Settings of a PostgreSQL server of one's own, and who may log in from where."""

from __future__ import annotations

from collections.abc import Mapping

from hpo.storage.postgres.address import ADMIN

# A store that is small, shared by many, and must not lose what it was told.
SETTINGS: Mapping[str, str | int] = {
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "min_wal_size": "64MB",
    "max_wal_size": "256MB",
    "jit": "off",
    "max_parallel_workers_per_gather": 0,
    # Shared memory that belongs to a login is taken away by some systems when its owner logs out.
    "dynamic_shared_memory_type": "mmap",
    # A worker that vanished, or sleeps, within a transaction must not lock out the others.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": 30,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": "60s",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %h %a ",
}
_HERE = f"""\
local all all scram-sha-256
host all all 127.0.0.0/8 scram-sha-256
host all all ::1/128 scram-sha-256
host all all samehost scram-sha-256
host all {ADMIN} all reject
"""


def settings_text(values: Mapping[str, str | int]) -> str:
    """Return the text of a configuration file."""
    return "".join(f"{key} = '{_quoted(value)}'\n" for key, value in values.items())


def logins_text(*, shared: bool, tls: bool) -> str:
    """Return the text of `pg_hba.conf`: who may log in, the first line that fits counts."""
    others = f"{'hostssl' if tls else 'host'} all all all scram-sha-256\n" if shared else ""
    return _HERE + others


def _quoted(value: str | int) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "''")

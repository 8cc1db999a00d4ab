"""The role `wal_tracker run` logs in with: what a mode needs of it, and nothing more."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import psycopg2.extensions
from psycopg2 import sql

from wal_tracker.errors import PreflightFailed
from wal_tracker.secret import Secret
from wal_tracker.source.connection import Session, parse_dsn, read_sql
from wal_tracker.source.plan import MARK, Desired, composed

_ROUNDS = 4096
"""Of SCRAM: PostgreSQL's own default (scram_iterations)."""


@dataclass(frozen=True, slots=True)
class RolePlan:
    """A role to be made, or one of ours that is to be allowed more."""

    name: str
    statements: tuple[str, ...]
    """Without the password: they hold a SCRAM verifier of it, and may stand in a log."""
    dsn: Secret | None = field(repr=False)
    """How the new role connects; None: the role is there already and keeps its password."""


def plan_role(wanted: Desired, name: str) -> RolePlan:
    """
    What makes the role; changes nothing. The password is new each time.

    Raises:
        PreflightFailed: What the role is to read is not there yet, or a role of that name is not ours.
        SourceError: The server cannot be asked.
    """
    with Session(wanted.settings.primary_dsn or wanted.settings.dsn) as session:
        ((exists, may_replicate, mark, is_rds, database, has_schema, has_outbox),) = session.rows(
            read_sql("queries/role.sql"), {"role": name}, doing=f"looking for role {name!r}"
        )
        if not (has_outbox if wanted.mode == "trigger" else has_schema):
            raise PreflightFailed(["what the role is to read is not there yet; run `wal_tracker apply` first"])
        if exists and mark != MARK:
            raise PreflightFailed([f"role {name!r} is there already, and not ours; give another --name"])
        role = sql.Identifier(name)
        password = secrets.token_urlsafe(24)
        steps: list[sql.Composable] = []
        if not exists:
            kind = "trigger" if wanted.mode == "trigger" else "wal_rds" if is_rds else "wal"
            verifier = sql.Literal(scram_verifier(password, secrets.token_bytes(16)))
            steps.append(composed(f"role/create_{kind}.sql", role=role, password=verifier))
            steps.append(composed("role/mark.sql", role=role, mark=sql.Literal(MARK)))
        elif wanted.mode == "wal" and not may_replicate and not is_rds:
            steps.append(composed("role/allow_replication.sql", role=role))
        steps.append(composed("role/connect.sql", role=role, database=sql.Identifier(database)))
        steps.append(composed("role/schema.sql", role=role))
        if wanted.mode == "trigger":
            steps.append(composed("role/outbox.sql", role=role))
        statements = tuple(f"{session.as_string(step).rstrip().rstrip(';')};" for step in steps)
    dsn = None if exists else Secret(with_login(wanted.settings.dsn, name, password))
    return RolePlan(name, statements, dsn)


def make_role(wanted: Desired, planned: RolePlan) -> None:
    """
    Run the statements, in one transaction.

    Raises:
        SourceError: The server refused, or cannot be reached.
    """
    with Session(wanted.settings.primary_dsn or wanted.settings.dsn) as session:
        session.run("begin")
        for statement in planned.statements:
            # On an error the session ends with us, and the server rolls back. The first line names what was refused,
            # without what may follow on others.
            session.run(statement, doing=f"making role {planned.name!r}")
        session.run("commit")


def scram_verifier(password: str, salt: bytes) -> str:
    """
    What the server stores instead of a password. Pure.

    Args:
        password: ASCII, which SASLprep leaves as it is.
        salt: 16 random bytes.

    See: RFC 5803, src/common/scram-common.c
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ROUNDS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")

    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    return f"SCRAM-SHA-256${_ROUNDS}:{text(salt)}${text(stored_key)}:{text(server_key)}"


def with_login(dsn: str, user: str, password: str) -> str:
    """
    A connection string for another role; a URL where it was one. Pure.

    Raises:
        ConfigError: `dsn` is not a connection string.
    """
    parameters = {**parse_dsn(dsn), "user": user, "password": password}
    text = dsn.reveal() if isinstance(dsn, Secret) else dsn
    hosts = parameters.get("host", "").split(",")
    if not text.startswith(("postgres://", "postgresql://")) or any(host.startswith("/") for host in hosts):
        return str(psycopg2.extensions.make_dsn(**parameters))
    ports = parameters.pop("port", "").split(",")
    ports = ports if len(ports) == len(hosts) else ports * len(hosts)
    places = ",".join(
        (f"[{host}]" if ":" in host else quote(host)) + (f":{port}" if port else "")
        for host, port in zip(hosts, ports, strict=False)
    )
    del parameters["user"], parameters["password"]
    parameters.pop("host", None)
    database = parameters.pop("dbname", "")
    query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{places}/{quote(database, safe='')}{query}"

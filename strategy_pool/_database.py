"""A connection to the history's database: opened, migrated, and every access a short transaction that is retried."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

#: Newest migration; a database at it is opened without loading Alembic.
HEAD = "0002"
#: Keeps its name apart from the one of other programs in the same database.
VERSION_TABLE = "automl_history_version"

_MIGRATIONS = Path(__file__).parent / "migrations"
#: Seconds for which an access is repeated, and tries at reaching a server that is away.
_PATIENCE = 30.0
_RECONNECTS = 3
#: Parameters of a URL's query that may be shown to nobody.
_SECRET = re.compile("pass|pwd|user|key|token|secret", re.IGNORECASE)
_LOCK = 7_203_114_500_118_221  # PostgreSQL's advisory lock while migrating
_Result = TypeVar("_Result")


class HistoryError(ValueError):
    """The history cannot be opened, read or written; the message is one line without credentials."""


class Database:
    """An SQLAlchemy engine that survives many processes at once, and forks.

    SQLite runs in write-ahead mode, so readers and the writer do not wait for each other; a writer takes
    the write lock at the start of its transaction, because a lock that is upgraded later cannot wait.

    Args:
        url: an SQLAlchemy URL, or the path of an SQLite file.

    Raises:
        HistoryError: it is no URL, its driver is not installed, or the database cannot be opened.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self._url = _parse(url)
        self._lock = threading.Lock()
        self._engine: sa.Engine | None = None
        self._process = os.getpid()
        self._closed = False
        self.shown = _shown(self._url)
        if self._is_file:
            folder = Path(str(self._url.database)).parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise HistoryError(
                    f"history {self.shown} cannot be opened: {folder}: {error.strerror}"
                ) from None
        self._migrate()

    @property
    def _is_file(self) -> bool:
        return self._url.get_backend_name() == "sqlite" and not _in_memory(self._url)

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process."""
        with self._lock:
            if self._closed:
                raise HistoryError(f"history {self.shown} is closed; open it again")
            if self._engine is not None and self._process != os.getpid():
                self._engine.dispose(close=False)  # the connections belong to the parent process
                self._engine = None
            if self._engine is None:
                self._process = os.getpid()
                self._engine = self._create()
            return self._engine

    def _create(self) -> sa.Engine:
        try:
            if self._url.get_backend_name() != "sqlite":
                return sa.create_engine(self._url, pool_pre_ping=True, pool_size=2, hide_parameters=True)
            extra: dict[str, Any] = {}
            if not self._is_file:  # a database in memory lives as long as its one connection
                extra = {"poolclass": sa.StaticPool}
            engine = sa.create_engine(
                self._url,
                connect_args={"timeout": 10.0, "check_same_thread": False},
                hide_parameters=True,
                **extra,
            )
        except NoSuchModuleError:
            raise HistoryError(
                f"history {self.shown} cannot be opened: no database '{self._url.drivername}' is known; give "
                "sqlite:////path/history.db or postgresql+psycopg://user:password@host/name"
            ) from None
        except (ImportError, SQLAlchemyError) as error:
            missing = getattr(error, "name", None) or type(error).__name__
            hint = (
                "pip install 'automl-vision-engine[postgres]'"
                if "psycopg" in str(missing)
                else "install its driver"
            )
            raise HistoryError(
                f"history {self.shown} cannot be opened: {self._url.drivername} needs {missing}; {hint}"
            ) from None
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    def run(
        self, work: Callable[[sa.Connection], _Result], *, write: bool = False, doing: str = "read"
    ) -> _Result:
        """Do some work in one transaction; it is repeated while another process is in the way.

        Args:
            work: called with a connection, perhaps several times.
            write: whether it changes anything.
            doing: verb for the error: the history cannot be …

        Raises:
            HistoryError: it cannot be done.
            IntegrityError: a row of that key exists, or one that is referred to does not.
        """
        engine = self.engine
        until, pause, away = time.monotonic() + _PATIENCE, 0.005, 0
        while True:
            try:
                with (
                    engine.connect().execution_options(history_write=write) as connection,
                    connection.begin(),
                ):
                    return work(connection)
            except IntegrityError:
                raise
            except SQLAlchemyError as error:
                away += bool(getattr(error, "connection_invalidated", False))
                if not _passing(error) or away > _RECONNECTS or time.monotonic() > until:
                    raise HistoryError(
                        f"history {self.shown} cannot be {doing}: {self._reason(error)}"
                    ) from None
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(0.25, pause * 2)

    def _reason(self, error: SQLAlchemyError) -> str:
        original = getattr(error, "orig", None) or error
        text = " ".join(str(original).split()) or type(original).__name__
        if text == "unable to open database file" and self._url.database:
            text += "; its folder has to exist and to be writable"
        elif text == "file is not a database":
            text += "; name another file, or move this one away"
        return self.hide(text)[:400]

    def hide(self, text: str) -> str:
        """Return the text without the credentials of the URL."""
        secrets = [self._url.password]
        for name, given in self._url.query.items():
            if _SECRET.search(name):
                secrets += [given] if isinstance(given, str) else given
        for secret in secrets:
            if secret:
                text = text.replace(str(secret), "***")
        return text

    def _migrate(self) -> None:
        def version(connection: sa.Connection) -> str | None:
            if not sa.inspect(connection).has_table(VERSION_TABLE):
                return None
            found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
            return None if found is None else str(found)

        def upgrade(connection: sa.Connection) -> None:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            if version(connection) == HEAD:
                return
            from alembic import command

            command.upgrade(alembic_config(connection), "head")

        if self.run(version, doing="opened") == HEAD:
            return
        from alembic.util.exc import CommandError

        for attempt in range(5):
            try:
                self.run(upgrade, write=True, doing="prepared")
                return
            except CommandError:
                raise HistoryError(
                    f"history {self.shown} was written by a newer version of this program; upgrade the program"
                ) from None
            except (HistoryError, IntegrityError) as error:
                # Where the database has no lock of its own for this, another process may have been first.
                if self.run(version, doing="opened") == HEAD:
                    return
                if attempt == 4:
                    if isinstance(error, HistoryError):
                        raise
                    raise HistoryError(
                        f"history {self.shown} cannot be prepared: {self._reason(error)}"
                    ) from None
                time.sleep(0.05 * (attempt + 1))

    def close(self) -> None:
        """Close all connections; further access is an error."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose(close=self._process == os.getpid())
            self._engine, self._closed = None, True


def alembic_config(connection: sa.Connection) -> Any:
    """Return what Alembic's commands need to work on this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    return config


def _parse(url: str | os.PathLike[str]) -> sa.URL:
    text = os.fspath(url)
    if not text.strip():
        raise HistoryError("history is an empty text; give a database URL such as sqlite:////path/history.db")
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        parsed = sa.make_url(text)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise HistoryError(
            "history is not a database URL; the form is sqlite:////path/history.db or "
            "postgresql+psycopg://user:password@host/name"
        ) from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and str(parsed.database).startswith("file:"):
        raise HistoryError("history is an SQLite file: URI; give the form sqlite:////path/history.db")
    if backend == "sqlite" and not _in_memory(parsed):
        # Absolute, because a worker process may have another working directory.
        parsed = parsed.set(database=str(Path(str(parsed.database)).expanduser().absolute()))
    return parsed


def _in_memory(url: sa.URL) -> bool:
    return url.database in (None, "", ":memory:")


def _shown(url: sa.URL) -> str:
    return url.set(query={}).render_as_string(hide_password=True)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA busy_timeout = 10000")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = NORMAL")
        until = time.monotonic() + 30.0
        while True:  # changing the mode does not wait for others as all else does
            try:
                if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    cursor.execute("PRAGMA journal_mode = WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0.01, 0.05))
    finally:
        cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("history_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _passing(error: SQLAlchemyError) -> bool:
    """Whether the same work may succeed a moment later."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    text = str(error.orig)
    if isinstance(error.orig, sqlite3.OperationalError):
        return "locked" in text or "busy" in text
    return getattr(error.orig, "sqlstate", None) in ("40001", "40P01", "55P03") or "try restarting" in text

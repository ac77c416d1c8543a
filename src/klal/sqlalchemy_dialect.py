"""SQLAlchemy's SQLite dialect over `klal.dbapi`: create_engine("klal:///season.db?home=keys&member=ana").

It is the SQLite dialect in everything that concerns SQL, and keeps that name, so that what is written for SQLite
(type variants, `sqlalchemy.dialects.sqlite.insert`) works. Here is only what concerns the driver.

Source:
    Decision 0024. SQLAlchemy's `pysqlite` dialect, the same class over another driver.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sqlalchemy import URL, Connection
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.exc import ArgumentError

from klal.model.schema import fold

_QUERY_NAMES = frozenset(["home", "member"])


class KlalDialect(SQLiteDialect):
    """SQLite's SQL over klal's connections."""

    driver = "klal"
    default_paramstyle = "qmark"
    supports_statement_cache = True
    returns_native_bytes = True

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        """Return the driver."""
        from klal import dbapi  # noqa: PLC0415 - SQLAlchemy's own place for this import

        return dbapi

    def create_connect_args(self, url: URL) -> tuple[list[str], dict[str, Any]]:
        """Return the arguments of `klal.dbapi.connect` that a URL stands for.

        Raises:
            ArgumentError: It names no file, or more than klal knows of.
        """
        if url.host or url.port or url.username or url.password or not url.database:
            raise ArgumentError(f"{url!r} names no file, want klal:///relative/path.db or klal:////absolute/path.db")
        unknown = sorted(set(url.query) - _QUERY_NAMES)
        if unknown:
            raise ArgumentError(f"{url!r} says {', '.join(unknown)}, want no more than home and member")
        return [url.database], dict(url.query)

    def _get_server_version_info(self, connection: Connection) -> tuple[int, ...]:
        version: tuple[int, ...] = self.import_dbapi().sqlite_version_info
        return version

    # -- transactions ----------------------------------------------------------------------

    def get_isolation_level_values(self, dbapi_connection: Any) -> list[Any]:
        """Return the levels that an engine may be asked for."""
        return ["SERIALIZABLE", "AUTOCOMMIT"]

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        """Return the level of a connection."""
        return "AUTOCOMMIT" if dbapi_connection.autocommit else "SERIALIZABLE"

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Set the level of a connection."""
        dbapi_connection.autocommit = level == "AUTOCOMMIT"

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        """True when every statement commits by itself."""
        return bool(dbapi_conn.autocommit)

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """True when an error says that the file is not open any more."""
        return isinstance(e, self.import_dbapi().ProgrammingError) and str(e) == "the connection is closed"

    # -- reflection ------------------------------------------------------------------------

    def get_table_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:  # type: ignore[override]
        """Return the user's tables: klal's own are none that a program could declare or drop."""
        names: list[str] = super().get_table_names(connection, schema, **kw)  # type: ignore[no-untyped-call]
        return [name for name in names if not fold(name).startswith("klal_")]

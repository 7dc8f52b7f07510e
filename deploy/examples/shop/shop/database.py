"""Users and plans in SQLite."""

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS plans (name TEXT PRIMARY KEY, orders TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS users (
    name TEXT PRIMARY KEY, password TEXT NOT NULL, plan TEXT NOT NULL REFERENCES plans (name)
);
"""
_PLANS = {"free": "2/minute", "pro": "5/minute", "staff": "1000/minute"}
_USERS = {"alice": "free", "bob": "pro", "root": "staff"}
"""Demonstration users. The password of each is its name with `-secret`."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the shop.

    Args:
        name: Name, which is the principal of its limits.
        plan: Plan, which is the tier of its limits.
    """

    name: str
    plan: str


class Database:
    """Users and their plans.

    Args:
        path: File, which is created with the demonstration users if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._connect() as connection:
            connection.executescript(_SCHEMA)
            for plan, orders in _PLANS.items():
                connection.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (plan, orders))
            for name, plan in _USERS.items():
                row = (name, _hashed(f"{name}-secret"), plan)
                connection.execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", row)

    def user(self, name: str) -> User | None:
        """Return a user by name; None without one."""
        with self._connect() as connection:
            query = "SELECT name, plan FROM users WHERE name = ?"
            row = connection.execute(query, (name,)).fetchone()
        return User(*row) if row else None

    def orders_of(self, plan: str) -> str | None:
        """Return the rate of orders of a plan, such as `5/minute`; None without such a plan."""
        with self._connect() as connection:
            query = "SELECT orders FROM plans WHERE name = ?"
            row = connection.execute(query, (plan,)).fetchone()
        return str(row[0]) if row else None

    def set_orders(self, plan: str, orders: str) -> None:
        """Change the rate of orders of a plan."""
        with self._connect() as connection:
            connection.execute("UPDATE plans SET orders = ? WHERE name = ?", (orders, plan))

    def verify(self, name: str, password: str) -> bool:
        """Return whether a password is that of a user."""
        with self._connect() as connection:
            query = "SELECT password FROM users WHERE name = ?"
            row = connection.execute(query, (name,)).fetchone()
        # As much work for an unknown name, so that the time does not disclose which names exist.
        stored = str(row[0]) if row else _hashed("")
        salt = bytes.fromhex(stored.partition(":")[0])
        return hmac.compare_digest(_hashed(password, salt), stored) and row is not None

    @contextmanager
    def _connect(self) -> Generator[sqlite3.Connection, None, None]:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            yield connection


def _hashed(password: str, salt: bytes | None = None) -> str:
    salt = salt if salt is not None else secrets.token_bytes(16)
    return f"{salt.hex()}:{hashlib.scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1).hex()}"

"""The connection of type ``leeward``."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from . import DEFAULT_CONNECTION
from .site import Site, SiteError, of_connection


class LeewardHook(BaseHook):
    """A Leeward site, by the name of its connection."""

    conn_name_attr = "leeward_conn_id"
    default_conn_name = DEFAULT_CONNECTION
    conn_type = "leeward"
    hook_name = "Leeward site"

    def __init__(self, leeward_conn_id: str = DEFAULT_CONNECTION, **named):
        super().__init__(**named)
        self.leeward_conn_id = leeward_conn_id

    def get_conn(self) -> Site:
        return of_connection(self.get_connection(self.leeward_conn_id))

    def test_connection(self) -> tuple[bool, str]:
        try:
            who = self.get_conn().whoami()
        except (SiteError, ValueError, OSError) as error:
            return False, str(error)
        if who["role"] not in ("operator", "admin"):
            return False, f"{who['name']} is a {who['role']}; steps are released by an operator"
        return True, f"connected as {who['name']} ({who['role']})"

    @staticmethod
    def get_ui_field_behaviour() -> dict[str, Any]:
        return {
            "hidden_fields": ["login"],
            "relabeling": {"password": "Token", "schema": "Schema (https)"},
            "placeholders": {
                "host": "leeward.example.org",
                "port": "7443",
                "extra": '{"ca_file": "/etc/leeward/ca-cert.pem"}',
            },
        }

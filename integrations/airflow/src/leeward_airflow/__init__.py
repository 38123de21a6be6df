"""Leeward for Airflow: each task one step of a durable run at a Leeward site."""

__version__ = "0.1.0"

#: The connection that is used where none is named.
DEFAULT_CONNECTION = "leeward_default"


def provider_info() -> dict:
    """What Airflow's list of providers and its form of connections need to know."""
    return {
        "package-name": "leeward-airflow",
        "name": "Leeward",
        "description": "Imports of disk images by a Leeward site, one task per step.",
        "connection-types": [
            {
                "connection-type": "leeward",
                "hook-name": "Leeward site",
                "hook-class-name": "leeward_airflow.hooks.LeewardHook",
            }
        ],
    }

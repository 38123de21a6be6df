"""The DAG of an import: a disk image in a bucket becomes a volume."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, chain

from . import DEFAULT_CONNECTION
from .operators import RUN_KEY, LeewardImportOperator, LeewardStepOperator

#: The DAG that people know from Oracle's published solution, and its tasks.
DAG_ID = "1_virtual_disk_to_oci_block_volume"
STEPS = (
    "get_file_head",
    "create_instance",
    "get_private_ip",
    "wait_cloud_init_execution",
    "download_image_from_bucket",
    "create_block_volume",
    "attach_block_volume",
    "wait_for_attachment",
    "write_image_to_bv",
    "fsck_on_block_volume",
    "detach_block_volume",
    "terminate_instance",
    "update_performance_of_bv",
    "setup_backup_policy",
)

_DOC = """
Imports a disk image as a volume. Each task is a step of one run at a Leeward site: the site does the work, Airflow says when each
step may begin and shows how it ended. A step that the site does not need is *skipped*. A task that failed is cleared when what it
complains of is mended: its step is then tried again, and nothing before it is done twice.
"""


def import_dag(
    dag_id: str = DAG_ID,
    *,
    leeward_conn_id: str = DEFAULT_CONNECTION,
    step_arguments: dict[str, Any] | None = None,
    **dag_arguments,
) -> DAG:
    """The DAG; ``step_arguments`` are given to every operator, ``dag_arguments`` to :class:`airflow.sdk.DAG`."""
    arguments: dict[str, Any] = {
        "schedule": None,
        "catchup": False,
        "tags": ["leeward", "import"],
        "doc_md": _DOC,
        "params": import_params(),
        **dag_arguments,
    }
    shared = {
        "leeward_conn_id": leeward_conn_id,
        # A step before it may be skipped, and mostly some are.
        "trigger_rule": "none_failed",
        **(step_arguments or {}),
    }
    with DAG(dag_id, **arguments) as dag:
        first, *rest = STEPS
        begin = LeewardImportOperator(task_id=first, **shared)
        run = f"{{{{ ti.xcom_pull(task_ids='{first}', key='{RUN_KEY}') }}}}"
        chain(begin, *(LeewardStepOperator(task_id=step, leeward_run=run, **shared) for step in rest))
    return dag


def import_params() -> dict[str, Param]:
    """What a DAG run is given: the first three as Oracle's function sends them."""
    text_or_none = ["string", "null"]
    return {
        "bucket_name": Param("", type="string", description="A source of the site, or the bucket of one"),
        "object_name": Param("", type="string", description="The disk image"),
        "ad_number": Param(
            0, type=["integer", "string", "null"], description="Availability domain; 0: as the object says"
        ),
        "target": Param(None, type=text_or_none, description="A target of the site; the source's own where empty"),
        "version": Param(None, type=text_or_none, description="The version that is meant; the newest where empty"),
        "options": Param({}, type="object", description="volume_name, backup_policy, vpus_per_gb, kms_key and others"),
    }

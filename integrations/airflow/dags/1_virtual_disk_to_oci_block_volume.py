"""Copy this into Airflow's folder of DAGs: "airflow" and "dag" are the words by which Airflow finds it."""

from leeward_airflow.imports import import_dag

dag = import_dag()

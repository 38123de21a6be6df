"""Tasks that are steps of a Leeward run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from airflow.sdk import BaseOperator

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError:  # Airflow 3.1 has them here.
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from . import DEFAULT_CONNECTION
from .conductor import Command, Decision, Failed, Skipped, StepLog, Succeeded, Wait, advance
from .hooks import LeewardHook
from .site import Site, SiteError
from .triggers import StepTrigger

#: The key under which the first task leaves the name of the run.
RUN_KEY = "leeward_run"
#: How often one DAG run may begin an import whose run was then cancelled.
RUNS_MAX = 100
#: How long the first task waits for a site that does not answer; without a run there is nothing to defer for.
BEGIN_SECONDS = 120.0


class LeewardStepOperator(BaseOperator):
    """Has one step of a Leeward run done, and ends as the step does.

    :param leeward_run: the run; a template
    :param step: the step's name; the task's own where absent
    :param leeward_conn_id: the connection
    :param patience_seconds: how long the worker waits itself before the triggerer waits for it: most steps take less
    :param poll_seconds: how often the triggerer looks
    :param unreachable_seconds: how long a site may not answer before the task fails
    """

    template_fields: Sequence[str] = ("leeward_run",)
    ui_color = "#d7e8f2"

    def __init__(
        self,
        *,
        leeward_run: str = "",
        step: str | None = None,
        leeward_conn_id: str = DEFAULT_CONNECTION,
        patience_seconds: float = 8.0,
        poll_seconds: float = 5.0,
        unreachable_seconds: float = 900.0,
        **named,
    ):
        super().__init__(**named)
        self.leeward_run = leeward_run
        self.step = step or self.task_id
        self.leeward_conn_id = leeward_conn_id
        self.patience_seconds = patience_seconds
        self.poll_seconds = poll_seconds
        self.unreachable_seconds = unreachable_seconds

    def execute(self, context) -> Any:
        if not self.leeward_run or self.leeward_run == "None":
            raise AirflowFailException("there is no Leeward run: clear the first task, which begins it")
        return self._begin_step(self.leeward_run)

    def resume(self, context, event: dict[str, Any], fresh: bool) -> Any:
        """Goes on when the triggerer has seen something."""
        if event["error"]:
            raise _exception(event["error"], event["passing"])
        return self._go_on(self.leeward_run, event["after"], fresh=fresh, patience_seconds=0)

    def _site(self) -> Site:
        try:
            return LeewardHook(self.leeward_conn_id).get_conn()
        except ValueError as error:
            raise AirflowFailException(f"connection {self.leeward_conn_id}: {error}") from None

    def _begin_step(self, run: str) -> Any:
        self.log.info("Step %s of run %s", self.step, run)
        return self._go_on(run, 0, fresh=True, patience_seconds=self.patience_seconds)

    def _go_on(self, run: str, after: int, *, fresh: bool, patience_seconds: float) -> Any:
        site = self._site()
        log = StepLog(site, run, self.step, after)

        def look(fresh: bool) -> Decision:
            decision = advance(site, run, self.step, fresh=fresh, log=log, tell=self._tell)
            log.hand_on(self.log)
            return decision

        try:
            decision = look(fresh)
        except SiteError as error:
            self._let_pass(error)
            self._defer(run, log.after, fresh=fresh and not getattr(self, "_retried", False))
        end = time.monotonic() + patience_seconds
        pause = 0.2
        while isinstance(decision, Wait) and time.monotonic() < end:
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            try:
                decision = look(fresh=False)
            except SiteError as error:
                self._let_pass(error)
                break
        return self._conclude(run, log, decision)

    def _tell(self, command: Command) -> None:
        # What was accepted once is not asked for again, also if the site cannot be seen right after it.
        if command.verb == "retry" and command.body["step"] == self.step:
            self._retried = True
        self.log.info("%s: %s", command.body["step"], command.why)

    def _let_pass(self, error: SiteError) -> None:
        """The triggerer has the patience to wait for a daemon that is started anew; what cannot pass fails the task."""
        if not error.passing:
            raise _exception(str(error), passing=False) from error
        self.log.warning("%s", error)

    def _conclude(self, run: str, log: StepLog, decision: Decision) -> Any:
        match decision:
            case Wait(why):
                self.log.info("%s; the triggerer waits for it", why)
                self._defer(run, log.after, fresh=False)
            case Succeeded(outputs):
                return outputs
            case Skipped(reason):
                raise AirflowSkipException(reason)
            case Failed(reason, passing):
                raise _exception(f"{self.step}: {reason}", passing)

    def _defer(self, run: str, after: int, *, fresh: bool) -> NoReturn:
        trigger = StepTrigger(
            conn_id=self.leeward_conn_id,
            leeward_run=run,
            step=self.step,
            after=after,
            fresh=fresh,
            poll_seconds=self.poll_seconds,
            unreachable_seconds=self.unreachable_seconds,
        )
        self.defer(trigger=trigger, method_name="resume", kwargs={"fresh": fresh})


class LeewardImportOperator(LeewardStepOperator):
    """The first step of an import: begins the run of which the DAG run's params tell, then has the step done.

    The run is begun once for a DAG run, however often the task is tried or cleared. Only one that was cancelled, or that
    failed and is undone, is followed by another.
    """

    def execute(self, context) -> Any:
        run = self._begin_run(context)
        context["ti"].xcom_push(key=RUN_KEY, value=run)
        return self._begin_step(run)

    def resume(self, context, event: dict[str, Any], fresh: bool) -> Any:
        self.leeward_run = context["ti"].xcom_pull(task_ids=self.task_id, key=RUN_KEY)
        return super().resume(context, event, fresh)

    def _begin_run(self, context) -> str:
        site = self._site()
        end = time.monotonic() + BEGIN_SECONDS
        while True:
            try:
                return self._begin_once(site, context)
            except SiteError as error:
                if not error.passing or time.monotonic() > end:
                    raise _exception(str(error), error.passing) from error
                self.log.warning("%s; asking again", error)
                time.sleep(self.poll_seconds)

    def _begin_once(self, site: Site, context) -> str:
        try:
            request = import_request(context["params"])
        except ValueError as error:
            raise AirflowFailException(str(error)) from None
        request["source"] = site.source_of(request["source"])
        for number in range(RUNS_MAX):
            run = site.begin(request, begin_key(context["dag_run"], number))
            if site.see(run).run["state"] not in ("cancelled", "failed"):
                self.log.info("Run %s: %s", run, site.page_of(run))
                return run
            self.log.info("run %s has ended without a volume; another one is begun", run)
        raise AirflowFailException(f"{RUNS_MAX} runs of this DAG run were cancelled; trigger another DAG run")


def begin_key(dag_run, number: int) -> str:
    """One key for a DAG run: the same at every try, another one for a DAG run that was deleted and made anew under its name."""
    facts = [dag_run.dag_id, dag_run.run_id, dag_run.run_after.isoformat(), number]
    return "airflow-" + hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def import_request(params) -> dict[str, Any]:
    """What the params ask for, as the site takes it."""
    bucket, name = params.get("bucket_name"), params.get("object_name")
    if not bucket or not name:
        raise ValueError("params need bucket_name and object_name")
    options = dict(params.get("options") or {})
    # 0 is what Oracle's function sends where the object says nothing: then the object's metadata decides.
    if number := _number(params.get("ad_number")):
        options["ad_number"] = number
    request = {"source": bucket, "object": name, "gated": True, "options": options}
    for optional in ("target", "version"):
        if params.get(optional):
            request[optional] = params[optional]
    return request


def _number(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        raise ValueError(f"ad_number {value!r} is no number") from None


def _exception(reason: str, passing: bool) -> AirflowException:
    """Airflow's own retries are for what may pass; the rest waits for a person, who mends it and clears the task."""
    return AirflowException(reason) if passing else AirflowFailException(reason)

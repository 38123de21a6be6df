"""Waiting for a step without holding a worker's slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk import BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from .conductor import StepLog, Wait, decide
from .site import Seen, Site, SiteError, of_connection

#: Seconds between lines about how far a step is.
TELL_SECONDS = 30.0


class StepTrigger(BaseTrigger):
    """Ends when there is something to be done about a step; meanwhile it hands on the step's log.

    A site that does not answer is asked again for ``unreachable_seconds``: a daemon that is started anew goes on with its
    runs, so the task has nothing to do about that. Marking the task as failed, or clearing it, leaves the step as it is.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        leeward_run: str,
        step: str,
        after: int,
        fresh: bool,
        poll_seconds: float,
        unreachable_seconds: float,
    ):
        super().__init__()
        self.conn_id = conn_id
        self.leeward_run = leeward_run
        self.step = step
        self.after = after
        self.fresh = fresh
        self.poll_seconds = poll_seconds
        self.unreachable_seconds = unreachable_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        # The connection by its name: what is serialized is kept in Airflow's database.
        names = ("conn_id", "leeward_run", "step", "after", "fresh", "poll_seconds", "unreachable_seconds")
        return f"{__name__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        connection = await BaseHook.aget_connection(self.conn_id)
        site = await asyncio.to_thread(of_connection, connection)
        log = StepLog(site, self.leeward_run, self.step, self.after)
        answered = told = time.monotonic()
        while True:
            error = None
            try:
                seen = await asyncio.to_thread(self._look, site, log)
            except SiteError as failure:
                error = failure
            now = time.monotonic()
            if error is None:
                answered = now
                if not isinstance(decide(seen.run, self.step, fresh=self.fresh), Wait):
                    yield TriggerEvent({"after": log.after, "error": None})
                    return
                if now - told >= TELL_SECONDS:
                    told = now
                    self._tell_progress(seen)
            elif not error.passing or now - answered > self.unreachable_seconds:
                event = {"after": log.after, "error": str(error), "passing": error.passing}
                yield TriggerEvent(event)
                return
            else:
                self.log.warning("%s; asking again", error)
            await asyncio.sleep(self.poll_seconds)

    def _look(self, site: Site, log: StepLog) -> Seen:
        # The run first: its last lines are there when it says that a step is over.
        seen = site.see(self.leeward_run)
        log.hand_on(self.log)
        return seen

    def _tell_progress(self, seen: Seen) -> None:
        progress = seen.progress.get(self.step)
        if progress and progress.get("total"):
            share = 100 * progress["done"] // progress["total"]
            self.log.info("%d of %d bytes (%d %%) %s", progress["done"], progress["total"], share, progress["note"])

"""What a task does about its step, as a table: without Airflow, without a site."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from leeward_airflow.conductor import (
    Command,
    Failed,
    Skipped,
    StepLog,
    Succeeded,
    Wait,
    advance,
    decide,
)
from leeward_airflow.site import Seen, SiteError


def step(name, state="pending", **more):
    record = {"name": name, "state": state, "released": False, "outputs": None, "failure": None, "skipped": None}
    return {**record, "attempts": 1, "next_at": None, **more}


def run(state="running", *steps, may_skip=("check",)):
    plan, before = [], []
    for one in steps:
        plan.append({"name": one["name"], "after": list(before), "may_skip": one["name"] in may_skip})
        before = [one["name"]]
    return {"id": "r1", "state": state, "reason": None, "plan": {"kind": "import", "steps": plan}, "steps": list(steps)}


FAULT = {"message": "the disk is full", "hint": "make room", "passing": False}
PASSING = {**FAULT, "passing": True}


class Decisions(unittest.TestCase):
    def check(self, document, expected, name="write", fresh=True):
        decision = decide(document, name, fresh=fresh)
        if isinstance(decision, Command):
            self.assertEqual((decision.verb, decision.body["step"]), expected)
        else:
            self.assertIsInstance(decision, expected)
        return decision

    def test_a_step_that_may_begin_is_released_once(self):
        self.check(run("queued", step("write")), ("release", "write"))
        self.check(run("running", step("write", released=True)), Wait)
        self.check(run("running", step("write", "running")), Wait)
        self.check(run("running", step("write", "waiting", failure=PASSING, next_at="soon")), Wait)

    def test_a_step_that_is_over_ends_its_task_at_once_however_often_that_is_cleared(self):
        self.assertEqual(
            decide(run("succeeded", step("write", "succeeded", outputs={"a": 1})), "write", fresh=True),
            Succeeded({"a": 1}),
        )
        self.assertEqual(
            decide(run("running", step("write", "skipped", skipped="no need")), "write", fresh=True), Skipped("no need")
        )
        self.check(run("cancelled", step("write", "succeeded")), Succeeded)

    def test_a_failed_step_is_tried_again_by_a_task_that_begins_and_fails_one_that_has_waited(self):
        held = run("held", step("write", "failed", failure=FAULT))
        self.check(held, ("retry", "write"))
        failed = self.check(held, Failed, fresh=False)
        self.assertEqual(failed, Failed("the disk is full — make room", passing=False))
        self.assertTrue(
            self.check(run("running", step("write", "failed", failure=PASSING)), Failed, fresh=False).passing
        )

    def test_what_was_marked_as_done_in_airflow_is_skipped_at_the_site_where_it_may_be(self):
        for state in ("failed", "pending"):
            self.check(run("held", step("check", state, failure=FAULT), step("write")), ("skip", "check"))
        told = self.check(run("held", step("make", "failed", failure=FAULT), step("write")), Failed)
        self.assertIn("make before it is failed", told.reason)
        self.assertFalse(told.passing)

    def test_the_first_step_that_is_not_over_counts(self):
        document = run("held", step("make", "failed", failure=FAULT), step("check"), step("write"))
        self.assertIn("make before it", self.check(document, Failed).reason)
        document = run("running", step("check", "running"), step("write"))
        self.check(document, Wait)
        self.check(run("running", step("check", "pending", released=True), step("write")), Wait)

    def test_a_run_that_is_over_or_goes_back_fails_the_task(self):
        for state in ("cancelling", "undoing", "cancelled", "failed", "undo-failed", "succeeded"):
            self.assertFalse(self.check(run(state, step("write")), Failed).passing)
        self.check(run("cancelling", step("write", "running")), Failed, fresh=False)
        self.check(run("running", step("write", "undone")), Failed)
        self.check(run("running", step("other")), Failed)


class Changing:
    """A site whose run changes under the first commands."""

    def __init__(self, *documents, refuse=()):
        self.documents, self.refuse, self.commands = list(documents), list(refuse), []

    def see(self, _run):
        return Seen(self.documents[0], {}, f'"{len(self.documents)}"')

    def command(self, _run, verb, body, tag):
        self.commands.append((verb, body["step"], tag))
        if len(self.documents) > 1:
            self.documents.pop(0)
        if self.refuse:
            raise SiteError("no", status=self.refuse.pop(0))

    def log(self, _run, _step, after):
        return [
            {"number": number, "level": "info", "text": str(number)} for number in range(after + 1, min(after + 3, 6))
        ]


class Advances(unittest.TestCase):
    def advance(self, site, fresh=True):
        told = []
        log = StepLog(site, "r1", "write")
        decision = advance(site, "r1", "write", fresh=fresh, log=log, tell=told.append)
        return decision, [command.verb for command in told], log

    def test_a_retry_is_followed_by_a_release_and_old_lines_are_passed_over(self):
        site = Changing(
            run("held", step("write", "failed", failure=FAULT)),
            run("queued", step("write")),
            run("running", step("write", released=True)),
        )
        decision, told, log = self.advance(site)
        self.assertIsInstance(decision, Wait)
        self.assertEqual(told, ["retry", "release"])
        self.assertEqual(log.after, 5)

    def test_a_step_that_fails_again_right_after_its_retry_is_not_tried_without_end(self):
        site = Changing(run("held", step("write", "failed", failure=FAULT)))
        decision, told, _ = self.advance(site)
        self.assertIsInstance(decision, Failed)
        self.assertEqual(told, ["retry"])

    def test_a_run_that_changed_is_looked_at_again_and_other_refusals_are_told(self):
        site = Changing(run("running", step("write")), run("running", step("write", "succeeded")), refuse=[412])
        decision, told, _ = self.advance(site)
        self.assertIsInstance(decision, Succeeded)
        self.assertEqual((told, site.commands), ([], [("release", "write", '"2"')]))
        with self.assertRaises(SiteError):
            self.advance(Changing(run("running", step("write")), refuse=[403]))


if __name__ == "__main__":
    unittest.main()

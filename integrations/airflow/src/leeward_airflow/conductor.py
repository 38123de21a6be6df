"""What a task does about its step: deciding, apart from doing.

A task of Airflow and a step of a Leeward run are two states of one thing. :func:`decide` compares them and says what is next; it
is a function of the run's document, so what a repeated, cleared or late task does can be tested as a table. :func:`advance`
carries it out. Each command is for the run as it was seen: where it has changed meanwhile, it is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .site import Seen, Site, SiteError

#: How often a run may change under a command before it is left for later.
ROUNDS_MAX = 20

DONE = ("succeeded", "skipped")
ACTIVE = ("running", "waiting")


@dataclass(frozen=True)
class Wait:
    """Nothing to be done until the run changes."""

    why: str


@dataclass(frozen=True)
class Command:
    """Something to ask of the run."""

    verb: str
    body: dict[str, Any]
    why: str


@dataclass(frozen=True)
class Succeeded:
    """The step is done."""

    outputs: Any


@dataclass(frozen=True)
class Skipped:
    """The step was not needed."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The task fails. ``passing`` says whether trying again may help without a person."""

    reason: str
    passing: bool


Decision = Wait | Command | Succeeded | Skipped | Failed


def decide(run: dict[str, Any], name: str, *, fresh: bool) -> Decision:
    """What is next for the step ``name``. ``fresh`` says that a task begins, for the first time or again: what had failed
    before is then tried again; where the task has only waited, it has failed now."""
    step = _step(run, name)
    if step is None:
        return Failed(f"run {run['id']} has no step {name}: it is a {run['plan']['kind']}", passing=False)
    if step["state"] == "succeeded":
        return Succeeded(step["outputs"])
    if step["state"] == "skipped":
        return Skipped(step["skipped"] or "skipped")
    if run["state"] not in ("queued", "running", "held"):
        return Failed(f"run {run['id']} is {run['state']}{_because(run)}", passing=False)
    if step["state"] in ACTIVE:
        return Wait(_of_active(step))
    return _before(run, name) or _of_own(run, step, fresh)


def _step(run: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((step for step in run["steps"] if step["name"] == name), None)


def _because(run: dict[str, Any]) -> str:
    return f" ({run['reason']})" if run.get("reason") else ""


def _of_active(step: dict[str, Any]) -> str:
    if step["state"] == "waiting":
        message = (step["failure"] or {}).get("message", "")
        return f"attempt {step['attempts']} failed and is made again at {step['next_at']}: {message}"
    return "it is under way"


def _before(run: dict[str, Any], name: str) -> Decision | None:
    """What has to be seen to before the step can begin: a step before it that is not done. Airflow begins a task only when
    those before it are over, so a person has marked that one as done, or set it back at the site."""
    ancestors = _ancestors(run, name)
    for plan in run["plan"]["steps"]:
        step = _step(run, plan["name"])
        if plan["name"] not in ancestors or step["state"] in DONE:
            continue
        if step["state"] in ACTIVE or (step["state"] == "pending" and step["released"]):
            return Wait(f"{plan['name']} before it is not over")
        if plan["may_skip"]:
            reason = "marked as done in Airflow"
            why = f"{plan['name']} is {step['state']} at the site and was marked as done here: it is skipped there"
            return Command("skip", {"step": plan["name"], "reason": reason}, why)
        return Failed(f"{plan['name']} before it is {step['state']} at the site: clear that task", passing=False)
    return None


def _ancestors(run: dict[str, Any], name: str) -> set[str]:
    after = {plan["name"]: plan["after"] for plan in run["plan"]["steps"]}
    found: set[str] = set()
    left = list(after[name])
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left.extend(after[one])
    return found


def _of_own(run: dict[str, Any], step: dict[str, Any], fresh: bool) -> Decision:
    name = step["name"]
    if step["state"] == "failed":
        failure = step["failure"] or {"message": "it failed", "hint": "", "passing": False}
        if fresh:
            return Command("retry", {"step": name}, f"it is tried again; it had failed: {failure['message']}")
        hint = f" — {failure['hint']}" if failure["hint"] else ""
        return Failed(f"{failure['message']}{hint}", passing=bool(failure["passing"]))
    if step["state"] != "pending":
        return Failed(f"it is {step['state']} at the site", passing=False)
    if run["state"] == "held":
        return Failed(f"run {run['id']} is held{_because(run)}", passing=False)
    if not step["released"]:
        return Command("release", {"step": name}, "it begins")
    return Wait("the run waits for an engine, or for a place in a pool" if run["state"] == "queued" else "it begins")


class StepLog:
    """The lines of a step's log at the site, each handed on once."""

    def __init__(self, site: Site, run: str, step: str, after: int = 0):
        self._site, self._run, self._step = site, run, step
        self.after = after

    def new(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        while page := self._site.log(self._run, self._step, self.after):
            self.after = page[-1]["number"]
            lines.extend(page)
        return lines

    def hand_on(self, log) -> None:
        for line in self.new():
            level = {"warning": log.warning, "error": log.error}.get(line["level"], log.info)
            level("%s", line["text"])


def advance(site: Site, run: str, name: str, *, fresh: bool, log: StepLog, tell: Callable[[Command], None]) -> Decision:
    """Does what is to be done now, and says where that leads: never to a command."""
    for _ in range(ROUNDS_MAX):
        seen: Seen = site.see(run)
        decision = decide(seen.run, name, fresh=fresh)
        if not isinstance(decision, Command):
            return decision
        if decision.body["step"] == name:
            # What attempts before this one said is in the log of an earlier try.
            log.new()
        try:
            site.command(run, decision.verb, decision.body, seen.tag)
        except SiteError as error:
            # Changed since it was seen, or no longer in a state for it: look again.
            if error.status in (409, 412):
                continue
            raise
        tell(decision)
        if decision.verb == "retry":
            fresh = False
    raise SiteError(f"run {run} changes too fast to be conducted", hint="see who else steers it", passing=True)

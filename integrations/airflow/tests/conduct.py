"""An import conducted by a real Airflow: a site's daemon on this machine, disks that are compared byte by byte.

    conduct.py LEEWARD STATE

LEEWARD is the binary, STATE the folder of a running Airflow (with its API's address and an admin in ``env``, and ``dags``), in
whose environment the package is installed. All scenarios run at once, against one daemon, which is killed meanwhile.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
DAG_FILE = HERE.parent / "dags" / "1_virtual_disk_to_oci_block_volume.py"
DAG = DAG_FILE.stem
RETRYING = "leeward_test_retries"
CONNECTION = "leeward_default"
#: Nothing here is a measurement: a bound is only there so that a test ends.
SECONDS_MAX = 900
STEPS = re.findall(r'^    "(\w+)",$', (HERE.parent / "src/leeward_airflow/imports.py").read_text(), re.MULTILINE)
#: What a daemon that writes volumes itself, into a folder, has no need of.
NOT_NEEDED = {
    "create_instance",
    "get_private_ip",
    "wait_cloud_init_execution",
    "terminate_instance",
    "update_performance_of_bv",
    "setup_backup_policy",
}


def until(what: str, test, seconds: float = SECONDS_MAX, pause: float = 1.0):
    """Waits until the test gives something, and returns it."""
    end = time.monotonic() + seconds
    while True:
        found = test()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not in time: {what}")
        time.sleep(pause)


def call(method: str, url: str, token: str | None, body=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            content = answer.read()
            return answer.status, json.loads(content) if content else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


def words(value) -> list[str]:
    """All texts in a value: what a line of a log says stands in some of its fields."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [word for item in value for word in words(item)]
    return [value] if isinstance(value, str) else []


class Airflow:
    def __init__(self, state: Path):
        text = (state / "env").read_text()
        found = dict(re.findall(r"(TB_AIRFLOW(?:_\w+)?)=(\S+)", text))
        self.url, self.state = found["TB_AIRFLOW"], state
        status, answer = call(
            "POST",
            f"{self.url}/auth/token",
            None,
            {"username": found["TB_AIRFLOW_USER"], "password": found["TB_AIRFLOW_PASSWORD"]},
        )
        assert status == 201, answer
        self.token = answer["access_token"]

    def ask(self, method: str, path: str, body=None, ok=(200, 201, 204)):
        for _ in range(10):
            status, answer = call(method, f"{self.url}/api/v2{path}", self.token, body)
            if status in ok:
                return answer
            # SQLite has one writer.
            if status < 500:
                break
            time.sleep(2)
        raise AssertionError(f"{method} {path}: {status}: {answer}")

    def connect(self, address: str, token: str):
        host, port = address.rsplit(":", 1)
        body = {
            "connection_id": CONNECTION,
            "conn_type": "leeward",
            "host": host,
            "port": int(port),
            "schema": "http",
            "password": token,
        }
        self.ask("DELETE", f"/connections/{CONNECTION}", ok=(204, 404))
        self.ask("POST", "/connections", body)

    def trigger(self, dag: str, **conf) -> DagRun:
        name = f"test-{uuid.uuid4()}"
        self.ask("POST", f"/dags/{dag}/dagRuns", {"dag_run_id": name, "logical_date": None, "conf": conf})
        return DagRun(self, dag, name)


class DagRun:
    def __init__(self, airflow: Airflow, dag: str, name: str):
        self.airflow, self.path, self.dag, self.name = airflow, f"/dags/{dag}/dagRuns/{name}", dag, name

    def state(self) -> str:
        return self.airflow.ask("GET", self.path)["state"]

    def tasks(self) -> dict[str, dict]:
        found = self.airflow.ask("GET", f"{self.path}/taskInstances?limit=100")["task_instances"]
        return {task["task_id"]: task for task in found}

    def until(self, state: str):
        def test():
            now = self.state()
            if now != state and now in ("failed", "success"):
                states = {name: task["state"] for name, task in self.tasks().items()}
                raise AssertionError(f"{self.name} is {now}, not {state}: {states}\n{self.logs()}")
            return now == state

        until(f"{self.name} is {state}", test)

    def until_task(self, task: str, *states: str):
        def test():
            if self.tasks()[task]["state"] in states:
                return True
            assert self.state() not in ("failed", "success"), f"{task} of {self.name} was never {states}\n{self.logs()}"

        until(f"{task} of {self.name} is {states}", test)

    def log(self, task: str, number: int = 1) -> str:
        answer = self.airflow.ask("GET", f"{self.path}/taskInstances/{task}/logs/{number}?full_content=true")
        return "\n".join(words(answer["content"]))

    def logs(self) -> str:
        failed = [name for name, task in self.tasks().items() if task["state"] == "failed"]
        return "\n".join(f"--- {name}\n{self.log(name, self.tasks()[name]['try_number'])}" for name in failed)

    def xcom(self, task: str, key: str):
        return self.airflow.ask("GET", f"{self.path}/taskInstances/{task}/xcomEntries/{key}?deserialize=true")["value"]

    def clear(self, *tasks: str, downstream: bool = False):
        body = {
            "dry_run": False,
            "dag_run_id": self.name,
            "only_failed": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        self.airflow.ask(
            "POST", f"/dags/{self.dag}/clearTaskInstances", {**body, **({"task_ids": list(tasks)} if tasks else {})}
        )

    def mark_success(self, task: str):
        self.airflow.ask("PATCH", f"{self.path}/taskInstances/{task}", {"new_state": "success"})

    def leeward_run(self) -> str:
        return self.xcom("get_file_head", "leeward_run")


class Daemon:
    """A site in a folder, as ``server init`` makes it, with a second target that writes slowly and a third that cannot."""

    def __init__(self, leeward: Path, folder: Path):
        self.leeward, self.folder, self.child = leeward, folder, None
        subprocess.run([leeward, "server", "init", "--config", folder / "site.toml"], check=True, capture_output=True)
        config = (folder / "site.toml").read_text()
        config = config.replace("imports = 3", "imports = 4")
        config += '\n[target.slow]\nkind = "directory"\npath = "slow"\nlimit_bytes_per_second = 250000\n'
        config += '\n[target.broken]\nkind = "directory"\npath = "broken"\n'
        (folder / "site.toml").write_text(config)
        self.token = (folder / "admin.token").read_text().strip()
        self.listen("127.0.0.1:0")
        self.up()
        # Started anew it is where it was: the connection stays as it is.
        self.listen(self.address)

    def listen(self, address: str):
        path = self.folder / "site.toml"
        path.write_text(re.sub(r'^listen = ".*"', f'listen = "{address}"', path.read_text(), flags=re.MULTILINE))

    def up(self):
        log = (self.folder / "daemon.log").open("ab")
        self.child = subprocess.Popen(
            [self.leeward, "server", "--config", self.folder / "site.toml"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        line = next((line for line in self.child.stdout if "Serving at" in line), None)
        assert line, (self.folder / "daemon.log").read_text()
        self.address = line.split("http://")[1].strip()
        threading.Thread(target=lambda stream: [None for _ in stream], args=(self.child.stdout,), daemon=True).start()

    def kill(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def ask(self, method: str, path: str, body=None):
        def test():
            with contextlib.suppress(OSError):
                return call(method, f"http://{self.address}{path}", self.token, body)

        # It may just have been killed.
        status, answer = until("the daemon answers", test, 120)
        assert status < 300, (path, status, answer)
        return answer

    def run(self, run: str) -> dict:
        return self.ask("GET", f"/v1/runs/{run}")["run"]

    def step(self, run: str, name: str) -> dict:
        return next(step for step in self.run(run)["steps"] if step["name"] == name)

    def volume(self, run: str, target: str) -> Path:
        """The run's only volume."""
        made = self.step(run, "create_block_volume")["outputs"]["volumes"]
        assert len(made) == 1, made
        found = [
            path for path in (self.folder / target).iterdir() if path.suffix == ".raw" and made[0]["id"] in path.name
        ]
        assert len(found) == 1, (made, list((self.folder / target).iterdir()))
        return found[0]


def assert_holds(volume: Path, raw: Path):
    """The volume begins with the disk's bytes, and is zero behind them."""
    with volume.open("rb") as one, raw.open("rb") as other:
        while part := other.read(1 << 20):
            assert one.read(len(part)) == part, f"{volume} differs from {raw} before byte {other.tell()}"
        while part := one.read(1 << 20):
            assert not any(part), f"{volume}: behind the disk there is something left"


def make_disk(path: Path, seed: int, size: int):
    with path.open("wb") as file:
        file.truncate(size)
        source = random.Random(seed)
        for offset in range(0, size, 4 << 20):
            file.seek(offset)
            file.write(source.randbytes(300_000))


def make_images(folder: Path, inbox: Path):
    """A disk and its image, and a disk with a file system of which one inode is damaged."""
    make_disk(folder / "whole.raw", 1, 48 << 20)
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", folder / "whole.raw", inbox / "whole.disk.qcow2"],
        check=True,
    )
    sound = folder / "sound.raw"
    with sound.open("wb") as file:
        file.truncate(16 << 20)
    files = folder / "files"
    files.mkdir()
    (files / "a.txt").write_text("a" * 5000)
    tools = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", files, sound], check=True, env=tools)
    shutil.copyfile(sound, inbox / "damaged.raw")
    subprocess.run(
        ["debugfs", "-w", "-R", "clri /a.txt", inbox / "damaged.raw"], check=True, env=tools, capture_output=True
    )


def whole(airflow: Airflow, daemon: Daemon, killed: threading.Event):
    """From the DAG run to a volume with every byte, over the death of the daemon; a cleared task does nothing twice."""
    run = airflow.trigger(
        DAG,
        bucket_name="inbox",
        object_name="whole.disk.qcow2",
        ad_number="0",
        target="slow",
        options={"volume_name": "by.airflow"},
    )
    run.until_task("write_image_to_bv", "deferred")
    leeward = run.leeward_run()
    until("the step runs", lambda: daemon.step(leeward, "write_image_to_bv")["state"] == "running")
    daemon.kill()
    time.sleep(2)
    daemon.up()
    killed.set()
    run.until("success")
    states = {name: task["state"] for name, task in run.tasks().items()}
    assert states == {step: "skipped" if step in NOT_NEEDED else "success" for step in STEPS}, states
    assert all(task["try_number"] == 1 for task in run.tasks().values())
    found = daemon.run(leeward)
    assert (found["state"], found["gated"]) == ("succeeded", True), found
    assert [step["name"] for step in found["steps"]] == STEPS
    volume = daemon.volume(leeward, "slow")
    assert_holds(volume, daemon.folder / "whole.raw")
    assert run.xcom("create_block_volume", "return_value")["volumes"][0]["name"] == "by.airflow"
    # The step's own words are in the task's log, those that came while nobody but the triggerer looked, too.
    told = [
        line["text"] for line in daemon.ask("GET", f"/v1/runs/{leeward}/log?step=write_image_to_bv&most=1000")["lines"]
    ]
    assert any("all as written" in line for line in told), told
    log = run.log("write_image_to_bv")
    assert all(line in log for line in told), (told, log)
    assert "no backup policy" in run.log("setup_backup_policy")
    tries = [step["tries"] for step in found["steps"]]
    run.clear("write_image_to_bv")
    until("the task is cleared", lambda: run.tasks()["write_image_to_bv"]["try_number"] == 2)
    run.until("success")
    assert [step["tries"] for step in daemon.run(leeward)["steps"]] == tries, "nothing is done twice"
    assert_holds(volume, daemon.folder / "whole.raw")


def mended(airflow: Airflow, daemon: Daemon, _killed):
    """A step fails, a person mends what it complains of and clears the task: it goes on from there."""
    run = airflow.trigger(DAG, bucket_name="inbox", object_name="damaged.raw")
    run.until("failed")
    states = {name: task["state"] for name, task in run.tasks().items()}
    assert states["fsck_on_block_volume"] == "failed" and states["detach_block_volume"] == "upstream_failed", states
    leeward = run.leeward_run()
    failure = daemon.step(leeward, "fsck_on_block_volume")["failure"]
    assert failure["message"] in run.log("fsck_on_block_volume"), (failure, run.log("fsck_on_block_volume"))
    volume = daemon.volume(leeward, "volumes")
    sound = daemon.folder / "sound.raw"
    with sound.open("rb") as good, volume.open("r+b") as bad:
        shutil.copyfileobj(good, bad)
    run.clear("fsck_on_block_volume", downstream=True)
    run.until("success")
    assert run.tasks()["fsck_on_block_volume"]["try_number"] == 2
    assert failure["message"] not in run.log("fsck_on_block_volume", 2).replace(
        "it is tried again; it had failed: " + failure["message"], ""
    )
    steps = {step["name"]: step for step in daemon.run(leeward)["steps"]}
    assert steps["fsck_on_block_volume"]["tries"] >= 2
    assert steps["fsck_on_block_volume"]["state"] == "succeeded"
    assert daemon.volume(leeward, "volumes") == volume
    assert_holds(volume, sound)


def accepted(airflow: Airflow, daemon: Daemon, _killed):
    """A failed check is marked as a success in Airflow: the site skips it and goes on."""
    run = airflow.trigger(DAG, bucket_name="inbox", object_name="damaged.raw")
    run.until("failed")
    leeward = run.leeward_run()
    assert daemon.step(leeward, "fsck_on_block_volume")["state"] == "failed"
    run.mark_success("fsck_on_block_volume")
    until("what comes after it is begun again", lambda: run.state() != "failed")
    run.until("success")
    step = daemon.step(leeward, "fsck_on_block_volume")
    assert (step["state"], step["skipped"]) == ("skipped", "marked as done in Airflow"), step
    assert daemon.run(leeward)["state"] == "succeeded"
    assert_holds(daemon.volume(leeward, "volumes"), daemon.folder / "inbox" / "damaged.raw")


def retried(airflow: Airflow, daemon: Daemon, _killed):
    """What may pass is tried again by Airflow where the site has given up."""
    broken = daemon.folder / "broken"
    broken.write_text("in the way")
    run = airflow.trigger(RETRYING, bucket_name="inbox", object_name="whole.disk.qcow2", target="broken")

    def failed_once():
        assert run.state() not in ("failed", "success"), run.logs()
        return next((name for name, task in run.tasks().items() if task["state"] == "up_for_retry"), None)

    task = until("a task is to be tried again", failed_once)
    assert daemon.step(run.leeward_run(), task)["failure"]["passing"]
    broken.unlink()
    run.until("success")
    assert run.tasks()[task]["try_number"] == 2
    assert daemon.step(run.leeward_run(), "get_file_head")["tries"] == 1
    assert_holds(daemon.volume(run.leeward_run(), "broken"), daemon.folder / "whole.raw")


def cancelled(airflow: Airflow, daemon: Daemon, killed: threading.Event):
    """A run that was cancelled at the site fails its task; cleared from the first task on, there is another run."""
    # Not while the daemon is killed: this is about who asks, not about who answers.
    assert killed.wait(SECONDS_MAX)
    run = airflow.trigger(DAG, bucket_name="inbox", object_name="whole.disk.qcow2", target="slow")
    run.until_task("write_image_to_bv", "deferred")
    first = run.leeward_run()
    volume = daemon.volume(first, "slow")
    daemon.ask("POST", f"/v1/runs/{first}/cancel", {})
    run.until("failed")
    assert f"run {first} is cancel" in run.log("write_image_to_bv"), run.log("write_image_to_bv")
    until("the run is undone", lambda: daemon.run(first)["state"] == "cancelled")
    assert not volume.exists()
    run.clear()
    run.until("success")
    second = run.leeward_run()
    assert second != first
    assert_holds(daemon.volume(second, "slow"), daemon.folder / "whole.raw")


def refused(airflow: Airflow, daemon: Daemon, killed: threading.Event):
    """A DAG run without an object, or of a bucket that the site has not, fails at its first task and says why."""
    assert killed.wait(SECONDS_MAX)
    for conf, reason in (
        ({}, "params need bucket_name and object_name"),
        ({"bucket_name": "x", "object_name": "a.raw"}, "no source of the site is bucket 'x'"),
    ):
        run = airflow.trigger(DAG, **conf)
        run.until("failed")
        assert reason in run.log("get_file_head"), run.log("get_file_head")
    assert all(entry["subject"] != "a.raw" for entry in daemon.ask("GET", "/v1/runs")["runs"])


SCENARIOS = (whole, mended, accepted, retried, cancelled, refused)


def run_scenarios(airflow: Airflow, daemon: Daemon) -> int:
    killed, failed = threading.Event(), 0
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(SCENARIOS)) as pool:
        running = {pool.submit(scenario, airflow, daemon, killed): scenario for scenario in SCENARIOS}
        for future in concurrent.futures.as_completed(running):
            name, error = running[future].__name__, future.exception()
            print(f"{'FAILED' if error else 'ok'}: {name} ({time.monotonic() - start:.0f} s)", flush=True)
            if error:
                failed += 1
                killed.set()
                traceback.print_exception(error)
    return failed


def files_with(folder: Path, text: str) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and text.encode() in path.read_bytes():
            found.append(path)
    return found


def forget(airflow: Airflow, path: Path):
    path.unlink(missing_ok=True)
    # 409: a failed scenario has left a task that runs.
    airflow.ask("DELETE", f"/dags/{path.stem}", ok=(204, 404, 409))


def is_seen(airflow: Airflow, dag: str) -> bool:
    status, answer = call("GET", f"{airflow.url}/api/v2/dags/{dag}", airflow.token)
    return status == 200 and not answer["is_stale"]


def main() -> int:
    leeward, state = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    airflow = Airflow(state)
    retrying = state / "dags" / f"{RETRYING}.py"
    copied = state / "dags" / DAG_FILE.name
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        daemon = Daemon(leeward, Path(folder))
        undo.callback(daemon.kill)
        make_images(daemon.folder, daemon.folder / "inbox")
        undo.callback(airflow.ask, "DELETE", f"/connections/{CONNECTION}", ok=(204, 404))
        airflow.connect(daemon.address, daemon.token)
        for path in (copied, retrying):
            # What an earlier test left would be there already, without being one that can be triggered.
            forget(airflow, path)
            undo.callback(forget, airflow, path)
        shutil.copyfile(DAG_FILE, copied)
        retrying.write_text(
            "from datetime import timedelta\nfrom leeward_airflow.imports import import_dag\n"
            f"dag = import_dag('{RETRYING}', default_args={{'retries': 1, 'retry_delay': timedelta(seconds=15)}})\n"
        )
        for dag in (DAG, RETRYING):
            until(f"DAG {dag} is seen", lambda dag=dag: is_seen(airflow, dag), 300)
            airflow.ask("PATCH", f"/dags/{dag}", {"is_paused": False})
        failed = run_scenarios(airflow, daemon)
        leaks = files_with(state / "task-logs", daemon.token) + files_with(state / "log", daemon.token)
        if leaks:
            failed += 1
            print(f"FAILED: the token is in {leaks}")
        if failed:
            print((daemon.folder / "daemon.log").read_text()[-4000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

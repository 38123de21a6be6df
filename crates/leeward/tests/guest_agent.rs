//! The guest is frozen for the moment, and thawed whatever happens. The machine is a real QEMU; the agent is played by
//! the test, because only so does it misbehave on demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use common::machine::{Disk, Machine, has_qemu};
use common::{Bench, MIB, outcome, text};
use leeward_cloud::qemu::{Qmp, QmpOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How an agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    Willing,
    /// It refuses to freeze.
    Unwilling,
    /// It does not answer when it is to freeze.
    Silent,
    /// It answers nothing at all.
    Dead,
    /// Somebody has left the guest frozen.
    FoundFrozen,
    /// It freezes, and thaws only when it is asked the second time.
    Forgetful,
}

/// An agent behind a socket, and what it was asked to do.
struct Agent {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    fn start(bench: &Bench, temper: Temper) -> Self {
        Self::start_with(bench, temper, || ())
    }

    /// One that does something before it freezes.
    fn start_with(bench: &Bench, temper: Temper, before: impl Fn() + Send + 'static) -> Self {
        let socket = bench.path(&format!("agent-{temper:?}"));
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&asked);
        // It ends with the process of the test: nobody connects any more by then.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&stream.unwrap(), temper, &log, &before);
            }
        });
        Self { socket, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().drain(..).collect()
    }
}

fn serve(stream: &UnixStream, temper: Temper, log: &Mutex<Vec<String>>, before: &dyn Fn()) {
    // What is left of an earlier client's conversation.
    let _ = (&mut &*stream).write_all(b"{\"return\": {}}\n");
    for line in BufReader::new(stream).split(b'\n') {
        let Ok(line) = line else { return };
        let line: Vec<u8> = line.into_iter().filter(|byte| *byte != 0xff).collect();
        let Ok(command) = serde_json::from_slice::<Value>(&line) else { return };
        let name = text(&command["execute"]);
        let thaws = log.lock().unwrap().iter().filter(|name| *name == "guest-fsfreeze-thaw").count();
        if name != "guest-sync-delimited" {
            log.lock().unwrap().push(name.clone());
        }
        if name == "guest-fsfreeze-freeze" {
            before();
        }
        let answer = match (name.as_str(), temper) {
            (_, Temper::Dead) | ("guest-fsfreeze-freeze", Temper::Silent) => continue,
            ("guest-fsfreeze-thaw", Temper::Forgetful) if thaws == 0 => {
                json!({ "error": { "class": "GenericError", "desc": "not now" } })
            }
            ("guest-sync-delimited", _) => json!({ "return": command["arguments"]["id"] }),
            ("guest-fsfreeze-status", Temper::FoundFrozen) if thaws == 0 => json!({ "return": "frozen" }),
            ("guest-fsfreeze-status", _) => json!({ "return": "thawed" }),
            ("guest-fsfreeze-freeze", Temper::Unwilling) => {
                json!({ "error": { "class": "GenericError", "desc": "no file system can be frozen" } })
            }
            ("guest-fsfreeze-freeze" | "guest-fsfreeze-thaw", _) => json!({ "return": 2 }),
            _ => json!({ "error": { "class": "CommandNotFound", "desc": name } }),
        };
        let mut text = if name == "guest-sync-delimited" { vec![0xff] } else { Vec::new() };
        text.extend_from_slice(answer.to_string().as_bytes());
        text.push(b'\n');
        // The client may be gone.
        if (&mut &*stream).write_all(&text).is_err() {
            return;
        }
    }
}

fn running(bench: &Bench, arguments: &[&str]) -> Machine {
    let disks = [Disk::create(bench, "a.raw", "raw", MIB), Disk::create(bench, "b.qcow2", "qcow2", MIB)];
    let machine = Machine::start(bench, &disks, arguments);
    machine.ask("cont", json!({}));
    machine
}

fn back_up<'a>(bench: &'a Bench, source: &'a str, agent: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = bench.back_up(source, &["--freeze-limit", "0.5", "--agent"]);
    arguments.push(agent.to_str().unwrap());
    arguments.extend(more);
    arguments
}

#[test]
fn a_willing_guest_is_frozen_for_the_moment_alone() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let machine = running(&bench, &[]);
    let source = machine.source();
    for (temper, commands) in [
        (Temper::Willing, &["guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"][..]),
        (
            Temper::FoundFrozen,
            &["guest-fsfreeze-status", "guest-fsfreeze-thaw", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"],
        ),
        (
            Temper::Forgetful,
            &["guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-thaw"],
        ),
    ] {
        let agent = Agent::start(&bench, temper);
        // Slow enough that a freeze for its whole length would be seen.
        let slow = ["--full", "--limit-read", "500K", "--consistency", "filesystem"];
        let outcome = bench.succeeds(&back_up(&bench, &source, &agent.socket, &slow));
        assert_eq!(agent.asked(), commands, "{temper:?}");
        for line in &outcome.lines {
            assert_eq!(line["consistency"], "filesystem", "{temper:?}: {line}");
            assert!(line["freeze_ms"].as_f64().unwrap() < 500.0, "{temper:?}: {line}");
        }
        assert_eq!(outcome.stderr.contains("found frozen"), temper == Temper::FoundFrozen);
    }
    machine.is_clean(2, "frozen and thawed");
}

#[test]
fn an_agent_that_does_not_its_work_costs_the_consistency_or_the_backup_but_never_the_guest() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let machine = running(&bench, &[]);
    let source = machine.source();
    for (temper, why) in [
        (Temper::Unwilling, "no file system can be frozen"),
        (Temper::Silent, "no answer to guest-fsfreeze-freeze within 0.5 s"),
        (Temper::Dead, "no answer to guest-sync-delimited"),
    ] {
        let agent = Agent::start(&bench, temper);
        let outcome = bench.succeeds(&back_up(&bench, &source, &agent.socket, &[]));
        for line in &outcome.lines {
            assert_eq!(line["consistency"], "crash", "{temper:?}: {line}");
            assert!(text(&line["consistency_reason"]).contains(why), "{temper:?}: {line}");
        }
        let thaws = |asked: &[String]| asked.iter().filter(|name| *name == "guest-fsfreeze-thaw").count();
        let frozen = |asked: &[String]| asked.iter().any(|name| name == "guest-fsfreeze-freeze");
        let asked = agent.asked();
        assert!(!frozen(&asked) || thaws(&asked) > 0, "{temper:?}: {asked:?}");
        let before = bench.published();
        let strict = ["--consistency", "filesystem"];
        let refused = bench.fails(&back_up(&bench, &source, &agent.socket, &strict), 5);
        assert!(refused.stdout.contains(why), "{temper:?}: {}", refused.stdout);
        assert_eq!(bench.published(), before);
        let asked = agent.asked();
        assert!(!frozen(&asked) || thaws(&asked) > 0, "{temper:?}: {asked:?}");
        machine.is_clean(2, "after a refusal");
        let crash = bench.succeeds(&back_up(&bench, &source, &agent.socket, &["--consistency", "crash"]));
        assert!(crash.lines.iter().all(|line| line["consistency_reason"].is_null()), "{}", crash.stdout);
        assert_eq!(agent.asked(), Vec::<String>::new(), "nobody asks when it is not wanted");
    }
}

#[test]
fn the_machine_tells_where_its_agent_is() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let machine = running(&bench, &[]);
    let outcome = bench.succeeds(&bench.back_up(&machine.source(), &[]));
    assert!(outcome.stdout.contains("no port for a guest agent"), "{}", outcome.stdout);
    machine.ask("stop", json!({}));
    let outcome = bench.succeeds(&bench.back_up(&machine.source(), &[]));
    assert!(outcome.stdout.contains("does not run (state paused)"), "{}", outcome.stdout);
    assert_eq!(outcome.lines[0]["consistency"], "crash");
    machine.is_clean(2, "paused");
    machine.end(true);
    let device = format!("socket,id=ga0,server=on,wait=off,path={}", bench.path("ga").display());
    let port = "virtserialport,chardev=ga0,name=org.qemu.guest_agent.0";
    let machine = running(&bench, &["-chardev", &device, "-device", "virtio-serial-pci", "-device", port]);
    let outcome = bench.succeeds(&bench.back_up(&machine.source(), &[]));
    assert!(outcome.stdout.contains("runs no agent"), "{}", outcome.stdout);
}

#[test]
fn what_the_guest_writes_until_it_is_frozen_is_in_the_snapshot() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let machine = running(&bench, &[]);
    let source = machine.source();
    bench.succeeds(&bench.back_up(&source, &[]));
    let third = machine.socket("third");
    let agent = Agent::start_with(&bench, Temper::Willing, move || {
        let mut monitor = Qmp::connect(&third, &QmpOptions::default()).unwrap();
        for disk in 0..2 {
            let line = format!("qemu-io -d vd{disk}/virtio-backend \"write -P 9 128k 64k\"");
            monitor.execute("human-monitor-command", json!({ "command-line": line })).unwrap();
        }
    });
    // Nothing had changed when the backup looked first.
    let outcome = bench.succeeds(&back_up(&bench, &source, &agent.socket, &["--consistency", "filesystem"]));
    for line in &outcome.lines {
        assert_eq!(line["capture"]["changed_bytes"], 64 << 10, "{line}");
        let content = bench.content(&text(&line["image"]));
        assert!(content[128 << 10..192 << 10].iter().all(|byte| *byte == 9), "{line}");
    }
}

#[test]
fn a_backup_that_is_killed_leaves_no_guest_frozen() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let machine = running(&bench, &[]);
    let source = machine.source();
    for temper in [Temper::Willing, Temper::Forgetful] {
        let victim = Arc::<OnceLock<Pid>>::default();
        let killed = Arc::<OnceLock<Instant>>::default();
        let kill = {
            let (victim, killed) = (Arc::clone(&victim), Arc::clone(&killed));
            move || {
                kill_process(*victim.wait(), Signal::KILL).unwrap();
                killed.set(Instant::now()).unwrap();
            }
        };
        let agent = Agent::start_with(&bench, temper, kill);
        let child = bench.start(&back_up(&bench, &source, &agent.socket, &[]));
        victim.set(Pid::from_child(&child)).unwrap();
        assert_eq!(outcome(child, &[]).code, -1, "{temper:?}");
        let wanted = if temper == Temper::Willing { 1 } else { 2 };
        let thaws =
            || agent.asked.lock().unwrap().iter().filter(|name| *name == "guest-fsfreeze-thaw").count();
        let killed = *killed.wait();
        while thaws() < wanted {
            assert!(
                killed.elapsed() < Duration::from_secs(1),
                "{temper:?}: still frozen: {:?}",
                agent.asked()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("{temper:?}: thawed {} ms after the kill", killed.elapsed().as_millis());
    }
    let agent = bench.path("agent-next");
    let next = Agent::start(&bench, Temper::Unwilling);
    std::fs::rename(&next.socket, &agent).unwrap();
    bench.succeeds(&back_up(&bench, &source, &agent, &[]));
    machine.is_clean(2, "killed while frozen");
}

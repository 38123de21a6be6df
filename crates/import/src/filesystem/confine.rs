//! A tool in a process that can do little harm.
//!
//! It has: no network, own processes and own System V objects (namespaces); as root a user of its own that owns nothing
//! and has no capabilities; limits on memory, processor time, files and processes, and none of its writes may grow a file;
//! a filter of system calls that keeps it from what such a tool never needs and what was the way out of others (mounts,
//! namespaces, tracing, keys, BPF, io_uring, sockets); a bound on time and on output. The programs that set this up are
//! util-linux's `prlimit`, `unshare` and `setpriv`, which every Debian has.
//!
//! What a system does not allow (containers often have no namespaces) is left out, and noted.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use seccompiler::BpfProgram;

use super::tools::Tool;
use super::{CheckOptions, filter, output};
use crate::target::failed;
use crate::{Error, Result, Watch};

/// How often the end of a tool is looked for.
const PACE: Duration = Duration::from_millis(20);
/// Processes and threads that a tool may have.
const PROCESSES_MAX: u32 = 128;
/// Files that a tool may have open.
const FILES_MAX: u32 = 128;
/// The first of the users that belong to nobody, and how many of them are used.
const USERS: (u32, u32) = (1_879_048_192, 65_536);

/// How tools are confined here.
pub(super) struct Confinement {
    namespaces: Vec<String>,
    /// The user under whom tools run, where that is another one.
    user: Option<u32>,
    filter: Option<BpfProgram>,
    notes: Vec<String>,
}

/// How a tool ended.
pub(super) enum Ended {
    Exit { code: i32, output: String },
    Signal { signal: i32, output: String },
    TooLong { output: String },
}

impl Confinement {
    /// Finds out what can be done here.
    pub(super) fn find() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let mut notes = Vec::new();
        let user = is_root.then(|| USERS.0 + std::process::id() % USERS.1);
        notes.push(match user {
            Some(_) => "own user without capabilities".to_owned(),
            None => "the user of this process".to_owned(),
        });
        let mut wanted = vec!["--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"];
        if !is_root {
            wanted.splice(0..0, ["--user", "--map-current-user"]);
        }
        let wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
        let namespaces = match probe(&wanted) {
            Ok(()) => {
                notes.push("no network, own processes".to_owned());
                wanted
            }
            Err(why) => {
                notes.push(format!("not possible here: namespaces ({why})"));
                Vec::new()
            }
        };
        let filter = match filter::filter() {
            Ok(filter) => {
                notes.push("filter of system calls".to_owned());
                Some(filter)
            }
            Err(why) => {
                notes.push(format!("not possible here: a filter of system calls ({why})"));
                None
            }
        };
        notes.push("limits on memory, time, output and written files".to_owned());
        Self { namespaces, user, filter, notes }
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The user under whom tools run, where that is another one than this process has.
    pub(super) fn user(&self) -> Option<u32> {
        self.user
    }

    /// Runs a program on a file, and waits for its end.
    pub(super) fn run(
        &self,
        program: &Path,
        tool: &Tool,
        file: &Path,
        options: &CheckOptions,
        watch: &dyn Watch,
    ) -> Result<Ended> {
        let mut command = self.command(tool, options);
        command.arg(program).args(tool.arguments).arg(file);
        let child = self.spawn(command).map_err(|source| failed(program, "start", source))?;
        wait(child, program, options, watch)
    }

    fn command(&self, tool: &Tool, options: &CheckOptions) -> Command {
        let mut command = Command::new("prlimit");
        let seconds = options.time_max.as_secs().saturating_mul(4).max(1);
        command
            .arg(format!("--as={}", options.memory_bytes_max))
            .arg(format!("--cpu={seconds}"))
            .arg(format!("--nofile={FILES_MAX}"))
            .arg(format!("--fsize={}", tool.file_limit))
            .args(["--core=0", "--memlock=0"]);
        // Processes are counted for each user: others of the caller's own are none of the tool's.
        if self.user.is_some() {
            command.arg(format!("--nproc={PROCESSES_MAX}"));
        }
        command.arg("--");
        if !self.namespaces.is_empty() {
            command.arg("unshare").args(&self.namespaces).arg("--");
        }
        command.args(["setpriv", "--no-new-privs"]);
        if let Some(user) = self.user {
            command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).args([
                "--clear-groups",
                "--inh-caps=-all",
                "--ambient-caps=-all",
                "--bounding-set=-all",
            ]);
        }
        command.arg("--");
        command
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a command from a thread that has the filter, which its children inherit and nobody else here does.
    fn spawn(&self, mut command: Command) -> std::io::Result<Child> {
        let Some(filter) = &self.filter else { return command.spawn() };
        std::thread::scope(|scope| {
            let spawn = || {
                seccompiler::apply_filter(filter).map_err(std::io::Error::other)?;
                command.spawn()
            };
            scope.spawn(spawn).join().unwrap_or_else(|_| Err(std::io::Error::other("a thread has died")))
        })
    }
}

/// Whether namespaces can be had.
fn probe(namespaces: &[String]) -> Result<(), String> {
    let output = Command::new("unshare").args(namespaces).args(["--", "true"]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().chars().take(200).collect()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits for a tool, reads what it says, and ends it when it takes too long.
fn wait(mut child: Child, program: &Path, options: &CheckOptions, watch: &dyn Watch) -> Result<Ended> {
    let (sender, receiver) = mpsc::channel();
    let pipes: Vec<Box<dyn Read + Send>> = [
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ]
    .into_iter()
    .flatten()
    .collect();
    let bytes_max = options.output_bytes_max / 2;
    for pipe in pipes {
        let sender = sender.clone();
        let reader = std::thread::Builder::new().name("tool output".to_owned());
        let spawned = reader.spawn(move || sender.send(output::bounded(pipe, bytes_max)));
        spawned.map_err(|source| failed(program, "read the output of", source))?;
    }
    drop(sender);
    let ended = until_end(&mut child, program, options.time_max, watch);
    // Its end closes the pipes; whatever it has started ends with it, and has little time to.
    let gather = || {
        let until = Instant::now() + Duration::from_secs(5);
        let mut output = String::new();
        while let Ok(part) = receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            output.push_str(&part);
        }
        output
    };
    match ended? {
        None => Ok(Ended::TooLong { output: gather() }),
        Some(status) => Ok(match (status.code(), status.signal()) {
            // `unshare` tells the signal that ended its child as a shell does.
            (Some(code), _) if code > 128 => Ended::Signal { signal: code - 128, output: gather() },
            (Some(code), _) => Ended::Exit { code, output: gather() },
            (None, signal) => Ended::Signal { signal: signal.unwrap_or(0), output: gather() },
        }),
    }
}

/// The status at the end, or nothing when it took too long.
fn until_end(
    child: &mut Child,
    program: &Path,
    time_max: Duration,
    watch: &dyn Watch,
) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + time_max;
    loop {
        let failed = |source| failed(program, "wait for", source);
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(Some(status));
        }
        let is_cancelled = watch.is_cancelled();
        if is_cancelled || Instant::now() >= deadline {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            return if is_cancelled { Err(Error::Cancelled) } else { Ok(None) };
        }
        std::thread::sleep(PACE);
    }
}

//! Other programs: finding them, running them, ending them.

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::failure::{Code, Failure};
use crate::interrupt;

/// How often a waiting loop looks again.
pub const POLL: Duration = Duration::from_millis(50);

/// A failed call of the operating system on a path.
pub fn io(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let message = format!("cannot {action} {}", path.display());
    move |error| Failure::new(Code::Io, format!("{message}: {error}"))
}

/// An error once the person asked to stop.
pub fn check_interrupt() -> Result<(), Failure> {
    if interrupt::is_requested() { Err(Failure::new(Code::Interrupted, "interrupted")) } else { Ok(()) }
}

/// The program of a name; also where Debian keeps those for administrators, which are not in everybody's PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok())
}

/// A running program that ends when this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self, Failure> {
        let started = command.stdin(Stdio::null()).spawn();
        started.map(Self).map_err(io("start", Path::new(command.get_program())))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        self.0
            .try_wait()
            .map_err(|error| Failure::new(Code::Io, format!("cannot wait for a program: {error}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end and returns all that it printed, or an error with its last words.
pub fn run(command: &mut Command, scratch: &Path) -> Result<String, Failure> {
    let cannot = || io("write in", scratch);
    let mut log = tempfile::tempfile_in(scratch).map_err(cannot())?;
    command.stdout(log.try_clone().map_err(cannot())?).stderr(log.try_clone().map_err(cannot())?);
    let mut running = Running::start(command)?;
    let status = loop {
        check_interrupt()?;
        match running.ended()? {
            Some(status) => break status,
            None => std::thread::sleep(POLL),
        }
    };
    let mut text = Vec::new();
    log.rewind().and_then(|()| log.read_to_end(&mut text)).map_err(cannot())?;
    let text = String::from_utf8_lossy(&text).into_owned();
    if status.success() {
        return Ok(text);
    }
    let program = command.get_program().to_string_lossy().into_owned();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(Failure::new(Code::Failed, format!("{program} failed ({status}): {last}")))
}

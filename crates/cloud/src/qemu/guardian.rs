//! A process that outlives whoever froze a guest, and thaws it then.
//!
//! The agent has no limit of its own, so a guest whose freezer is killed would stay frozen. The guardian is a program
//! that is started before the freeze and does nothing but wait at a pipe. Told that the guest is thawed, it ends. If the
//! pipe closes without a word, whoever froze is dead: the kernel has closed its connection to the agent, which takes
//! one client at a time, so the guardian can connect and thaw.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::agent::Agent;
use crate::{Error, Result};

/// What the guardian is told when it is not needed any more.
const THAWED: u8 = b't';
/// For how long the guardian tries to thaw, and how long the agent may take to answer it.
const TRY_LIMIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The program that is the guardian: one that calls [`stand_guard`] with the socket that is its last argument.
#[derive(Debug, Clone)]
pub struct GuardianProgram {
    /// The file.
    pub program: PathBuf,
    /// What comes before the socket of the agent.
    pub arguments: Vec<OsString>,
}

/// A guardian that waits.
#[derive(Debug)]
pub(super) struct Guardian {
    child: Child,
}

impl Guardian {
    /// Starts it. When this returns it runs, and whatever happens from now on, somebody thaws.
    pub(super) fn start(with: &GuardianProgram, agent: &Path) -> Result<Self> {
        let child = Command::new(&with.program)
            .args(&with.arguments)
            .arg(agent)
            // What ends the whole group of the parent, such as an interrupt from the keyboard, is not meant for it.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| Error::io(with.program.display().to_string(), "start", source))?;
        Ok(Self { child })
    }

    /// Ends it: the guest is thawed.
    pub(super) fn dismiss(mut self) {
        if let Some(pipe) = &mut self.child.stdin {
            // Whether it hears this or thaws once more makes no difference to the guest.
            let _ = pipe.write_all(&[THAWED]);
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.child.stdin = None;
        // One that was not dismissed has to thaw, and may take long: it is left to itself.
        let deadline = Instant::now() + Duration::from_secs(1);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a guardian does: waits at `pipe` for the word that all is well, and thaws the guest if it closes without.
/// Returns whether it thawed.
///
/// # Errors
/// The agent could not be reached, or did not thaw, for two minutes.
pub fn stand_guard(mut pipe: impl Read, agent: &Path) -> Result<bool> {
    let mut word = [0];
    if pipe.read_exact(&mut word).is_ok() && word[0] == THAWED {
        return Ok(false);
    }
    let deadline = Instant::now() + TRY_LIMIT;
    loop {
        match Agent::connect(agent, ANSWER_LIMIT).and_then(|mut agent| agent.thaw()) {
            Ok(_) => return Ok(true),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

//! Starting a restored machine in the background.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leeward_cloud::qemu::recovery::RunFiles;
use leeward_cloud::qemu::{Qmp, QmpOptions};

use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::{Output, printable};
use crate::verb::quickstart::tools::{POLL, io};

/// QEMU answers at its monitor within this time, or something is wrong.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs the script and waits until QEMU answers. The machine outlives this process.
pub fn start(script: &Path, files: &RunFiles, output: &Output) -> Result<(), Failure> {
    let log_path = Path::new(&files.log);
    let log = File::create(log_path).map_err(io("create", log_path))?;
    let errors = log.try_clone().map_err(io("write", log_path))?;
    let mut command = Command::new(script);
    // In a group of its own, so that Ctrl-C at the terminal ends other things, not the machine.
    command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors);
    let mut machine = command.spawn().map_err(io("start", script))?;
    if let Err(failure) = wait(&mut machine, files) {
        let _ = machine.kill();
        let _ = machine.wait();
        return Err(failure);
    }
    let pid = machine.id();
    if output.is_json() {
        output.json_line(&serde_json::json!({ "started": true, "pid": pid, "files": files }));
    }
    output.line(format!("Started, process {pid}"));
    output.line(format!("  monitor {}: leeward backup qmp:{} IMAGE", files.monitor, files.monitor));
    output.line(format!("  serial console {}, what it said in {}", files.serial, files.console));
    output.line(format!("  guest agent {}, QEMU's messages {}", files.agent, files.log));
    Ok(())
}

fn wait(machine: &mut Child, files: &RunFiles) -> Result<(), Failure> {
    let started = Instant::now();
    let failed = |what: String| {
        let log = std::fs::read_to_string(&files.log).unwrap_or_default();
        let said = log
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .map_or_else(|| "it said nothing".to_owned(), |line| printable(line.trim()));
        Failure::new(Code::Failed, format!("the machine was restored, but {what}: {said}"))
            .hint(format!("see {}; what was restored is there", files.log))
    };
    loop {
        if interrupt::is_requested() {
            return Err(Failure::new(
                Code::Interrupted,
                "the machine was restored, but its start was interrupted",
            )
            .hint("start it with its script"));
        }
        let ended = machine.try_wait().map_err(io("wait for", Path::new(&files.log)))?;
        if let Some(status) = ended {
            return Err(failed(format!("QEMU ended at once ({status})")));
        }
        if Qmp::connect(Path::new(&files.monitor), &QmpOptions::default()).is_ok() {
            return Ok(());
        }
        if started.elapsed() > LIMIT {
            return Err(failed(format!("QEMU does not answer within {} s", LIMIT.as_secs())));
        }
        std::thread::sleep(POLL);
    }
}

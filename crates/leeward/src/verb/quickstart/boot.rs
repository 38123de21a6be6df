//! Starting the restored disk in a machine of its own, and listening to its serial console.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::partitions::Start;
use super::tools::{POLL, Running, check_interrupt, find};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::size;

const QEMU: &str = "qemu-system-x86_64";
/// Under KVM something has come to the console by then, or KVM does not work here: nested, it may hang in silence.
const KVM_SILENCE_MAX: Duration = Duration::from_secs(20);
/// What a guest prints when it is up: a login prompt, or the result of its own examination.
const GOOD: [&str; 3] = ["login:", "VERIFY ok", "LEEWARD-STARTED"];
const BAD: [&str; 2] = ["VERIFY FAILED", "Kernel panic"];

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Result {
    /// The awaited line came.
    Booted,
    /// The guest said that something is wrong.
    Failed,
    /// The awaited line did not come in time, or the machine ended before.
    Unseen,
    /// It was not tried.
    Skipped,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Boot {
    /// How it went.
    pub result: Result,
    /// Why it was not tried, or what was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The line on the serial console, or the last one there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// `kvm` or `tcg`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<&'static str>,
    /// From the start of the machine to the line.
    pub seconds: f64,
}

impl Boot {
    /// It was not tried.
    pub fn skipped(reason: impl Into<String>) -> Self {
        let reason = Some(reason.into());
        Self { result: Result::Skipped, reason, line: None, accelerator: None, seconds: 0.0 }
    }

    /// In words.
    pub fn describe(&self) -> String {
        let line = self.line.as_deref().unwrap_or_default();
        let reason = self.reason.as_deref().unwrap_or_default();
        let time = size::show_time(Duration::from_secs_f64(self.seconds));
        let how = if self.accelerator == Some("kvm") { "under KVM" } else { "emulated, without KVM" };
        match self.result {
            Result::Booted => format!("after {time} ({how}) its console said: {line}"),
            Result::Failed => format!("THE GUEST IS NOT WELL after {time}: {line}"),
            Result::Skipped => format!("not tried: {reason}"),
            Result::Unseen if line.is_empty() => format!(
                "not seen: its serial console stayed silent for {time} — does the guest use one (console=ttyS0)?"
            ),
            Result::Unseen => format!("not seen: {reason} in {time} ({how}); the last line was: {line}"),
        }
    }
}

/// What to wait for, and how long.
pub struct Wish<'a> {
    /// A text on the console, instead of the usual ones.
    pub until: Option<&'a str>,
    /// How long.
    pub limit: Duration,
}

/// Boots a raw disk, given by its path or as a URL that QEMU knows, without changing it and without a network.
pub fn boot(
    disk: &str,
    start: Start,
    wish: &Wish<'_>,
    scratch: &Path,
    output: &Output,
) -> std::result::Result<Boot, Failure> {
    let Some(qemu) = find(QEMU) else {
        return Ok(Boot::skipped(format!("{QEMU} is not installed (Debian: apt install qemu-system-x86)")));
    };
    match start {
        Start::Bios => {}
        Start::UefiOnly => return Ok(Boot::skipped("the disk starts by UEFI only, which is not tried here")),
        Start::No => return Ok(Boot::skipped("the disk has no boot loader: it holds files and no system")),
    }
    let kvm = rustix::fs::access("/dev/kvm", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK);
    if kvm.is_ok() {
        let boot = Attempt { qemu: &qemu, disk, wish, scratch, accelerator: "kvm" }.run(output)?;
        let hopeless = boot.result == Result::Unseen && boot.line.is_none();
        if !hopeless {
            return Ok(boot);
        }
    }
    Attempt { qemu: &qemu, disk, wish, scratch, accelerator: "tcg" }.run(output)
}

struct Attempt<'a> {
    qemu: &'a Path,
    disk: &'a str,
    wish: &'a Wish<'a>,
    scratch: &'a Path,
    accelerator: &'static str,
}

impl Attempt<'_> {
    fn command(&self, console: &Path) -> Command {
        // The overlay that takes what the guest writes lies in TMPDIR and has no name.
        let escape = |text: &str| text.replace(',', ",,");
        let drive = format!(
            "file={},format=raw,if=none,id=d0,snapshot=on,cache=unsafe,discard=unmap",
            escape(self.disk)
        );
        let (accelerator, cpu) = match self.accelerator {
            "kvm" => ("kvm", "host"),
            _ => ("tcg,thread=multi,tb-size=256", "max"),
        };
        let mut command = Command::new(self.qemu);
        command.env("TMPDIR", self.scratch).stdout(Stdio::null()).stderr(Stdio::null());
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
        ]);
        command.args(["-machine", "pc", "-accel", accelerator, "-cpu", cpu, "-m", "1024", "-smp", "1"]);
        command.args([
            "-rtc",
            "base=utc",
            "-drive",
            &drive,
            "-device",
            "virtio-blk-pci,drive=d0,bootindex=1",
        ]);
        command.args(["-chardev", &format!("file,id=c0,path={}", escape(&console.display().to_string()))]);
        command.args(["-serial", "chardev:c0"]);
        command
    }

    fn run(&self, output: &Output) -> std::result::Result<Boot, Failure> {
        let console = self.scratch.join(format!("console-{}.log", self.accelerator));
        // What an earlier machine has said must not speak for this one.
        if let Err(error) = std::fs::remove_file(&console)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(super::tools::io("remove", &console)(error));
        }
        let limit = self.wish.limit;
        let progress = Progress::new(output, 0, "");
        let started = Instant::now();
        let mut machine = Running::start(&mut self.command(&console))?;
        loop {
            check_interrupt()?;
            let ended = machine.ended()?.is_some();
            let text = read_console(&console);
            let elapsed = started.elapsed();
            let answer = |result, reason, line| Boot {
                result,
                reason,
                line,
                accelerator: Some(self.accelerator),
                seconds: elapsed.as_secs_f64(),
            };
            if let Some((result, line)) = self.judge(&text, ended || elapsed > limit) {
                return Ok(answer(result, None, Some(line)));
            }
            let silent = self.accelerator == "kvm" && text.is_empty() && elapsed > KVM_SILENCE_MAX;
            if ended || silent || elapsed > limit {
                let reason =
                    if ended { "the machine ended before it was up" } else { "nothing of that kind came" };
                return Ok(answer(Result::Unseen, Some(reason.to_owned()), last_line(&text)));
            }
            progress.note(&format!(
                "boot ({}): {} s: {}",
                self.accelerator,
                elapsed.as_secs(),
                last_line(&text).unwrap_or_default()
            ));
            std::thread::sleep(POLL);
        }
    }

    /// The line that decides, if it has come whole. A prompt is never ended by a line feed.
    fn judge(&self, text: &str, is_over: bool) -> Option<(Result, String)> {
        let good = self.wish.until.map_or(GOOD.to_vec(), |until| vec![until]);
        let holds = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
        let line = text.split_inclusive('\n').find(|line| holds(line, &good) || holds(line, &BAD))?;
        let is_whole = line.ends_with('\n') || line.trim_end().ends_with(':') || is_over;
        let result = if holds(line, &BAD) { Result::Failed } else { Result::Booted };
        is_whole.then(|| (result, line.trim().to_owned()))
    }
}

/// The console as plain text: without the sequences that move the cursor and change colours.
fn read_console(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    plain(&String::from_utf8_lossy(&bytes))
}

fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                if characters.next() == Some('[') {
                    characters.by_ref().find(|end| ('@'..='~').contains(end));
                }
            }
            '\n' => plain.push('\n'),
            other if other.is_control() => {}
            other => plain.push(other),
        }
    }
    plain
}

fn last_line(text: &str) -> Option<String> {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(100).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_decides_is_awaited_whole() {
        let none = Path::new("");
        let judge = |text: &str, until, is_over| {
            let wish = Wish { until, limit: Duration::ZERO };
            let attempt = Attempt { qemu: none, disk: "", wish: &wish, scratch: none, accelerator: "tcg" };
            attempt.judge(text, is_over)
        };
        let booted = |line: &str| Some((Result::Booted, line.to_owned()));
        assert_eq!(judge("a\nTINY-VERIFY ok gener", None, false), None);
        assert_eq!(judge("a\nTINY-VERIFY ok gener", None, true), booted("TINY-VERIFY ok gener"));
        assert_eq!(judge("a\nTINY-VERIFY ok 1\n/ # ", None, false), booted("TINY-VERIFY ok 1"));
        assert_eq!(judge("a\nhost login: ", None, false), booted("host login:"));
        assert_eq!(judge("host login: \nready\n", Some("ready"), false), booted("ready"));
        assert_eq!(
            judge("VERIFY FAILED 3\n", None, false),
            Some((Result::Failed, "VERIFY FAILED 3".to_owned()))
        );
    }

    #[test]
    fn the_console_is_read_without_its_colours() {
        assert_eq!(
            plain("\u{1b}[2J\u{1b}[01;01H\u{1b}[0;32mOK\u{1b}[0m\r\nhost login: "),
            "OK\nhost login: "
        );
        assert_eq!(last_line("a\n b \n\n"), Some("b".to_owned()));
        assert_eq!(last_line("\n"), None);
    }
}

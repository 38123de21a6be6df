//! An engine in a process of its own, which can be killed: this test program executed again. Its steps make files, found
//! again by the key of the step.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use leeward_runs::engine::{Engine, EngineOptions};
use leeward_runs::step::{Context, Fault, Kind, Outcome, Step};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;

/// The test that is the engine where these variables are set.
pub const ENTRY: &str = "the_engine_of_another_process";
const BED: &str = "LEEWARD_TEST_BED";
const WORLD: &str = "LEEWARD_TEST_WORLD";
const OWNER: &str = "LEEWARD_TEST_OWNER";
const DIES: &str = "LEEWARD_TEST_DIES";

/// What steps have made, in a folder.
#[derive(Clone)]
pub struct Files {
    folder: PathBuf,
    owner: String,
    dies: bool,
}

impl Files {
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("things")).unwrap();
        fs::create_dir_all(folder.join("deaths")).unwrap();
        Self { folder: folder.to_owned(), owner: String::new(), dies: false }
    }

    /// The keys of the things that are there.
    pub fn things(&self) -> Vec<String> {
        names(&self.folder.join("things"))
    }

    /// At which points an engine has died by its own hand.
    pub fn deaths(&self) -> Vec<String> {
        names(&self.folder.join("deaths"))
    }

    /// The lines of the journal.
    pub fn journal(&self) -> Vec<String> {
        fs::read_to_string(self.folder.join("journal"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub fn put(&self, name: &str) {
        fs::write(self.folder.join(name), "").unwrap();
    }

    pub fn has(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }

    fn note(&self, text: &str) {
        let mut file =
            OpenOptions::new().create(true).append(true).open(self.folder.join("journal")).unwrap();
        file.write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    /// Dies here, once per point of a run.
    fn may_die(&self, context: &Context, point: &str) {
        let name = format!("{} {} {point}", context.run_id(), context.step());
        let first =
            || OpenOptions::new().write(true).create_new(true).open(self.folder.join("deaths").join(&name));
        if self.dies && first().is_ok() {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

impl Kind for Files {
    fn name(&self) -> &str {
        "test"
    }

    fn step(&self, _: u32, _: &str) -> Option<Arc<dyn Step>> {
        Some(Arc::new(self.clone()))
    }
}

impl Step for Files {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        match context.step() {
            "careless" | "careful" => return self.wait_for_word(context),
            "refused" => return Err(Fault::lasting("refused", "mend it")),
            _ => {}
        }
        self.may_die(context, "before act");
        context.wait(Duration::from_millis(20))?;
        let path = self.folder.join("things").join(context.key());
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => self.note(&format!("made {}", context.key())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Fault::passing(error.to_string(), "see the disk")),
        }
        self.may_die(context, "after act");
        Outcome::done(&json!({ "made": context.key() }))
    }

    fn undo(&self, context: &Context) -> Result<(), Fault> {
        self.may_die(context, "before undo");
        context.wait(Duration::from_millis(10))?;
        let path = self.folder.join("things").join(context.key());
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Fault::passing(error.to_string(), "see the disk"));
            }
            _ => self.note(&format!("removed {}", context.key())),
        }
        self.may_die(context, "after undo");
        Ok(())
    }
}

impl Files {
    /// Does not listen while it waits; then the careful one asks before it acts, and the careless one answers in any case.
    fn wait_for_word(&self, context: &Context) -> Result<Outcome, Fault> {
        let (step, owner) = (context.step(), &self.owner);
        self.note(&format!("{step} of {owner} waits"));
        while !self.has(&format!("go {owner}")) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if step == "careful" {
            let asked = context.check();
            self.note(&format!("careful of {owner} may act: {}", asked.is_ok()));
            asked?;
        }
        self.note(&format!("{step} of {owner} answers"));
        Outcome::done(&json!({ "by": owner }))
    }
}

pub fn quick(owner: &str) -> EngineOptions {
    EngineOptions {
        lease: Duration::from_millis(700),
        poll: Duration::from_millis(40),
        patience: Duration::from_millis(500),
        interruptions: 10_000,
        ..EngineOptions::new(owner)
    }
}

/// The life of an engine's process: until it is killed, or its parent is gone.
pub fn live() {
    let Ok(bed) = std::env::var(BED) else { return };
    let (world, owner) = (std::env::var(WORLD).unwrap(), std::env::var(OWNER).unwrap());
    let state = super::world::open(Path::new(&bed)).unwrap();
    let files = Files {
        dies: std::env::var_os(DIES).is_some(),
        owner: owner.clone(),
        ..Files::new(Path::new(&world))
    };
    let _engine = Engine::start(state, vec![Arc::new(files)], quick(&owner)).unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0);
}

/// An engine's process; killed when dropped.
pub struct Process(Child);

impl Process {
    pub fn start(bed: &Path, files: &Files, owner: &str, dies: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", ENTRY, "--nocapture"]);
        command.env(BED, bed).env(WORLD, &files.folder).env(OWNER, owner);
        if dies {
            command.env(DIES, "1");
        }
        let null = || Stdio::null();
        Self(command.stdin(Stdio::piped()).stdout(null()).stderr(Stdio::inherit()).spawn().unwrap())
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

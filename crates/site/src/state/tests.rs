use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use leeward_protect::job::{plan_of, step_of};
use leeward_repository::{InitOptions, Repository, Unattended};
use leeward_runs::state::{SqliteState, State};
use leeward_runs::{Event, Run, RunId, RunState, StepState, apply};
use leeward_store::DirectoryStore;
use serde_json::Value;

use super::*;
use crate::catalog::Catalog;
use crate::{Config, ErrorKind};

struct World {
    folder: tempfile::TempDir,
    config: Config,
    repository: Repository,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("site.toml");
        std::fs::write(&file, "name = 'home'\nstate = 'state'\n").unwrap();
        let config = Config::load(&file).unwrap();
        std::fs::create_dir(&config.state).unwrap();
        std::fs::write(config.tokens_file(), "digests\n").unwrap();
        Catalog::open(&config.catalog_file()).unwrap();
        SqliteState::open(&config.runs_file()).unwrap();
        let store =
            DirectoryStore::create(&folder.path().join("repository"), &leeward_repository::PREFIXES).unwrap();
        let repository = Repository::init(Arc::new(store), &InitOptions::default()).unwrap();
        Self { folder, config, repository }
    }

    fn state(&self) -> SqliteState {
        SqliteState::open(&self.config.runs_file()).unwrap()
    }

    /// A run of which so many steps are done and the next one is under way.
    fn run(&self, has_undo: bool, done: usize, is_under_way: bool) -> RunId {
        let mut steps = vec![step_of("one", "One", &[]), step_of("two", "Two", &["one"])];
        steps.iter_mut().for_each(|step| step.has_undo = has_undo);
        let state = self.state();
        let now = state.now().unwrap();
        let id = RunId::new(now).unwrap();
        let mut run = Run::new(id.clone(), "x", plan_of("test", 1, steps), Value::Null, "me", now);
        state.insert(&run, None).unwrap();
        let mut events = vec![Event::Moved { state: RunState::Running, reason: None }];
        for step in ["one", "two"].iter().take(done) {
            events.push(Event::Succeeded { step: (*step).to_owned(), outputs: Value::Null });
        }
        if is_under_way {
            events.push(Event::Started { step: ["one", "two"][done].to_owned() });
        }
        events.iter().for_each(|event| apply(&mut run, event, now));
        state.replace(&run, 0, None, &events).unwrap();
        id
    }

    fn store(&self) {
        let copy = copy::copy(&self.config).unwrap();
        self.store_file(&copy.archive);
    }

    fn store_file(&self, file: &Path) {
        let source = leeward_disk::open_source(
            file.to_str().unwrap(),
            &leeward_disk::OpenOptions::with_format(leeward_disk::Format::Raw),
        )
        .unwrap();
        let options = leeward_repository::BackupOptions {
            image: image_of("home").unwrap(),
            source: leeward_repository::SourceRecord {
                location: "state".to_owned(),
                format: "raw".to_owned(),
                host: "here".to_owned(),
            },
            consistency: leeward_repository::Consistency::AtRest,
            tags: BTreeMap::new(),
            threads: 1,
        };
        self.repository.backup(source.as_ref(), &options, &Unattended).unwrap();
    }

    fn restore(&self, dry_run: bool) -> Result<Restored> {
        let directory = self.config.state.clone();
        restore(&self.repository, &Restoring { site: None, at: "latest".to_owned(), directory, dry_run })
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn runs_that_may_have_gone_on_wait_for_a_person_and_others_do_not() {
    let world = World::new();
    let [under_way, between, harmless] =
        [world.run(true, 1, true), world.run(true, 1, false), world.run(false, 1, true)];
    world.store();
    std::fs::remove_dir_all(&world.config.state).unwrap();
    let restored = world.restore(false).unwrap();
    assert_eq!((restored.runs, restored.kept), (3, None));
    let mut held = restored.held.clone();
    held.sort();
    let mut waiting = [under_way.clone(), between.clone()];
    waiting.sort();
    assert_eq!(held, waiting);
    let state = world.state();
    for id in [&under_way, &between] {
        let (run, lease) = state.load(id).unwrap().unwrap();
        assert_eq!((run.state, run.step("two").unwrap().state), (RunState::Held, StepState::Failed));
        assert_eq!(run.step("one").unwrap().state, StepState::Succeeded, "what was done stays so");
        assert_eq!(lease, None);
        assert!(run.reason.unwrap().contains("what it did after that is not known"));
        let runs = leeward_runs::engine::Runs::new(Arc::new(world.state()));
        let retry = leeward_runs::Command::Retry { step: None, inputs: None };
        assert_eq!(runs.command(id, &retry).unwrap().state, RunState::Queued);
    }
    assert_eq!(state.load(&harmless).unwrap().unwrap().0.state, RunState::Running);
    assert_eq!(std::fs::read_to_string(world.config.tokens_file()).unwrap(), "digests\n");
    assert!(world.config.state.join("site.toml").exists());
}

#[test]
fn the_present_state_is_kept_and_a_dry_run_changes_nothing() {
    let world = World::new();
    world.store();
    let later = world.run(true, 0, false);
    let before = world.names();
    let planned = world.restore(true).unwrap();
    assert!(planned.kept.is_some());
    assert_eq!(world.names(), before);
    assert!(world.state().load(&later).unwrap().is_some());

    let restored = world.restore(false).unwrap();
    assert!(world.state().load(&later).unwrap().is_none());
    let kept = restored.kept.unwrap();
    assert!(kept.file_name().unwrap().to_str().unwrap().starts_with("state.before-"));
    let old = SqliteState::open(&kept.join("runs.sqlite")).unwrap();
    assert!(old.load(&later).unwrap().is_some());
}

#[test]
fn a_state_that_a_daemon_has_and_a_directory_that_is_none_are_left_alone() {
    let world = World::new();
    world.store();
    let alone = crate::site::be_alone(&world.config.state).unwrap();
    assert!(world.restore(false).unwrap_err().to_string().contains("another daemon"));
    drop(alone);
    world.restore(false).unwrap();
    let other = world.folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("letter"), "dear").unwrap();
    let restoring = Restoring { site: None, at: String::new(), directory: other.clone(), dry_run: false };
    assert!(restore(&world.repository, &restoring).unwrap_err().to_string().contains("no daemon's state"));
    assert!(other.join("letter").exists());
    let none = Restoring { site: Some("away".to_owned()), ..restoring };
    assert_eq!(restore(&world.repository, &none).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_newer_damaged_or_something_else_is_refused_and_nothing_is_changed() {
    let world = World::new();
    world.run(true, 0, false);
    let file = world.folder.path().join("made.tar");
    let about = |format: u32| {
        serde_json::json!({ "format": format, "site": "home", "tool": "leeward 9.9.9", "copied": "2026-01-01T00:00:00Z",
            "config": null, "state": "/s" })
        .to_string()
    };
    let newer = world.folder.path().join("newer.sqlite");
    SqliteState::open(&newer).unwrap();
    let connection = rusqlite::Connection::open(&newer).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(connection);
    let newer = std::fs::read(&newer).unwrap();
    let catalog = world.folder.path().join("catalog.sqlite");
    rusqlite::Connection::open(world.config.catalog_file())
        .unwrap()
        .execute("VACUUM INTO ?1", [catalog.to_str().unwrap()])
        .unwrap();
    let catalog = std::fs::read(catalog).unwrap();
    let mut torn = catalog.clone();
    torn.iter_mut().skip(100).take(3000).for_each(|byte| *byte = 0xa5);
    type Files = Vec<(&'static str, Vec<u8>)>;
    let cases: Vec<(&str, Files)> = vec![
        ("format 2, written by leeward 9.9.9", vec![("state.json", about(2).into_bytes())]),
        ("no catalog.sqlite", vec![("state.json", about(1).into_bytes())]),
        ("no state.json", vec![("other", b"x".to_vec())]),
        (
            "newer release",
            vec![
                ("state.json", about(1).into_bytes()),
                ("catalog.sqlite", catalog),
                ("runs.sqlite", newer.clone()),
            ],
        ),
        (
            "catalog.sqlite is damaged",
            vec![("state.json", about(1).into_bytes()), ("catalog.sqlite", torn), ("runs.sqlite", newer)],
        ),
    ];
    for (says, files) in cases {
        let mut archive = tar::Builder::new(std::fs::File::create(&file).unwrap());
        for (name, content) in &files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        archive.finish().unwrap();
        world.store_file(&file);
        let before = world.names();
        let error = world.restore(false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unfit, "{error}");
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert_eq!(world.names(), before);
        assert_eq!(world.state().counts().unwrap().len(), 1, "the present state is as it was");
    }
}

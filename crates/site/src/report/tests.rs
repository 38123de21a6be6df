use std::cell::Cell;

use leeward_protect::job::{BACKUP, BackupInputs, backup_plan};
use leeward_runs::state::SqliteState;
use leeward_runs::{Plan, Run, RunState, StepState};
use serde_json::{Value, json};

use super::*;

/// Minute 0 is an hour ago.
fn minute(number: i64) -> Timestamp {
    let now = Timestamp::now();
    now - SignedDuration::from_secs(now.as_second() % 60 + 3600 - 60 * number)
        - SignedDuration::from_nanos(i64::from(now.subsec_nanosecond()))
}

/// A backup of disks `a` and `b`, begun at a minute, of which those disks were backed up that are named.
fn backup(state: &SqliteState, begun: i64, became: RunState, took: Option<i64>, done: &[&str]) -> Run {
    let inputs =
        BackupInputs { disks: vec!["a".to_owned(), "b".to_owned()], full: false, ..BackupInputs::default() };
    let at = minute(begun);
    let id = RunId::new(at).unwrap();
    let mut run = Run::new(id, "a, b", backup_plan(&inputs), json!({}), "schedule", at);
    run.labels.insert("schedule".to_owned(), "nightly".to_owned());
    run.state = became;
    run.finished = took.map(|minutes| minute(begun + minutes));
    for step in &mut run.steps {
        let disk = step.name.trim_start_matches("disk-").to_owned();
        if done.contains(&disk.as_str()) {
            step.finished = Some(minute(begun + 1));
            step.outputs = json!({
                "image": format!("web/{disk}"), "snapshot": "00", "statistics": {"read_bytes": 1000, "stored_bytes": 10},
            });
        }
    }
    state.insert(&run, None).unwrap();
    run
}

fn ask(state: &SqliteState, from: i64, to: i64, most: usize) -> Report {
    let question = ReportQuestion { from: minute(from), to: minute(to), kind: None };
    let rpo: RpoTargets = toml::from_str("'web/b' = '10m'").unwrap();
    gather(state, SignedDuration::from_hours(24), &rpo, &question, &|| true, most).unwrap()
}

#[test]
fn each_run_of_the_stretch_counts_once_as_what_became_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = SqliteState::open(&folder.path().join("runs")).unwrap();
    backup(&state, 0, RunState::Succeeded, Some(2), &["a", "b"]);
    backup(&state, 10, RunState::Succeeded, Some(4), &["a", "b"]);
    backup(&state, 20, RunState::Failed, Some(5), &["a"]);
    backup(&state, 30, RunState::Failed, Some(5), &[]);
    backup(&state, 35, RunState::Cancelled, Some(1), &[]);
    backup(&state, 40, RunState::Held, None, &["b"]);
    backup(&state, 45, RunState::Queued, None, &[]);
    backup(&state, 46, RunState::Undoing, None, &["a"]);
    let report = ask(&state, 0, 50, 100);
    assert_eq!((report.runs, report.complete, report.since), (8, true, report.from));
    let [group] = report.groups.as_slice() else { panic!("{report:#?}") };
    assert_eq!((group.kind.as_str(), group.schedule.as_deref()), (BACKUP, Some("nightly")));
    let counts =
        [group.succeeded, group.partial, group.failed, group.cancelled, group.held, group.undo_failed];
    assert_eq!(counts, [2, 2, 1, 1, 0, 0]);
    assert_eq!((group.waiting, group.running, group.begun), (1, 1, 8));
    assert_eq!((group.read_bytes, group.stored_bytes, group.written_bytes), (7000, 70, 0));
    assert_eq!((group.median_seconds, group.longest_seconds), (Some(120.0), Some(240.0)));
    // a at minutes 1, 11, 21 and 47, b at 1, 11 and 41.
    let images: Vec<_> = report
        .images
        .iter()
        .map(|image| (image.image.as_str(), image.backups, image.longest_gap_seconds))
        .collect();
    assert_eq!(images, [("web/a", 4, 26 * 60), ("web/b", 3, 30 * 60)]);
    assert_eq!(report.images[1].last, minute(41));
    let rpo = |number: usize| (report.images[number].rpo_target_seconds, report.images[number].rpo_misses);
    // From 11 to 41; ten minutes are not more than ten.
    assert_eq!((rpo(0), rpo(1)), ((None, None), (Some(600), Some(1))));

    // The beginning counts, the end does not; the last gap is that to the end.
    let report = ask(&state, 10, 20, 100);
    assert_eq!((report.runs, report.groups[0].succeeded), (1, 1));
    assert_eq!(report.images[0].longest_gap_seconds, 9 * 60);
    assert_eq!(ask(&state, 20, 10, 100).groups, [], "a stretch that ends before it begins has nothing");
}

#[test]
fn what_is_left_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let state = SqliteState::open(&folder.path().join("runs")).unwrap();
    for number in 0..10 {
        backup(&state, number, RunState::Succeeded, Some(1), &["a"]);
    }
    let report = ask(&state, 0, 50, 4);
    assert_eq!((report.runs, report.complete, report.since), (4, false, minute(6)));
    assert_eq!(report.groups[0].partial, 4);
    let whole = ask(&state, 0, 50, 10);
    assert_eq!((whole.runs, whole.complete), (10, true));

    let question = ReportQuestion { from: minute(0), to: minute(50), kind: None };
    let rpo = RpoTargets::default();
    let asked = Cell::new(0);
    let gone = || {
        asked.set(asked.get() + 1);
        asked.get() <= 3
    };
    let report = gather(&state, SignedDuration::from_hours(24), &rpo, &question, &gone, 100).unwrap();
    assert_eq!((report.runs, report.complete), (3, false));
    // History is kept for half an hour: before that it is not whole.
    let report = gather(&state, SignedDuration::from_mins(30), &rpo, &question, &|| true, 100).unwrap();
    assert!(report.since > minute(29) && report.since < minute(32), "{}", report.since);
    let none = ReportQuestion { kind: Some("import".to_owned()), ..question };
    let report = gather(&state, SignedDuration::from_hours(1), &rpo, &none, &|| true, 100).unwrap();
    assert_eq!((report.runs, report.groups.len()), (0, 0));
}

/// A run that has ended, with the steps that did, and what they left.
fn ended(state: &SqliteState, became: RunState, plan: Plan, steps: &[(&str, StepState, Value)]) {
    let mut run = Run::new(RunId::new(minute(10)).unwrap(), "a run", plan, json!({}), "somebody", minute(10));
    (run.state, run.finished) = (became, Some(minute(12)));
    for (name, stands, outputs) in steps {
        let step = run.steps.iter_mut().find(|step| step.name == *name).unwrap();
        (step.state, step.finished, step.outputs) = (*stands, Some(minute(11)), outputs.clone());
    }
    state.insert(&run, None).unwrap();
}

/// A plan of another kind, with steps of these names.
fn like(kind: &str, names: &[&str]) -> Plan {
    let disks = names.iter().map(|name| (*name).to_owned()).collect();
    let mut plan = backup_plan(&BackupInputs { disks, ..BackupInputs::default() });
    kind.clone_into(&mut plan.kind);
    for (step, name) in plan.steps.iter_mut().zip(names) {
        (*name).clone_into(&mut step.name);
    }
    plan
}

/// What is told of the images: their names, backups and bytes.
fn images_of(report: &Report) -> Vec<(&str, u64, u64)> {
    report.images.iter().map(|image| (image.image.as_str(), image.backups, image.stored_bytes)).collect()
}

#[test]
fn a_machine_counts_with_each_of_its_disks() {
    let folder = tempfile::tempdir().unwrap();
    let state = SqliteState::open(&folder.path().join("runs")).unwrap();
    let plan = || {
        backup_plan(&BackupInputs {
            disks: vec!["a".to_owned()],
            machines: vec!["db".to_owned()],
            ..BackupInputs::default()
        })
    };
    let statistics = |read: u64, stored: u64| json!({"data_bytes": 0, "read_bytes": read, "new_bytes": 0, "stored_bytes": stored});
    let disk = json!({
        "image": "web/a", "snapshot": "00", "virtual_size": 4096, "capture": null, "statistics": statistics(1000, 10),
        "mounted_at": [],
    });
    let of_machine = |name: &str, read: u64, stored: u64| {
        json!({
            "disk": name, "image": format!("vm/db/{name}"), "snapshot": "01", "group": "g", "virtual_size": 4096,
            "capture": null, "statistics": statistics(read, stored),
        })
    };
    let machine = json!({
        "image": "vm/db", "consistency": "crash", "consistency_reason": null,
        "disks": [of_machine("vda", 2000, 20), of_machine("vdb", 4000, 40)],
    });
    // So it is told where the daemon was killed after the group was made.
    let again = json!({"image": "vm/db", "disks": [
        {"image": "vm/db/vda", "snapshot": "02"}, {"image": "vm/db/vdb", "snapshot": "03"},
    ]});
    let done = StepState::Succeeded;
    let both = [("disk-a", done, disk.clone()), ("machine-db", done, machine.clone())];
    ended(&state, RunState::Succeeded, plan(), &both);
    ended(
        &state,
        RunState::Succeeded,
        plan(),
        &[("disk-a", done, disk.clone()), ("machine-db", done, again)],
    );
    for made in [("disk-a", done, disk), ("machine-db", done, machine)] {
        ended(&state, RunState::Failed, plan(), &[made]);
    }
    let failed = ("machine-db", StepState::Failed, Value::Null);
    ended(&state, RunState::Failed, plan(), &[failed]);
    let report = ask(&state, 0, 50, 100);
    let [group] = report.groups.as_slice() else { panic!("{report:#?}") };
    assert_eq!((group.begun, group.succeeded, group.partial, group.failed), (5, 2, 2, 1));
    assert_eq!((group.read_bytes, group.stored_bytes), (3 * 1000 + 2 * 6000, 3 * 10 + 2 * 60));
    assert_eq!(images_of(&report), [("vm/db/vda", 3, 40), ("vm/db/vdb", 3, 80), ("web/a", 3, 30)]);
}

#[test]
fn an_import_into_the_repository_counts_for_its_images_while_it_is_not_undone() {
    let folder = tempfile::tempdir().unwrap();
    let state = SqliteState::open(&folder.path().join("runs")).unwrap();
    let names = ["create_block_volume", "write_image_to_bv"];
    let intended = json!({
        "target": "vault", "volumes": [],
        "snapshots": [{"image": "in/web", "disk": "", "bytes": 4096, "tags": {"run": "r"}}],
    });
    let stored = |disk: u32| {
        json!({
            "image": format!("in/web{disk}"), "snapshot": "04", "virtual_bytes": 4096, "data_bytes": 3000,
            "new_bytes": 700, "stored_bytes": 300, "read_back_bytes": 3000, "object_digest": {"result": "not_stated"},
        })
    };
    let published = json!({
        "snapshots": [stored(1), stored(2)],
        "volumes": [{"id": "in/web1@04", "name": "in/web1", "bytes": 4096, "domain": "repository", "disk": ""}],
    });
    let done = StepState::Succeeded;
    for (became, stands) in [(RunState::Succeeded, done), (RunState::Cancelled, StepState::Undone)] {
        let steps = [(names[0], stands, intended.clone()), (names[1], done, published.clone())];
        ended(&state, became, like("import", &names), &steps);
    }
    // One that has not come so far has made none.
    ended(&state, RunState::Held, like("import", &names), &[(names[0], done, intended)]);
    // What was restored or exported was made by others.
    let restored = json!({"disks": [
        {"volume": "v", "virtual_bytes": 4096, "data_bytes": 3000, "read_back_bytes": 3000, "past_the_page_cache": true,
            "object_digest": {"result": "not_stated"}},
    ]});
    ended(&state, RunState::Succeeded, like("restore", &names), &[(names[1], done, restored)]);
    let exported = json!({
        "of": {"image": "in/web1", "snapshot": "04", "bucket": "out", "object": "web.qcow2", "format": "qcow2"},
        "bucket": "out", "object": "web.qcow2", "version": "1", "bytes": 5000,
    });
    ended(
        &state,
        RunState::Succeeded,
        like("export", &["write_object"]),
        &[("write_object", done, exported)],
    );
    let report = ask(&state, 0, 50, 100);
    assert_eq!(images_of(&report), [("in/web1", 1, 300), ("in/web2", 1, 300)]);
    let of = |kind: &str| report.groups.iter().find(|group| group.kind == kind).unwrap();
    let import = of("import");
    assert_eq!((import.begun, import.succeeded, import.cancelled, import.held), (3, 1, 1, 1));
    assert_eq!((import.partial, import.stored_bytes), (0, 1200));
    for (kind, written) in [("restore", 3000), ("export", 0)] {
        let group = of(kind);
        assert_eq!((group.succeeded, group.stored_bytes, group.written_bytes), (1, 0, written), "{kind}");
    }
}

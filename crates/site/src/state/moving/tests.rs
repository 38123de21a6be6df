//! Odd contents and odd ends, with a server of PostgreSQL. The site's own tests have the daemons.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::*;
use crate::ErrorKind;
use crate::catalog::Catalog;
use crate::catalog::tests::server;
use crate::state::shared as from_database;
use leeward_runs::state::SqliteState;

struct World {
    folder: tempfile::TempDir,
    config: Config,
    name: &'static str,
}

impl World {
    /// A site with empty files and an empty database; none, loudly, where PostgreSQL is not installed.
    fn new(name: &'static str) -> Option<Self> {
        let server = server::server()?;
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("postgres.url");
        server.database(name, &url);
        let file = folder.path().join("site.toml");
        let text = format!("name = 'home'\nstate = 'state'\n[database]\nurl_file = {url:?}\n");
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        std::fs::create_dir(&config.state).unwrap();
        Catalog::open(&config.catalog_file()).unwrap();
        SqliteState::open(&config.runs_file()).unwrap();
        Some(Self { folder, config, name })
    }

    fn runs(&self) -> Connection {
        Connection::open(self.config.runs_file()).unwrap()
    }

    fn catalog(&self) -> Connection {
        Connection::open(self.config.catalog_file()).unwrap()
    }

    fn says(&self, text: &str) {
        assert!(server::server().unwrap().ask(self.name, text), "{text}");
    }

    fn holds(&self, condition: &str) -> bool {
        server::server().unwrap().ask(self.name, &format!("SELECT 1 / ({condition})::int"))
    }

    fn mv(&self) -> Result<Moved> {
        move_state(&self.config, false, &mut |_| true)
    }

    fn mark(&self) -> std::path::PathBuf {
        self.config.state.join("moved.json")
    }
}

/// Everything in a file.
fn content(runs: &Path, catalog: &Path) -> Vec<(String, Vec<Vec<Value>>)> {
    let table = |table: tables::Table| {
        let file = if tables::RUNS.contains(&table) { runs } else { catalog };
        let connection = Connection::open(file).unwrap();
        let text = format!("SELECT * FROM {} ORDER BY {}", table.name, table.order_in_file());
        let mut statement = connection.prepare(&text).unwrap();
        let count = statement.column_count();
        let rows = statement.query_map([], |row| (0..count).map(|index| row.get(index)).collect()).unwrap();
        (table.name.to_owned(), rows.collect::<rusqlite::Result<_>>().unwrap())
    };
    tables::all().map(table).collect()
}

const ODD: &str = "one\ttwo\nthree\r\\N \\. \\ ä 🦀 {\"x\": \"\\u0000\"}";

/// Rows of each kind, with all that is odd.
fn fill(world: &World) {
    let runs = world.runs();
    let large = "large \\ ".repeat(1 << 20);
    for (id, live, body) in [("a", 1, ODD), ("B", 0, large.as_str()), ("ä", 1, "")] {
        let text = "INSERT INTO runs (id, kind, subject, state, live, cleaning, pools, unique_key, ended, owner, lease_until,
             lease_length, fence, sequence, summary, body)
             VALUES (?1, 'x', ?2, 'running', ?3, 0, '[]', ?1, ?4, 'killed', 9223372036854775807, 1, 7, 8, ?2, ?5)";
        let ended = (live == 0).then_some(-1);
        runs.execute(text, rusqlite::params![id, ODD, live, ended, body]).unwrap();
    }
    for pool in ["b", "B", "a-b", "a_b", "ab"] {
        runs.execute("INSERT INTO pools VALUES (?1, 'a')", [pool]).unwrap();
        runs.execute("INSERT INTO progress VALUES ('a', ?1, '{}')", [pool]).unwrap();
        runs.execute("INSERT INTO checkpoints VALUES ('a', ?1, ?2)", [pool, ODD]).unwrap();
    }
    runs.execute_batch(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5001)
         INSERT INTO logs (run, step, at, level, text) SELECT 'a', 's', i, 'info', 'line ' || i FROM n;
         INSERT INTO events (number, run, at, body) VALUES (41, 'a', -5, '{}'), (90, 'gone', 0, '{}');
         DELETE FROM events WHERE number = 90;",
    )
    .unwrap();
    let catalog = world.catalog();
    let hint =
        "INSERT INTO hints (number, source, object, version, cause, received, state, due, attempts, outcome)
         VALUES (?1, 'inbox', ?2, NULL, '', 0, 'waiting', 0, 0, NULL)";
    catalog.execute(hint, rusqlite::params![7, "with\0zero"]).unwrap();
    catalog.execute(hint, rusqlite::params![9, ODD]).unwrap();
    catalog
        .execute_batch(
            "INSERT INTO seen VALUES ('inbox', 'B', '1'), ('inbox', 'a', '2'), ('inbox', 'ä', '');
             INSERT INTO schedules VALUES ('daily', '{}', 1, 0, 1, 'me', NULL, NULL, NULL);
             INSERT INTO told_up_to VALUES (1, 41);
             INSERT INTO deliveries (receiver, id, kind, title, notice, made, state, due, attempts)
                VALUES ('ops', 'x', 'held', 't', '{}', 1, 'waiting', 1, 0);
             INSERT INTO delivered VALUES ('t', 'v', 'a', 1);
             INSERT INTO worker_tokens VALUES ('digest', 'a');",
        )
        .unwrap();
}

#[test]
fn every_row_of_every_table_arrives_and_numbers_go_on() {
    let Some(world) = World::new("whole") else { return };
    fill(&world);
    let mut going = Vec::new();
    let moved = move_state(&world.config, false, &mut |step| {
        going.push((step.compares, step.rows, step.done));
        true
    });
    let moved = moved.unwrap();
    assert_eq!((moved.live, moved.tables["runs"], moved.tables["logs"]), (2, 3, 5001));
    assert_eq!(moved.lines()[0], ("runs", 3));
    for step in
        [(false, "lines of logs", 2000), (false, "lines of logs", 5001), (true, "lines of logs", 5001)]
    {
        assert!(going.contains(&step), "{going:?}");
    }

    let [runs, catalog] = ["runs", "catalog"].map(|name| world.folder.path().join(name));
    from_database::copy(world.config.database.as_ref().unwrap(), &catalog, &runs).unwrap();
    let (mut was, is) =
        (content(&world.config.runs_file(), &world.config.catalog_file()), content(&runs, &catalog));
    let hints = was.iter_mut().find(|(table, _)| table == "hints").unwrap();
    hints.1[0][2] = Value::Text("with\u{fffd}zero".to_owned());
    assert_eq!(was, is);
    assert!(is.iter().all(|(_, rows)| !rows.is_empty()), "a table is not tested");
    assert!(world.holds("(SELECT count(*) FROM leeward_runs WHERE lease_until IS NULL) = 3"));

    // What was forgotten since keeps its number.
    for (table, columns, values, number) in [
        ("events", "run, at, body", "'a', 0, ''", 91),
        ("logs", "run, step, at, level, text", "'a', '', 0, '', ''", 5002),
        (
            "deliveries",
            "receiver, id, kind, title, notice, made, state, due, attempts",
            "'', '', '', '', '', 0, '', 0, 0",
            2,
        ),
        ("hints", "source, object, cause, received, state, due, attempts", "'', '', '', 0, '', 0, 0", 10),
    ] {
        world.says(&format!("INSERT INTO leeward_{table} ({columns}) VALUES ({values})"));
        assert!(world.holds(&format!("(SELECT max(number) FROM leeward_{table}) = {number}")), "{table}");
    }
    check_state(&world.config).unwrap();
    assert!(world.mv().unwrap().moved_before.is_some());
    let files = Config { database: None, ..world.config.clone() };
    assert_eq!(check_state(&files).unwrap_err().kind(), ErrorKind::Unfit);
}

#[test]
fn what_is_interrupted_or_reads_back_differently_leaves_all_as_it_was() {
    let Some(world) = World::new("ends") else { return };
    fill(&world);
    let before = content(&world.config.runs_file(), &world.config.catalog_file());
    let untouched = || {
        assert!(
            world.holds("NOT EXISTS (SELECT 1 FROM leeward_runs) AND to_regclass('leeward_moved') IS NULL")
        );
        assert!(!world.mark().exists());
        check_state(&Config { database: None, ..world.config.clone() }).unwrap();
    };
    for compares in [false, true] {
        let mut watch = |going: &Going| going.compares != compares || going.rows != "notices";
        let error = move_state(&world.config, false, &mut watch).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error}");
        untouched();
    }
    world.says(
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.text = NEW.text || '!'; RETURN NEW; END $$;
         CREATE TRIGGER other BEFORE INSERT ON leeward_logs FOR EACH ROW WHEN (NEW.number = 4000) EXECUTE PROCEDURE other()",
    );
    let error = world.mv().unwrap_err().to_string();
    assert!(error.contains("leeward_logs") && error.contains("row 3999"), "{error}");
    untouched();
    world.says("DROP TRIGGER other ON leeward_logs");
    // Beside what a start would have done to leases, the files are as they were.
    world.runs().execute("UPDATE runs SET lease_until = 9223372036854775807", []).unwrap();
    assert_eq!(content(&world.config.runs_file(), &world.config.catalog_file()), before);
    world.mv().unwrap();
}

#[test]
fn older_files_are_brought_up_and_newer_damaged_or_missing_ones_are_refused() {
    let Some(world) = World::new("ages") else { return };
    world.catalog().execute_batch("DROP TABLE deliveries; DROP TABLE told_up_to; DROP TABLE delivered; DROP TABLE worker_tokens; PRAGMA user_version = 2").unwrap();
    world.catalog().execute_batch("INSERT INTO seen VALUES ('inbox', 'a', '1')").unwrap();
    let planned = move_state(&world.config, true, &mut |_| true).unwrap();
    assert_eq!((planned.tables["seen"], planned.tables["deliveries"]), (1, 0));
    assert!(world.holds("to_regclass('leeward_runs') IS NULL"), "a dry run makes nothing");
    let version =
        || world.catalog().pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(version(), 2, "and changes nothing");

    let refused = |what: &str| {
        for dry_run in [true, false] {
            let error = move_state(&world.config, dry_run, &mut |_| true).unwrap_err();
            assert!(error.to_string().contains(what), "{what}: {error}");
        }
        assert!(world.holds("to_regclass('leeward_runs') IS NULL"), "{what}");
    };
    world.runs().pragma_update(None, "user_version", 99).unwrap();
    refused("of a newer release (schema 99");
    world.runs().pragma_update(None, "user_version", 1).unwrap();
    std::fs::write(world.mark(), "{").unwrap();
    refused("makes no sense");
    std::fs::remove_file(world.mark()).unwrap();
    let [file, aside] = [world.config.catalog_file(), world.folder.path().join("aside")];
    std::fs::rename(&file, &aside).unwrap();
    refused("there is no such file");
    std::fs::rename(&aside, &file).unwrap();
    let held = crate::site::be_alone(&world.config.state).unwrap();
    refused("another daemon has this state");
    drop(held);

    // On an empty database no daemon begins anew beside files that have the state.
    let error = check_state(&world.config).unwrap_err().to_string();
    assert!(error.contains("leeward server move-state"), "{error}");
    world.mv().unwrap();
    assert_eq!(version(), crate::catalog::SCHEMA);
    check_state(&world.config).unwrap();

    // What was moved is not moved again into another one, and another site's state is not moved over it.
    std::fs::rename(world.mark(), &aside).unwrap();
    let error = world.mv().unwrap_err();
    assert!(error.to_string().contains("1 objects seen"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unfit);
    std::fs::rename(&aside, world.mark()).unwrap();
    server::server().unwrap().database("ages_other", &world.folder.path().join("postgres.url"));
    assert!(world.mv().unwrap_err().to_string().contains("does not have it"));
}

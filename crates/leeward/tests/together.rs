//! Many processes work on one repository at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Bench, text};

#[test]
fn ten_backups_with_collections_among_them_all_restore() {
    let bench = Bench::with_repository();
    let base = bench.disk("base.raw", 24, 5, 1);
    // Something to collect, whose chunks the backups would like to use.
    bench.succeeds(&["backup", base.to_str().unwrap(), "old"]);
    bench.succeeds(&["forget", "old@latest"]);
    let disks: Vec<_> = (0..10).map(|n| bench.changed(&base, &format!("{n}.raw"), 100 + n)).collect();
    let done = AtomicBool::new(false);
    let acknowledged: Vec<(String, String)> = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) {
                bench.succeeds(&["collect", "--window", "0", "--max-unused", "5"]);
                rounds += 1;
            }
            rounds
        });
        let second = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                bench.succeeds(&["collect", "--window", "0"]);
                bench.is_sound("while others work");
            }
        });
        let backups: Vec<_> = disks
            .iter()
            .enumerate()
            .map(|(number, disk)| {
                let bench = &bench;
                scope.spawn(move || {
                    let own = format!("own-{number}");
                    let mut made = Vec::new();
                    for image in ["shared", own.as_str()] {
                        let outcome = bench.succeeds(&["backup", disk.to_str().unwrap(), image, "-j", "2"]);
                        made.push((image.to_owned(), text(&outcome.value()["snapshot"])));
                        if image == "shared" && number % 3 == 0 {
                            bench.succeeds(&["forget", &format!("shared@{}", made.pop().unwrap().1)]);
                        }
                    }
                    made
                })
            })
            .collect();
        let made = backups.into_iter().flat_map(|backup| backup.join().unwrap()).collect();
        done.store(true, Ordering::SeqCst);
        second.join().unwrap();
        assert!(collector.join().unwrap() > 0);
        made
    });
    bench.succeeds(&["collect", "--window", "0"]);
    bench.is_sound("at the end");
    let mut published = bench.published();
    let mut expected = acknowledged.clone();
    published.sort();
    expected.sort();
    assert_eq!(published, expected);
    for (image, id) in &acknowledged {
        bench.restores(image, id, "at the end");
    }
    let last = bench.succeeds(&["collect", "--window", "0"]);
    assert_eq!(last.value()["collect"]["pending_packs"], 0);
}

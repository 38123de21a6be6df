//! The catalog does the same in a file and in PostgreSQL.

use jiff::SignedDuration;

use super::*;
use crate::notify::DeliveryState;
use crate::schedule::Entry;

#[allow(dead_code, reason = "support of other tests too")]
#[path = "../../../runs/tests/world/server.rs"]
pub(crate) mod server;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Each kind of catalog that there is here, opened twice: as two daemons, or as one that is started again.
fn for_each(act: impl Fn(&Catalog, &Catalog)) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalog");
    act(&Catalog::open(&file).unwrap(), &Catalog::open(&file).unwrap());
    let Some(programs) = server::programs() else {
        println!("SKIPPED: no /usr/lib/postgresql/*/bin; install the package postgresql");
        return;
    };
    let server = server::Server::start(programs, "off");
    let url = folder.path().join("url");
    server.database("catalog", &url);
    let options = PostgresOptions::from_file(&url).unwrap();
    act(&Catalog::open_shared(&options).unwrap(), &Catalog::open_shared(&options).unwrap());
}

fn heard(object: &str, version: Option<&str>) -> NewHint {
    NewHint {
        source: "inbox".to_owned(),
        object: object.to_owned(),
        version: version.map(str::to_owned),
        cause: "event".to_owned(),
    }
}

#[test]
fn hints_are_kept_once_and_settled() {
    for_each(|one, other| {
        let first = one.hear(&heard("a.raw", None), at(1)).unwrap();
        assert_eq!(other.hear(&heard("a.raw", None), at(2)).unwrap(), first, "it waits already");
        let second = one.hear(&heard("a.raw", Some("v2")), at(2)).unwrap();
        assert!(second > first);
        one.ignore(&heard("b.txt", None), "no image", at(3)).unwrap();
        // What no name has is no reason to fail.
        let strange = other.hear(&heard("c\0d", None), at(100)).unwrap();

        let numbers = |due: Vec<Hint>| due.iter().map(|hint| hint.number).collect::<Vec<_>>();
        // Whoever looks has another clock than who heard it.
        assert_eq!(numbers(other.due(at(5), 10).unwrap()), [first, second, strange]);
        one.settle(strange, HintState::Ignored, "no name").unwrap();
        assert_eq!(numbers(other.due(at(5), 1).unwrap()), [first]);
        one.postpone(first, at(50), "not there").unwrap();
        one.settle(second, HintState::Acted, "run").unwrap();
        assert!(other.due(at(49), 10).unwrap().is_empty());
        let found = other.due(at(50), 10).unwrap().remove(0);
        assert_eq!((found.number, found.attempts, found.outcome.as_deref()), (first, 1, Some("not there")));
        assert_eq!((found.received, found.version), (at(1), None));

        let all = other.hints(None, 10).unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(all[1].outcome.as_deref(), Some("no image"));
        assert_eq!(other.hints(Some(second), 10).unwrap().len(), 1);
        one.forget_before(at(3)).unwrap();
        assert_eq!(other.hints(None, 10).unwrap().len(), 3, "the ignored one is of second 3");

        assert!(!one.has_seen("inbox", "a.raw", "1").unwrap());
        one.saw("inbox", "a.raw", "1").unwrap();
        assert!(other.has_seen("inbox", "a.raw", "1").unwrap());
        other.saw("inbox", "a.raw", "2").unwrap();
        assert!(!one.has_seen("inbox", "a.raw", "1").unwrap());
    });
}

#[test]
fn a_schedule_is_changed_by_who_has_seen_it_last() {
    for_each(|one, other| {
        let new = Entry::new("every 1d", at(10));
        assert!(one.keep_schedule("nightly", None, &new).unwrap());
        assert!(!other.keep_schedule("nightly", None, &new).unwrap(), "it is there");
        let paused = Entry { paused: true, paused_by: Some("eve".to_owned()), ..new.clone() };
        let decided = Entry {
            handled: at(20),
            slot: Some(at(20)),
            full_due: true,
            note: Some("late".to_owned()),
            ..new.clone()
        };
        assert!(one.keep_schedule("nightly", Some(&new), &paused).unwrap());
        assert!(!other.keep_schedule("nightly", Some(&new), &decided).unwrap(), "it was paused meanwhile");
        assert_eq!(other.schedules().unwrap()["nightly"], paused);
        assert!(other.keep_schedule("nightly", Some(&paused), &decided).unwrap());
        assert_eq!(one.schedules().unwrap()["nightly"], decided);
        one.forget_schedule("nightly").unwrap();
        assert!(other.schedules().unwrap().is_empty());
    });
}

#[test]
fn tokens_and_what_was_delivered_are_known_to_all() {
    for_each(|one, other| {
        for _ in 0..2 {
            one.keep_token("run", "digest").unwrap();
            one.remember_delivered("cloud", "v1", "run", at(1)).unwrap();
        }
        assert_eq!(other.run_of_token("digest").unwrap().as_deref(), Some("run"));
        assert_eq!(other.runs_with_tokens().unwrap(), ["run"]);
        other.end_tokens("run").unwrap();
        assert_eq!(one.run_of_token("digest").unwrap(), None);
        assert_eq!(other.delivered("cloud").unwrap().len(), 1);
        other.forget_delivered("cloud", "v1").unwrap();
        assert!(one.delivered("cloud").unwrap().is_empty());
    });
}

#[test]
fn what_is_to_be_told_is_told_once_and_bounded() {
    for_each(|one, other| {
        one.tell_after(Some(3)).unwrap();
        assert_eq!(other.told_up_to().unwrap(), Some(3));
        let most = crate::notify::WAITING_MAX;
        for number in 0..i64::from(most) + 5 {
            crate::notify::tell_missed(one, "a", at(number), Some(4));
        }
        crate::notify::tell_missed(other, "a", at(i64::from(most)), Some(5));
        assert_eq!(other.told_up_to().unwrap(), Some(5));
        let counts = one.delivery_counts().unwrap();
        let count = |state| counts.iter().find(|count| count.1 == state).map_or(0, |count| count.2);
        assert_eq!((count(DeliveryState::Waiting), count(DeliveryState::Failed)), (most.into(), 5));

        let (first, notice) = other.due_for("a", at(9000)).unwrap().unwrap();
        assert!(notice.is_some_and(|notice| notice.id == first.id));
        assert_eq!((first.made, first.due, first.attempts), (at(5), Some(at(5)), 0));
        one.postpone_delivery(first.number, at(9500), "503").unwrap();
        let (second, _) = other.due_for("a", at(9000)).unwrap().unwrap();
        assert!(second.number > first.number);
        one.end_delivery(second.number, DeliveryState::Delivered, "204", at(9001)).unwrap();
        let failed = other.deliveries(&[DeliveryState::Failed], None, 100).unwrap();
        assert_eq!(failed.len(), 5);
        assert_eq!(other.deliveries(&[], Some(second.number), 3).unwrap()[0].number, first.number);
        one.forget_deliveries(&["b"], at(9001), at(9600)).unwrap();
        let counts = other.delivery_counts().unwrap();
        assert!(counts.iter().all(|count| count.1 != DeliveryState::Waiting), "a is configured no more");
        one.tell_after(None).unwrap();
        assert_eq!(other.told_up_to().unwrap(), None);
    });
}

#[test]
fn one_daemon_leads_until_it_lets_go_or_its_time_is_over() {
    for_each(|one, other| {
        if !one.is_shared() {
            assert!(Lead::new("a".to_owned()).is_held(one), "it is alone");
            return;
        }
        assert!(!Lead::new("a".to_owned()).is_held(one), "nobody has said so");
        assert!(one.lead("a").unwrap());
        assert!(!other.lead("b").unwrap());
        assert!(one.lead("a").unwrap(), "it goes on");
        one.end_lead("b").unwrap();
        assert!(!other.lead("b").unwrap());
        one.end_lead("a").unwrap();
        assert!(other.lead("b").unwrap());
        // Its time is over.
        let past = (Timestamp::now() - SignedDuration::from_hours(1)).as_microsecond();
        one.change("set the clock", "UPDATE @leader SET until = ?1", values![past]).unwrap();
        assert!(one.lead("a").unwrap());
        assert!(!other.lead("b").unwrap());
    });
}

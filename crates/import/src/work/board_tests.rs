//! Orders, workers, and steps that wait, as threads that race.

use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::work::{CheckWork, Kept, Work};

fn order(task: &str) -> Order {
    let work = Work::Check(CheckWork { volume: "v".to_owned(), device: "/dev/x".into(), move_gpt: false });
    Order { task: task.to_owned(), run: "r".to_owned(), step: "s".to_owned(), lease_seconds: 1, work }
}

fn standing(name: &str) -> Writer {
    Writer::Standing(name.to_owned())
}

fn report(sequence: u64, ended: Option<Ended>) -> Report {
    Report { sequence, kept: Some(Kept::default()), ended, ..Report::default() }
}

const SOON: Patience = Patience { lease: Duration::from_millis(1), claim: Duration::from_millis(300) };
const LONG: Patience = Patience { lease: Duration::from_secs(60), claim: Duration::from_secs(60) };

/// Offers an order while `act` is done, and returns what came of it and the reports that the step was given.
fn offer(
    board: &Board,
    patience: Patience,
    stop: &AtomicBool,
    act: impl FnOnce() + Send,
) -> (Result<Ended, Gone>, Vec<u64>) {
    let handled = StdMutex::new(Vec::new());
    let result = std::thread::scope(|scope| {
        scope.spawn(act);
        let writer = standing("a");
        let offered = Offered {
            writer: &writer,
            order: order("t"),
            grant: None,
            patience,
            is_stopped: &|| stop.load(Ordering::SeqCst),
        };
        board.work(offered, &mut |report| {
            handled.lock().unwrap().push(report.sequence);
            Ok(())
        })
    });
    (result, handled.into_inner().unwrap())
}

fn claimed(board: &Board, process: &str) -> Order {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(order) = board.claim(&standing("a"), process) {
            return order;
        }
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_order_is_done_by_one_process_of_the_worker_that_it_is_for() {
    let (board, stop) = (Board::default(), AtomicBool::new(false));
    let (result, handled) = offer(&board, LONG, &stop, || {
        let order = claimed(&board, "p");
        assert_eq!(board.claim(&standing("b"), "p"), None, "another worker");
        assert_eq!(board.claim(&standing("a"), "q"), None, "another process of it");
        assert_eq!(board.claim(&standing("a"), "p"), Some(order), "its answer was lost");
        let tell = |writer: &str, process: &str, sequence, ended| {
            board.report(&standing(writer), "t", process, report(sequence, ended))
        };
        assert_eq!(tell("b", "p", 1, None), Err(Refused::Gone));
        assert_eq!(tell("a", "q", 1, None), Err(Refused::Gone));
        assert_eq!(board.report(&standing("a"), "u", "p", report(1, None)), Err(Refused::Gone));
        assert_eq!(tell("a", "p", 1, None), Ok(Reply { stop: false }));
        assert_eq!(tell("a", "p", 1, None), Ok(Reply { stop: false }), "told twice, it counts once");
        assert_eq!(board.claim(&standing("a"), "p"), None, "it is at work");
        assert!(board.grant(&standing("a"), "t").is_err(), "this order reads nothing");
        assert_eq!(tell("a", "p", 2, Some(Ended::Stopped)), Ok(Reply::default()));
        assert_eq!(tell("a", "p", 3, None), Err(Refused::Gone), "it is over");
    });
    assert_eq!((result, handled), (Ok(Ended::Stopped), vec![1, 2]));
    assert!(board.seen(&standing("a")).is_some() && board.seen(&standing("c")).is_none());
}

#[test]
fn a_worker_that_is_not_heard_is_lost_and_refused_when_it_comes_back() {
    let (board, stop) = (Board::default(), AtomicBool::new(false));
    let (result, _) = offer(&board, SOON, &stop, || drop(claimed(&board, "p")));
    assert_eq!(result, Err(Gone::Lost));
    assert_eq!(board.report(&standing("a"), "t", "p", report(1, None)), Err(Refused::Gone));
}

#[test]
fn an_order_that_nobody_takes_does_not_lie_for_ever() {
    let (board, stop) = (Board::default(), AtomicBool::new(false));
    assert_eq!(offer(&board, SOON, &stop, || {}).0, Err(Gone::NotTaken));
}

#[test]
fn a_worker_is_told_to_stop_and_waited_for() {
    let (board, stop) = (Board::default(), AtomicBool::new(false));
    let (result, handled) = offer(&board, LONG, &stop, || {
        claimed(&board, "p");
        stop.store(true, Ordering::SeqCst);
        let mut sequence = 0;
        let is_told = || {
            sequence += 1;
            board.report(&standing("a"), "t", "p", report(sequence, None)).unwrap().stop
        };
        assert!(std::iter::repeat_with(is_told).take(1000).any(|told| told));
        board.report(&standing("a"), "t", "p", report(5000, Some(Ended::Stopped))).unwrap();
    });
    assert_eq!(result, Err(Gone::Fault(Fault::Stopped)));
    assert_eq!(handled.last(), Some(&5000), "what it said last is handled as well");
    // Without a worker there is nobody to wait for.
    assert_eq!(offer(&board, LONG, &stop, || {}).0, Err(Gone::Fault(Fault::Stopped)));
}

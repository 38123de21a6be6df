//! The protocol of `docs/collection.md`, searched exhaustively: every order of the steps of a few parties, and every
//! moment at which they may die. To die is to take no further step, so a state in which somebody has died is one in
//! which he has not gone on; from each state all others are stopped and one collection is let run alone, and must leave
//! nothing that nothing needs.
//!
//! Then every rule is left out in turn, and a counterexample is asked for: a rule of which none can be shown to matter
//! would be one too many. [`HARMLESS`] has those without which no data is lost; `docs/collection.md` says why they stand.
//!
//! The search is our own: a few hundred lines of model that know what can be passed over (steps that find nothing to
//! do) are smaller than the machinery of a general checker, which brings a web server for its pages.
//!
//! What the model leaves out: power losses (`settle`; see `power_loss.rs`), damaged objects, and more than one change
//! of a party's mind. A party reads all sessions in one step, and a collection plans at one moment: whatever it plans,
//! the look before it decides is the one that counts, and that one is in single steps.
//!
//! `LEEWARD_MODEL=full` goes through the large scenarios as well; `LEEWARD_RULE=Wait` prints the counterexample without
//! that rule, step by step. A scenario is searched in a minute or less; the large ones take hours together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod collecting;
mod copies;
mod explorer;
mod program;
mod protocol;
mod rules;
mod scenarios;
mod state;
mod steps;
mod tell;

use copies::{COPY_RULES, search_copies};
use explorer::{Found, explore};
use protocol::{Protocol, Scenario};
use rules::{HARMLESS, Rule, Rules, SHOWN};

/// So many states end a search: 32 bits number them, and memory has to hold them.
const STATES_MAX: usize = 400_000_000;

fn search(scenario: &Scenario, without: &[Rule]) -> Found {
    let protocol = Protocol::new(scenario, Rules::without(without));
    explore(&protocol, protocol.start(), STATES_MAX)
}

fn is_full() -> bool {
    std::env::var("LEEWARD_MODEL").is_ok_and(|value| value == "full")
}

fn assert_sound(scenarios: &[Scenario], without: &[Rule]) {
    for scenario in scenarios {
        let began = std::time::Instant::now();
        let found = search(scenario, without);
        println!(
            "{:>10} states, {:>3} steps deep, {:>6.1} s: {}",
            found.states,
            found.depth,
            began.elapsed().as_secs_f64(),
            scenario.name
        );
        assert!(found.flaw.is_none(), "{}: {}", scenario.name, found.tell());
        assert!(!found.is_cut, "{}: more than {STATES_MAX} states", scenario.name);
    }
}

#[test]
fn no_order_of_steps_loses_anything_or_leaves_garbage() {
    assert_sound(&scenarios::small(), &[]);
    if is_full() {
        assert_sound(&scenarios::large(), &[]);
    }
}

/// The first counterexample in the small scenarios.
fn counterexample(without: &[Rule]) -> Option<(Scenario, Found)> {
    scenarios::small().into_iter().find_map(|scenario| {
        let found = search(&scenario, without);
        found.flaw.is_some().then_some((scenario, found))
    })
}

#[test]
fn with_any_rule_left_out_something_is_lost_or_left() {
    let wanted = std::env::var("LEEWARD_RULE").ok();
    for without in SHOWN {
        let name = without.iter().map(|rule| format!("{rule:?}")).collect::<Vec<_>>().join(" and ");
        if wanted.as_ref().is_some_and(|wanted| !name.contains(wanted.as_str())) {
            continue;
        }
        let Some((scenario, found)) = counterexample(without) else {
            panic!("without {name} nothing goes wrong: is the rule needed, or does the model not see it?");
        };
        let Some((flaw, steps)) = &found.flaw else { unreachable!() };
        assert!(steps.len() > 3, "{name}: {}", found.tell());
        println!("without {name} ({}, {} steps): {flaw}", scenario.name, steps.len());
        if wanted.is_some() {
            println!("{}", found.tell());
        }
    }
}

#[test]
fn no_order_of_transfers_and_collections_loses_a_copied_manifest() {
    let found = search_copies(None);
    println!("{:>10} states, {:>3} steps deep: manifests of copies", found.states, found.depth);
    assert!(found.flaw.is_none() && !found.is_cut, "{}", found.tell());
    assert!(found.states > 10_000, "{}", found.states);
    for rule in COPY_RULES {
        let found = search_copies(Some(*rule));
        let Some((flaw, steps)) = &found.flaw else {
            panic!("without {rule:?} nothing goes wrong: is the rule needed, or does the model not see it?");
        };
        println!("without {rule:?} ({} steps): {flaw}", steps.len());
        if std::env::var("LEEWARD_RULE").is_ok_and(|wanted| wanted == format!("{rule:?}")) {
            println!("{}", found.tell());
        }
    }
}

#[test]
fn the_rules_that_cost_no_data_are_known() {
    if !is_full() {
        println!("SKIPPED: LEEWARD_MODEL=full searches all scenarios without each rule that costs no data");
        return;
    }
    for rule in HARMLESS {
        println!("without {rule:?}:");
        assert_sound(&scenarios::small(), &[*rule]);
    }
}

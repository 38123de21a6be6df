//! `leeward sync`: a second repository follows the first.

use std::process::ExitCode;

use clap::Args;
use leeward_repository::ImageName;
use leeward_repository::transfer::{Extra, Near, Pick, Selection, Stale};

use super::push::TransferArguments;
use super::push::carry::{Carry, Sides};
use super::repository::RepositoryArgument;
use crate::failure::Failure;
use crate::output::Output;
use crate::servers::Side;

/// Send all snapshots to another repository, and forget there what was forgotten here
///
/// Forgotten are only copies that came from this very repository. Held snapshots stay, and so do those of an image of
/// which nothing is left here.
#[derive(Args)]
pub struct SyncArguments {
    /// The repository that follows
    to: String,
    /// Only images whose names match, as in 'web-*'; may be given several times
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Forget nothing at the other repository
    #[arg(long)]
    delete_not: bool,
    #[command(flatten)]
    transfer: TransferArguments,
}

/// Runs the verb.
pub fn run(
    arguments: &SyncArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let sides = Sides::new(
        (repository.open()?, Side::Own),
        (repository.open_other(&arguments.to, &arguments.transfer.other)?, repository.other_side()),
        &arguments.transfer,
        output,
    )?;
    let is_wanted = |image: &ImageName| {
        let filter = &arguments.filter;
        filter.is_empty() || filter.iter().any(|glob| matches(glob, image.as_str()))
    };
    let images = sides.from.images()?.into_iter().filter(|image| is_wanted(image));
    let picks = images.map(|image| Pick { image, snapshot: None }).collect();
    let dry_run = arguments.transfer.dry_run;
    let carry = Carry { verb: "sync", options: arguments.transfer.options(Near::From), dry_run };
    // What came new arrives before anything old goes.
    let carried = carry.run(&sides, &Selection::Picks(picks), output)?;
    if !arguments.delete_not {
        let Extra { mut stale, foreign } = sides.from.extra_at(&sides.to, &is_wanted)?;
        if !dry_run {
            sides.to.forget_stale(&stale)?;
        }
        stale.sort_by(|a, b| (&a.image, a.snapshot).cmp(&(&b.image, b.snapshot)));
        stale.iter().for_each(|copy| tell(copy, &sides, dry_run, output));
        foreign.iter().for_each(|(origin, count)| tell_foreign(origin, *count, &sides, output));
    }
    Ok(carried.code())
}

/// Says what a person may have expected to be forgotten, and who can do it.
fn tell_foreign(origin: &str, count: u64, sides: &Sides, output: &Output) {
    if output.is_json() {
        output.json_line(&serde_json::json!({ "kept_from_repository": origin, "snapshots": count }));
    }
    output.line(format!(
        "{count} snapshots of these images are at {} and not here, and stay: they came there from repository {origin}, \
         not from here; forget them there by hand if nobody syncs from it any more",
        sides.to.location()
    ));
}

fn tell(copy: &Stale, sides: &Sides, dry_run: bool, output: &Output) {
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "image": copy.image, "snapshot": copy.snapshot, "dry_run": dry_run,
            "forgotten": copy.kept_because.is_none() && !dry_run, "kept_because": copy.kept_because,
        }));
    }
    let name = format!("{}@{}", copy.image, copy.snapshot.short());
    output.line(match (&copy.kept_because, dry_run) {
        (Some(reason), _) => format!("{name} is kept at {}: {reason}", sides.to.location()),
        (None, true) => format!("{name} would be forgotten at {}", sides.to.location()),
        (None, false) => format!("{name} forgotten at {}", sides.to.location()),
    });
}

/// Whether a name matches a pattern: `*` stands for any characters, `?` for one.
fn matches(glob: &str, name: &str) -> bool {
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut at, mut place) = (0, 0);
    // Where to go back to: behind the last star, and the first byte that it has not taken yet.
    let mut back: Option<(usize, usize)> = None;
    while place < name.len() {
        match glob.get(at) {
            Some(b'*') => {
                back = Some((at + 1, place));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[place] => {
                at += 1;
                place += 1;
            }
            _ => match back {
                Some((behind, taken)) => {
                    (at, place) = (behind, taken + 1);
                    back = Some((behind, taken + 1));
                }
                None => return false,
            },
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (glob, name) in
            [("*", "a/b"), ("web-*", "web-01/root"), ("*/root", "web-01/root"), ("w?b", "web")]
        {
            assert!(matches(glob, name), "{glob} {name}");
        }
        for (glob, name) in
            [("web", "web-01"), ("web-*/data", "web-01/root"), ("?", ""), ("", "a"), ("*a", "ab")]
        {
            assert!(!matches(glob, name), "{glob} {name}");
        }
        // Many stars cost no more than their number times the length.
        assert!(!matches(&"*a".repeat(60), &"a".repeat(59)));
    }
}

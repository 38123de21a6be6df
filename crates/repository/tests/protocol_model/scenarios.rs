//! Who plays, on what.
//!
//! Blobs a, b, c are the bits 1, 2, 4. Snapshots 0 and 1 are from before; 2 and 3 are those of two writers.

use crate::program::Role::{self, Collection, Forgetter, Mover, Undeleter, Writer};
use crate::protocol::Scenario;

const FIRST: Role = Collection { list: 0, revokes: false, copies: None };
const SECOND: Role = Collection { list: 1, revokes: false, copies: None };
const REVOKING: Role = Collection { list: 0, revokes: true, copies: None };
const COPYING: Role = Collection { list: 0, revokes: false, copies: Some(5) };
const ALSO_COPYING: Role = Collection { list: 1, revokes: false, copies: Some(6) };
const FORGETTER: Role = Forgetter { image: 0, snapshots: 0b1111 };
/// Forgets only what the first writer publishes.
const LETTING_GO: Role = Forgetter { image: 0, snapshots: 0b100 };
const UNDELETER: Role = Undeleter { image: 0, snapshots: 0b1111 };

fn fresh(number: usize) -> Role {
    Writer { snapshot: 2 + number, base: None, pack: 3 + number }
}

/// Has the pack of blob b moved from where it is whole.
const MOVER: Role = Mover { snapshot: 2, old: 1, fresh: 5, pack: 3 };

fn on(base: usize, number: usize) -> Role {
    Writer { snapshot: 2 + number, base: Some(base), pack: 3 + number }
}

/// Blob a is kept by snapshot 0; blob b lies in a pack that nothing needs; both writers want a and b.
fn garbage(name: &'static str, cast: Vec<Role>) -> Scenario {
    Scenario {
        name,
        needs: [1, 0, 3, 3, 0],
        images: [0; 5],
        packs: &[1, 2],
        kept: 1,
        cast,
        window: false,
        head_start: 0,
    }
}

/// As [`garbage`], and the first writer makes an image that has no ref yet.
fn first_backup(name: &'static str, cast: Vec<Role>) -> Scenario {
    Scenario { images: [0, 0, 1, 0, 0], ..garbage(name, cast) }
}

/// Blob a shares its pack with blob b, which nothing needs: a collection copies a.
fn half_used(name: &'static str, cast: Vec<Role>) -> Scenario {
    Scenario { packs: &[3], ..garbage(name, cast) }
}

/// Blob a lies in two packs, as after two backups at once.
fn twice(name: &'static str, cast: Vec<Role>) -> Scenario {
    Scenario { packs: &[3, 1, 2], ..garbage(name, cast) }
}

/// A disk whose snapshot 0 is all of it, and a backup that builds on it.
fn line(name: &'static str, cast: Vec<Role>) -> Scenario {
    Scenario { needs: [1, 2, 3, 3, 0], kept: 0b11, ..garbage(name, cast) }
}

/// The scenarios that the default run goes through.
pub fn small() -> Vec<Scenario> {
    vec![
        garbage("a backup and a collection", vec![fresh(0), FIRST]),
        Scenario {
            needs: [1, 0, 5, 3, 0],
            ..garbage("a backup of new data and a collection", vec![fresh(0), FIRST])
        },
        garbage("a backup and a revoking collection", vec![fresh(0), REVOKING]),
        first_backup("a first backup and a revoking collection", vec![fresh(0), REVOKING]),
        line("an incremental backup, its base forgotten", vec![on(1, 0), FIRST, FORGETTER]),
        line("an incremental backup, its base collected", vec![on(0, 0), COPYING, FORGETTER]),
        half_used("two collections that copy", vec![COPYING, ALSO_COPYING]),
        twice("two collections of two copies", vec![COPYING, SECOND, FORGETTER]),
        garbage("two backups and a collection", vec![fresh(0), fresh(1), FIRST]),
        Scenario {
            head_start: 6,
            ..garbage(
                "an incremental backup on one that just ends",
                vec![fresh(0), on(2, 1), FIRST, LETTING_GO],
            )
        },
        Scenario { window: true, ..line("forgotten and brought back", vec![FIRST, FORGETTER, UNDELETER]) },
        Scenario {
            head_start: 4,
            ..garbage("a moved pack, its old name condemned, and two collections", vec![FIRST, MOVER, SECOND])
        },
        garbage("a moved pack, a backup and a revoking collection", vec![MOVER, fresh(1), REVOKING]),
    ]
}

/// More at once; these take long.
pub fn large() -> Vec<Scenario> {
    vec![
        garbage(
            "a backup, a copying and a revoking collection",
            vec![fresh(0), REVOKING, ALSO_COPYING, FORGETTER],
        ),
        half_used("a backup and two collections that copy", vec![fresh(0), COPYING, ALSO_COPYING]),
        half_used(
            "an incremental backup and two collections",
            vec![on(0, 0), COPYING, ALSO_COPYING, FORGETTER],
        ),
        garbage("an incremental backup on a new one", vec![fresh(0), on(2, 1), FIRST, LETTING_GO]),
        garbage("a backup, a collection, a revoking one", vec![fresh(0), SECOND, REVOKING]),
        garbage("two backups and two collections", vec![fresh(0), fresh(1), FIRST, SECOND]),
        Scenario {
            window: true,
            ..line(
                "a backup on what is forgotten and brought back",
                vec![on(0, 0), FIRST, FORGETTER, UNDELETER],
            )
        },
        garbage("a moved pack and two collections", vec![MOVER, FIRST, SECOND]),
        first_backup(
            "two backups, one of them a first, two collections",
            vec![fresh(0), fresh(1), REVOKING, SECOND],
        ),
    ]
}

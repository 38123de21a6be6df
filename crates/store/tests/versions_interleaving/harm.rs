//! Parts that somebody else takes.

use std::collections::BTreeMap;

use leeward_store::Key;
use leeward_store::bucket::Bucket;
use leeward_store::simulation::Random;
use leeward_store::simulation::bucket::MemoryBucket;

/// The parts of an object by ballot and letter.
fn ballots(bucket: &MemoryBucket, key: &Key) -> BTreeMap<String, BTreeMap<char, Key>> {
    let folder = format!("{key}%3A/");
    let mut ballots: BTreeMap<String, BTreeMap<char, Key>> = BTreeMap::new();
    for part in bucket.keys().into_iter().filter(|part| part.as_str().starts_with(&folder)) {
        let (ballot, end) = part.as_str().rsplit_once('.').unwrap();
        ballots.entry(ballot.to_owned()).or_default().insert(end.chars().next().unwrap(), part.clone());
    }
    ballots
}

/// Takes a part from the version that counts, such that the others tell its value. Tells the version, if there was one.
pub fn harm(bucket: &MemoryBucket, key: &Key, random: &mut Random) -> Option<u32> {
    let ballots = ballots(bucket, key);
    let counting: Vec<_> = ballots.iter().filter(|(_, parts)| parts.len() == 3).collect();
    // While an older version counts beside it, the object would only seem to go back.
    let [(ballot, parts)] = counting[..] else { return None };
    // Without its mark the only version there was is one that nobody has decided.
    let version = version_of(ballot);
    let letter = if version == 1 || random.chance(50) { 'p' } else { 'd' };
    // Also when the answer is lost it may be gone.
    let _ = bucket.delete(&parts[&letter]);
    Some(version)
}

fn version_of(ballot: &str) -> u32 {
    let (_, name) = ballot.rsplit_once("/r").unwrap();
    u32::from_str_radix(name.split('.').next().unwrap(), 16).unwrap()
}

/// Whether a part stands alone that may be all that is left of a version later than the one which was lost: a value or a
/// mark of any version, or a first part two versions later.
pub fn has_doubtful(bucket: &MemoryBucket, key: &Key, lost: u32) -> bool {
    let ballots = ballots(bucket, key);
    let mut alone = ballots.iter().filter(|(_, parts)| parts.len() == 1);
    alone.any(|(ballot, parts)| !parts.contains_key(&'p') || version_of(ballot) > lost + 1)
}

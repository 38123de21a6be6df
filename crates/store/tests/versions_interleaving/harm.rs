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

/// Takes a part from the version that counts, such that the others tell its value; whether there was one to take.
pub fn harm(bucket: &MemoryBucket, key: &Key, random: &mut Random) -> bool {
    let ballots = ballots(bucket, key);
    let counting: Vec<_> = ballots.iter().filter(|(_, parts)| parts.len() == 3).collect();
    // While an older version counts beside it, the object would only seem to go back.
    let [(ballot, parts)] = counting[..] else { return false };
    // Without its mark the only version there was is one that nobody has decided.
    let is_first = ballot.contains("/r00000001.");
    let letter = if is_first || random.chance(50) { 'p' } else { 'd' };
    // Also when the answer is lost it may be gone.
    let _ = bucket.delete(&parts[&letter]);
    true
}

/// Whether there is a value or a mark beside which there is nothing of its ballot.
pub fn stands_alone(bucket: &MemoryBucket, key: &Key) -> bool {
    ballots(bucket, key).values().any(|parts| parts.len() == 1 && !parts.contains_key(&'p'))
}

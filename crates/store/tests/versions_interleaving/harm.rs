//! Parts that somebody else takes.

use std::collections::BTreeSet;

use leeward_store::Key;
use leeward_store::bucket::Bucket;
use leeward_store::simulation::Random;
use leeward_store::simulation::bucket::MemoryBucket;

/// Takes a part from the version that counts, such that the others tell its value; whether there was one to take.
pub fn harm(bucket: &MemoryBucket, key: &Key, random: &mut Random) -> bool {
    let folder = format!("{key}%3A");
    let parts: Vec<String> = bucket
        .keys()
        .into_iter()
        .map(|part| part.to_string())
        .filter(|part| part.starts_with(&folder))
        .collect();
    let ballot = |part: &String| part.rsplit_once('.').unwrap().0.to_owned();
    let letters = |ballot: &String| -> String {
        parts
            .iter()
            .filter(|part| part.starts_with(ballot.as_str()))
            .map(|part| part.rsplit('.').next().unwrap())
            .map(|end| &end[..1])
            .collect()
    };
    let counting: BTreeSet<String> =
        parts.iter().map(ballot).filter(|ballot| letters(ballot) == "adp").collect();
    // While an older version counts beside it, the object would only seem to go back.
    let [current] = &counting.into_iter().collect::<Vec<_>>()[..] else { return false };
    let is_first = current.contains("/r00000001.");
    let letter = if is_first || random.chance(50) { 'p' } else { 'd' };
    let is_it = |part: &&String| {
        part.starts_with(current.as_str()) && part.rsplit('.').next().unwrap().starts_with(letter)
    };
    let part = Key::new(parts.iter().find(is_it).unwrap().clone()).unwrap();
    // Also when the answer is lost it may be gone.
    let _ = bucket.delete(&part);
    true
}

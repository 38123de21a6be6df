//! Availability domains, and the choice of one.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A part of the provider's site that fails by itself; a volume and its machine must be in the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// The provider's name of it.
    pub name: String,
}

/// The domain with this number, counted from 1; for 0 any, but always the same for the same `seed` (the run's id), so
/// that a step that is repeated does not wander.
///
/// # Errors
/// Refused: there is no such number, or no domain at all. The message lists what there is.
pub fn choose_domain<'a>(
    provider: &str,
    domains: &'a [Domain],
    number: u32,
    seed: &str,
) -> Result<&'a Domain> {
    let refused = |what: String| Error::refused(provider, "choose an availability domain", what);
    let count = domains.len();
    if count == 0 {
        return Err(refused(
            "there is none; see that the compartment and the rights are the right ones".to_owned(),
        ));
    }
    let index = match number {
        0 => any(seed, count),
        _ => usize::try_from(number - 1).unwrap_or(usize::MAX),
    };
    domains.get(index).ok_or_else(|| {
        let list: Vec<String> = domains
            .iter()
            .enumerate()
            .map(|(index, domain)| format!("{} {}", index + 1, domain.name))
            .collect();
        refused(format!(
            "ad_number is {number}, but there are {count}: {}; name one of these, or 0 for any",
            list.join(", ")
        ))
    })
}

fn any(seed: &str, count: usize) -> usize {
    let hash = blake3::hash(seed.as_bytes());
    let number = hash.as_bytes()[..8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    // Smaller than `count`, so it fits.
    usize::try_from(number % count as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Domain, choose_domain};
    use crate::ErrorKind;

    fn domains(count: usize) -> Vec<Domain> {
        (1..=count).map(|number| Domain { name: format!("AD-{number}") }).collect()
    }

    #[test]
    fn a_number_counts_from_one() {
        let domains = domains(3);
        let name = |number| choose_domain("oci", &domains, number, "run").map(|domain| domain.name.as_str());
        assert_eq!((name(1).unwrap(), name(3).unwrap()), ("AD-1", "AD-3"));
        for wrong in [4, u32::MAX] {
            let error = name(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(error.to_string().contains("1 AD-1, 2 AD-2, 3 AD-3"), "{error}");
        }
        assert!(choose_domain("oci", &[], 0, "run").is_err());
    }

    #[test]
    fn any_domain_is_the_same_for_a_run_and_all_are_taken_in_turn() {
        let domains = domains(3);
        let mut taken = [0; 3];
        for run in 0..300 {
            let seed = format!("run-{run}");
            let first = choose_domain("oci", &domains, 0, &seed).unwrap();
            assert_eq!(first, choose_domain("oci", &domains, 0, &seed).unwrap());
            taken[domains.iter().position(|domain| domain == first).unwrap()] += 1;
        }
        assert!(taken.iter().all(|count| *count > 60), "{taken:?}");
    }
}

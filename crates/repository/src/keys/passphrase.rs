//! From a passphrase to a key: Argon2id, whose memory makes guessing dear.

use argon2::{Algorithm, Argon2, Params, Version};

use super::secret::{Passphrase, SECRET_BYTES, Secret};

/// Bytes of a salt.
pub(super) const SALT_BYTES: usize = 16;
/// The most memory that a wrapped key may ask for, in KiB: 1 GiB.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
/// The most work that a wrapped key may ask for, in KiB written: 4 GiB.
const WORK_KIB_MAX: u64 = 4 << 20;

/// What it costs to try a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes, which could be filled side by side.
    pub lanes: u32,
}

impl Default for PassphraseCost {
    /// About a second of one core: four times the memory that RFC 9106 recommends where memory is scarce.
    fn default() -> Self {
        Self { memory_kib: 256 << 10, passes: 3, lanes: 4 }
    }
}

impl PassphraseCost {
    /// What is wrong with it, if anything: looked at before any memory is taken.
    pub(super) fn flaw(self) -> Option<String> {
        let work = u64::from(self.memory_kib) * u64::from(self.passes);
        let sound = self.memory_kib <= MEMORY_KIB_MAX
            && (1..=PASSES_MAX).contains(&self.passes)
            && (1..=LANES_MAX).contains(&self.lanes)
            && self.memory_kib >= 8 * self.lanes
            && work <= WORK_KIB_MAX;
        (!sound).then(|| {
            format!(
                "it asks for {} KiB of memory, {} passes and {} lanes; what is allowed is at most 1 GiB, 16, 16, and 4 GiB \
                 in all passes",
                self.memory_kib, self.passes, self.lanes
            )
        })
    }

    /// The key that a passphrase gives.
    pub(super) fn derive(self, passphrase: &Passphrase, salt: &[u8]) -> Result<Secret, String> {
        if let Some(flaw) = self.flaw() {
            return Err(flaw);
        }
        let failed = |error: argon2::Error| format!("no key can be made of the passphrase: {error}");
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(SECRET_BYTES)).map_err(failed)?;
        let mut key = zeroize::Zeroizing::new([0; SECRET_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.expose(), salt, &mut key[..])
            .map_err(failed)?;
        Ok(Secret::new(*key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_too_much_is_refused_before_it_is_taken() {
        let passphrase = Passphrase::new("x").unwrap();
        let started = std::time::Instant::now();
        for (memory_kib, passes, lanes) in [
            (u32::MAX, 1, 1),
            ((1 << 20) + 1, 1, 1),
            (1 << 20, 5, 1),
            (1024, 17, 1),
            (1024, u32::MAX, 1),
            (1024, 0, 1),
            (1024, 1, 0),
            (1024, 1, 17),
            (7, 1, 1),
        ] {
            let cost = PassphraseCost { memory_kib, passes, lanes };
            assert!(cost.derive(&passphrase, &[0; SALT_BYTES]).is_err(), "{cost:?}");
        }
        assert!(started.elapsed().as_secs() < 60, "nothing of it was computed");
        assert!(PassphraseCost::default().flaw().is_none());
    }
}

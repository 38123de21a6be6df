//! What a project may still have.

use leeward_remote::http::Method;
use leeward_remote::openstack::VOLUMES;
use serde::Deserialize;

use super::Openstack;
use super::caller::cinder;
use crate::provider::{GIB, Provider};
use crate::{Error, Result};

#[derive(Deserialize)]
struct Told {
    limits: Limits,
}

#[derive(Deserialize)]
struct Limits {
    absolute: Absolute,
}

/// -1 is no limit. What is not told is none.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "camelCase")]
struct Absolute {
    #[serde(default = "none")]
    max_total_volumes: i64,
    #[serde(default = "none")]
    max_total_volume_gigabytes: i64,
    #[serde(default)]
    total_volumes_used: i64,
    #[serde(default)]
    total_gigabytes_used: i64,
}

fn none() -> i64 {
    -1
}

impl Absolute {
    /// What stands against that many volumes of that many GiB together.
    fn against(self, count: i64, gib: i64) -> Option<String> {
        let is_over = |max: i64, used: i64, more: i64| max >= 0 && used.saturating_add(more) > max;
        if is_over(self.max_total_volumes, self.total_volumes_used, count) {
            let (used, max) = (self.total_volumes_used, self.max_total_volumes);
            return Some(format!("{count} more are needed, and the project has {used} of {max} volumes"));
        }
        is_over(self.max_total_volume_gigabytes, self.total_gigabytes_used, gib).then(|| {
            let (used, max) = (self.total_gigabytes_used, self.max_total_volume_gigabytes);
            format!("{gib} GiB are needed, and the project uses {used} of {max} GiB of volumes")
        })
    }
}

impl Openstack {
    pub(super) fn room(&self, volumes: &[u64]) -> Result<()> {
        let action = "see whether there is room for the volumes";
        let told: Told = self.caller.ask(action, VOLUMES, &cinder(Method::GET, "/limits"))?;
        let gib = volumes.iter().map(|bytes| bytes.div_ceil(GIB)).fold(0, u64::saturating_add);
        let (count, gib) = (i64::try_from(volumes.len()), i64::try_from(gib));
        let against = told.limits.absolute.against(count.unwrap_or(i64::MAX), gib.unwrap_or(i64::MAX));
        against.map_or(Ok(()), |what| Err(Error::limit(self.name(), action, what)))
    }
}

#[cfg(test)]
mod tests {
    use super::Told;

    #[test]
    fn what_is_over_a_quota_is_told_before_anything_is_sent() {
        let of = |text: &str| {
            let told: Told =
                serde_json::from_str(&format!(r#"{{"limits": {{"absolute": {text}}}}}"#)).unwrap();
            move |count, gib| told.limits.absolute.against(count, gib)
        };
        let full = of(r#"{"maxTotalVolumes": 10, "totalVolumesUsed": 9, "maxTotalVolumeGigabytes": 1000,
                         "totalGigabytesUsed": 990}"#);
        assert_eq!(full(1, 10), None);
        assert!(full(2, 2).unwrap().contains("9 of 10 volumes"));
        assert!(full(1, 11).unwrap().contains("990 of 1000 GiB"));
        let open = of(r#"{"maxTotalVolumes": -1, "totalVolumesUsed": 9}"#);
        assert_eq!(open(1000, i64::MAX), None);
    }
}

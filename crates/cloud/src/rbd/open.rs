//! How an image is opened: in QEMU's words, and only when nobody else has it open where it is to be written.

use std::time::{Duration, Instant};

use super::{Cluster, Location};
use crate::bridge::{Options, Turn, Use};
use crate::provider::Fault;
use crate::{Error, ErrorKind, Result};

/// How long others may take to close an image: a cluster forgets a client that was killed after half a minute.
const CLOSED_LIMIT: Duration = Duration::from_secs(45);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl Location {
    /// The image in QEMU's words.
    pub(crate) fn options(&self) -> Options {
        let configuration = self.configuration.as_ref().map(|path| path.to_string_lossy().into_owned());
        let values = [
            ("pool", Some(self.pool.clone())),
            ("image", Some(self.image.clone())),
            ("namespace", self.namespace.clone()),
            ("snapshot", self.snapshot.clone()),
            ("conf", configuration),
            ("user", self.user.clone()),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Options { driver: "rbd", values }
    }

    /// Waits until this machine's other processes have done with the image.
    pub(crate) fn turn_here(&self) -> Result<Turn> {
        let (peer, configuration) = (self.to_string(), self.configuration.as_deref());
        // Two clusters may have images of one name.
        Turn::take(&peer, &format!("{peer} {configuration:?}"))
    }

    /// Waits until this machine's other processes have done with the image, and all other machines have closed it. From then
    /// on the lock that the client of Ceph takes when it writes first shuts out what is left of earlier clients.
    pub(crate) fn turn(&self) -> Result<Turn> {
        let turn = self.turn_here()?;
        let started = Instant::now();
        loop {
            let watchers = Cluster::within_limits(self).watchers().map_err(|error| self.full_or(error))?;
            if watchers.is_empty() {
                return Ok(turn);
            }
            if started.elapsed() > CLOSED_LIMIT {
                let what = format!(
                    "the image is open elsewhere, at {}: end what uses it, or shut it out with ceph osd blocklist add ADDRESS",
                    watchers.join(", ")
                );
                return Err(Error::Busy { peer: self.to_string(), what });
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Why an image cannot be opened or written, if the cluster knows better: one that has no room does not refuse, it waits.
    pub(crate) fn explained(&self, error: Error, purpose: Use) -> Error {
        match error {
            Error::TimedOut { .. } | Error::Command { .. } | Error::Disk(_) if purpose != Use::Read => {
                self.full_or(error)
            }
            error => error,
        }
    }

    /// That the pool has no room, if that is so; otherwise the error.
    pub(crate) fn full_or(&self, error: Error) -> Error {
        let Some(what) = Cluster::within_limits(self).lack_of_room() else { return error };
        Fault::new(ErrorKind::Limit, self.to_string(), "write the image", what).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_with_all_that_names_it() {
        let location = Location::parse("rbd:vms/team/web@s?id=u&conf=/c").unwrap().unwrap();
        let options = location.options();
        let told: Vec<_> = options.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(told, ["pool=vms", "image=web", "namespace=team", "snapshot=s", "conf=/c", "user=u"]);
    }
}

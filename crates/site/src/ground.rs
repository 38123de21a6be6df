//! What runs of protection work with at this site.

use std::path::PathBuf;
use std::sync::Arc;

use leeward_protect::job::{Disk, Ground, Machine, Opening};
use leeward_repository::Repository;

use crate::{Config, OpenRepository};

/// The site's repository and disks.
pub(crate) struct SiteGround {
    config: Config,
    open: Option<Arc<OpenRepository>>,
}

impl SiteGround {
    pub fn new(config: &Config, open: Option<Arc<OpenRepository>>) -> Self {
        Self { config: config.clone(), open }
    }
}

impl Ground for SiteGround {
    fn repository(&self, opening: &Opening) -> Result<Repository, String> {
        let open = self.open.as_ref().ok_or("this site has no repository")?;
        open(opening)
    }

    fn disk(&self, name: &str) -> Result<Disk, String> {
        let found = self.config.disks.get(name).ok_or_else(|| format!("this site has no disk {name}"))?;
        found.volume().map_err(|what| format!("[disk.{name}]: {what}"))
    }

    fn machine(&self, name: &str) -> Result<Machine, String> {
        let found =
            self.config.machines.get(name).ok_or_else(|| format!("this site has no machine {name}"))?;
        found.backup().map_err(|what| format!("[machine.{name}]: {what}"))
    }

    fn verified(&self) -> PathBuf {
        self.config.state.join("verified")
    }
}

//! Two sites: a repository each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_disk::{Source, default_threads};
use leeward_repository::transfer::{
    CountedStore, Near, Pick, Selection, Traffic, TransferOptions, TransferOutcome,
};
use leeward_repository::{
    BackupOptions, BackupOutcome, Consistency, Credential, Identity, ImageName, InitOptions, KeyAccess,
    NewKey, Recipient, Repository, Snapshot, SourceRecord, Unlock,
};

use super::workspace::Workspace;
use crate::failure::Failure;
use crate::location;
use crate::output::Output;
use crate::verb::key::{key_file, write_secret};
use crate::verb::repository::{Watch, init};

/// The image of the demonstration.
pub const IMAGE: &str = "quickstart/disk";

/// A site with its repository.
pub struct Site {
    /// Its name, and that of the repository's folder.
    pub name: &'static str,
    /// Its repository.
    pub repository: Repository,
}

/// The key of both sites, in a file of its own, as it would be kept apart from them.
pub struct SiteKey {
    identity: Identity,
}

impl SiteKey {
    /// Its file in the workspace.
    pub const FILE: &'static str = "key";

    /// A new key.
    pub fn new(workspace: &Workspace) -> Result<Self, Failure> {
        let identity = Identity::generate()?;
        write_secret(&workspace.join(Self::FILE), &key_file(&identity))?;
        Ok(Self { identity })
    }

    /// For whom the secret of a repository is wrapped.
    fn wrapped(&self) -> NewKey {
        let recipient = Recipient::PublicKey(self.identity.public());
        NewKey { name: "quickstart".to_owned(), access: KeyAccess::Full, recipient }
    }
}

impl Unlock for SiteKey {
    fn expects_encryption(&self) -> bool {
        true
    }

    fn credential(
        &self,
        _location: &str,
    ) -> Result<Option<Credential>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Some(Credential::Identity(self.identity.clone())))
    }
}

impl Site {
    /// The first site, with an empty, encrypted repository.
    pub fn first(name: &'static str, workspace: &Workspace, key: &SiteKey) -> Result<Self, Failure> {
        let options = InitOptions { keys: vec![key.wrapped()], ..InitOptions::default() };
        Ok(Self { name, repository: init(&workspace.join(name).display().to_string(), &options)? })
    }

    /// A further site, whose repository has the same secret, so that what is stored travels as it is.
    pub fn alike(&self, name: &'static str, workspace: &Workspace, key: &SiteKey) -> Result<Self, Failure> {
        let store = location::create_store(
            &workspace.join(name).display().to_string(),
            crate::servers::Side::Own,
            false,
            false,
        )?;
        Ok(Self { name, repository: Repository::init_alike(store, &self.repository, &[key.wrapped()])? })
    }

    /// Backs a disk up.
    pub fn backup(
        &self,
        source: &dyn Source,
        record: SourceRecord,
        label: &str,
        output: &Output,
    ) -> Result<(BackupOutcome, Duration), Failure> {
        let options = BackupOptions {
            image: image()?,
            source: record,
            consistency: Consistency::AtRest,
            tags: BTreeMap::new(),
            threads: default_threads(),
        };
        let watch = Watch::new(output, source.virtual_size(), label);
        let started = Instant::now();
        let outcome = self.repository.backup(source, &options, &watch);
        watch.finish();
        Ok((outcome?, started.elapsed()))
    }

    /// The snapshots of the image, oldest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, Failure> {
        let entries = self.repository.image(&image()?)?.snapshots;
        entries.iter().map(|entry| Ok(self.repository.snapshot(entry.id)?)).collect()
    }

    /// Pushes the first snapshot to another site.
    pub fn push_first(&self, other: &Self, output: &Output) -> Result<Sent, Failure> {
        let image = image()?;
        let first = self.repository.image(&image)?.snapshots.first().map(|entry| entry.id);
        let picks = Selection::Picks(vec![Pick { image, snapshot: first }]);
        send(&self.repository, &other.repository, &picks, Near::From, output)
    }

    /// Pulls what it lacks from another site.
    pub fn pull_rest(&self, other: &Self, output: &Output) -> Result<Sent, Failure> {
        send(&other.repository, &self.repository, &Selection::All, Near::To, output)
    }
}

/// What travelled.
pub struct Sent {
    /// What the transfer did.
    pub outcome: TransferOutcome,
    /// Bytes that went over the wire: read or written at the site that is not near.
    pub wire_bytes: u64,
}

fn send(
    from: &Repository,
    to: &Repository,
    selection: &Selection,
    near: Near,
    output: &Output,
) -> Result<Sent, Failure> {
    let (read, written) = (Arc::new(Traffic::default()), Arc::new(Traffic::default()));
    let from = from.clone().map_store(|store| CountedStore::wrap(store, &read));
    let to = to.clone().map_store(|store| CountedStore::wrap(store, &written));
    let transfer = from.prepare_transfer(&to, selection)?;
    let label = if near == Near::From { "push to west" } else { "pull to west" };
    let watch = Watch::new(output, transfer.virtual_bytes(), label);
    let outcome = transfer.run(&TransferOptions { near, ..TransferOptions::default() }, &watch);
    watch.finish();
    let far = if near == Near::From { written.report() } else { read.report() }.total;
    Ok(Sent { outcome: outcome?, wire_bytes: far.sent_bytes + far.received_bytes })
}

fn image() -> Result<ImageName, Failure> {
    Ok(IMAGE.parse::<ImageName>()?)
}

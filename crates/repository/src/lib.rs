//! The content-addressed repository: a disk becomes a snapshot, and comes back byte for byte.
//!
//! What always holds:
//! - everything is named by its content, and compared with its name when it is read;
//! - objects are published in the order packs, index, manifest, session (the moment of publication), ref; each is
//!   durable before the next begins, so a crash at any point leaves every published snapshot whole;
//! - nothing is locked: the objects that change are replaced only by whoever has read their present version;
//! - the index is never the only truth: it can be made anew from packs alone.
//!
//! Which operations may run together:
//!
//! | | backup | restore, check | forget, tag, hold | collect | rebuild-index |
//! | --- | --- | --- | --- | --- | --- |
//! | **backup** | yes: packs and runs are named by content; refs are replaced by comparison | yes | yes: a session pins what it may refer to | yes: `docs/collection.md` | yes: runs are only added, then doubles removed |
//! | **restore, check** | yes | yes | yes; a snapshot forgotten meanwhile is restored until a collection ends | yes: what a live snapshot needs stays; what moved is looked up anew | yes |
//! | **forget, tag, hold** | yes | yes | yes: one of two changes is repeated | yes: marking is repeated after condemning | yes |
//! | **collect** | yes | yes | yes | yes: each spares what the other condemned | yes |
//!
//! A transfer ([`transfer`]) is a backup at the repository that it writes, and a restore at the one that it reads.
//!
//! The stored form is specified in `docs/format.md`.

mod backup;
mod blobs;
mod check;
mod collect;
mod condemned;
mod config;
mod error;
mod frame;
mod id;
mod image;
mod index;
mod keys;
mod lock;
mod maintenance;
mod mark;
#[doc(hidden)]
pub mod measure;
mod pack;
mod parity;
mod record;
mod repair;
mod repository;
mod restore;
mod retention;
mod session;
mod snapshot;
mod source;
mod span;
mod statistics;
pub mod transfer;
mod tree;
mod verified;
pub mod verify;
mod walk;
mod window;
mod writer;

pub use backup::{
    BackupOptions, BackupOutcome, Changed, Control, Give, Given, GroupOptions, Member, Stream, Take,
    Unattended,
};
pub use check::{CheckOutcome, Finding, ReadData};
pub use collect::{CollectOptions, CollectOutcome};
pub use config::{Config, FORMAT_VERSION, InitOptions, tool};
pub use error::{Error, ErrorKind, Result};
pub use frame::BlobKind;
pub use id::{BlobId, PackId, SnapshotId};
pub use image::{
    Forgetting, ForgottenSnapshot, Hold, ImageName, ImageRef, Origin, SnapshotEntry, SnapshotSpec, Which,
};
pub use keys::{
    Credential, Fingerprint, Identity, KeyAccess, KeyInfo, KeylessRepository, Keyring, NewKey, NoCredential,
    Passphrase, PassphraseCost, PublicKey, Recipient, Unlock,
};
pub use leeward_store::LockMode;
pub use lock::{LockOptions, LockOutcome, ShortLock};
pub use maintenance::RebuildOutcome;
pub use repair::{
    BlobRepair, CannotMend, ChainRepair, ManifestRepair, PackRepair, RefRepair, RepairOptions, RepairOutcome,
    RepairPlan,
};
pub use repository::{Clock, Group, HasEnded, PREFIXES, Repository, WriterInfo};
pub use restore::{RestoreMode, RestoreOutcome};
pub use retention::{Decision, KeepRules, plan_by_writer, plan_retention};
pub use session::{Process, host_name};
pub use snapshot::{
    BackupStatistics, CaptureMode, CaptureRecord, Consistency, GroupRecord, Snapshot, SourceRecord,
    VIRTUAL_SIZE_MAX,
};
pub use source::{ReadOptions, SnapshotReader, SnapshotSource, SpillOptions};
pub use statistics::{ImageStatistics, Statistics};
pub use verified::{Budget, TurnReport, VerifiedRecord};
pub use walk::Difference;
pub use window::WINDOW;

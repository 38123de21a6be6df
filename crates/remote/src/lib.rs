//! Buckets of object stores, over HTTP.
//!
//! One client ([`http`]) sends the requests of all services, one bucket ([`RemoteBucket`]) gives them their meaning, and a
//! [`Service`](service::Service) says what is peculiar to each: how it is addressed, signed and listed. Above come the
//! layers of `leeward_store::bucket`, which know nothing of services.
//!
//! What always holds:
//! - a call of the bucket is one request (one for each page of a listing, several for an object that is too large for
//!   one), and every request is counted;
//! - nothing is sent unencrypted beyond this machine, unless the location says so;
//! - secrets come from variables and files, and are in no message.

mod adapter;
mod answer;
mod attach;
mod azure;
mod bucket;
mod connect;
mod digest;
pub mod encode;
mod environment;
mod error;
mod exchange;
mod gcs;
pub mod http;
mod keystone;
mod location;
pub mod objects;
pub mod oci;
pub mod openstack;
mod oss;
mod past;
mod pieces;
pub mod probe;
mod profile;
mod runtime;
mod s3;
mod secret;
pub mod service;
mod settings;
mod sftp;
mod swift;
mod time;
mod xml;

pub use adapter::Adapter;
pub use answer::Refusal;
pub use attach::{attach, store};
pub use bucket::RemoteBucket;
pub use connect::{Connection, connect};
pub use environment::Environment;
pub use error::{Error, ErrorKind, Result};
pub use location::{Location, Scheme};
pub use past::{ListedVersion, VersionsPage};
pub use secret::Secret;
pub use settings::{Known, LifecycleRule, Settings};

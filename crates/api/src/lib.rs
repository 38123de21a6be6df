//! The repository server and its client: a [`leeward_store::Store`] over HTTP.
//!
//! - [`server`]: the routes, the listener with TLS, and what every request goes through: who asks, what that role may do,
//!   what the objects themselves say, how much, and the log of changes;
//! - [`site`]: the routes of a site's daemon;
//! - [`guard`]: what a role may do with an object, decided by looking at the objects, without any key of the repository;
//! - [`token`]: who may ask; [`oidc`]: whom else a site lets in, because a provider of OpenID Connect vouches for them;
//! - [`client`]: the store on the other side of the wire;
//! - [`witness`]: what a client remembers of refs, so that a store cannot show it an older state unnoticed.
//!
//! What always holds:
//! - an object is written only when its body is complete and its bytes are what its name says;
//! - a token that may only add can neither change nor remove what is there, by whatever order of requests;
//! - nothing that comes from the other side is allocated, waited for or counted without a bound.
//!
//! The protocol is specified in `docs/protocol.md`.

pub mod client;
pub mod guard;
mod ledger;
mod limits;
pub mod oidc;
mod payers;
mod problem;
pub mod server;
pub mod site;
pub mod token;
pub mod witness;

pub use ledger::ledger_of;
pub use limits::{Pace, size_max};
pub use problem::{Code, Problem};

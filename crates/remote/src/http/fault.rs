//! What can happen to a request on its way.

use std::error::Error as StdError;
use std::time::Duration;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The name of the host leads nowhere.
    #[error(
        "the name {host} is not known here ({what}); see that the endpoint is spelt right and that names are resolved"
    )]
    NoName {
        /// The host.
        host: String,
        /// What the system said.
        what: String,
    },
    /// Nobody answers there.
    #[error(
        "nobody answers at {host} ({what}); see that the service runs, and that a firewall lets you through"
    )]
    NoRoute {
        /// The host.
        host: String,
        /// What the system said.
        what: String,
    },
    /// The other side cannot be trusted, or speaks no TLS.
    #[error(
        "no safe connection to {host} ({what}); see that the endpoint is right and that its certificate's authority is \
         trusted here (SSL_CERT_FILE names a file of authorities)"
    )]
    NoTrust {
        /// The host.
        host: String,
        /// What was wrong.
        what: String,
    },
    /// No byte moved for too long.
    #[error("no byte came from or went to {host} for {} seconds", .after.as_secs())]
    Stalled {
        /// The host.
        host: String,
        /// How long.
        after: Duration,
    },
    /// The whole took too long.
    #[error("{host} had not answered to the end after {} seconds", .after.as_secs())]
    TooSlow {
        /// The host.
        host: String,
        /// How long it was waited.
        after: Duration,
    },
    /// The connection broke.
    #[error("the connection to {host} broke ({what})")]
    Broken {
        /// The host.
        host: String,
        /// What the system said.
        what: String,
    },
    /// The answer is longer than it may be.
    #[error("the answer of {host} has more than the {size_max} bytes that it may have")]
    TooLarge {
        /// The host.
        host: String,
        /// The length that it announced, where it did.
        size: Option<u64>,
        /// The limit in bytes.
        size_max: u64,
    },
    /// The request cannot be sent at all.
    #[error(
        "the request cannot be made ({what}); see that the endpoint is an address such as https://host:port"
    )]
    Impossible {
        /// Why.
        what: String,
    },
}

impl Fault {
    /// Whether it may pass by itself.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::NoRoute { .. } | Self::Stalled { .. } | Self::TooSlow { .. } | Self::Broken { .. }
        )
    }

    /// What became of an attempt to send.
    pub(super) fn of(error: &hyper_util::client::legacy::Error, host: &str) -> Self {
        let (host, what) = (host.to_owned(), innermost(error));
        let whole = leeward_store::with_causes(error);
        if !error.is_connect() {
            Self::Broken { host, what }
        } else if whole.contains("dns error") || whole.contains("lookup address") {
            Self::NoName { host, what }
        } else if is_of_tls(&whole) {
            Self::NoTrust { host, what }
        } else {
            Self::NoRoute { host, what }
        }
    }

    /// What became of an answer that had begun.
    pub(super) fn midway(error: &hyper::Error, host: &str) -> Self {
        Self::Broken { host: host.to_owned(), what: innermost(error) }
    }
}

fn is_of_tls(whole: &str) -> bool {
    [
        "certificate",
        "corrupt message",
        "InvalidContentType",
        "HandshakeFailure",
        "received fatal alert",
        "invalid peer",
    ]
    .iter()
    .any(|word| whole.contains(word))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

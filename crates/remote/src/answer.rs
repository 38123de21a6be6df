//! From an answer or a fault to an error that says what to do.

use std::time::Duration;

use leeward_store::bucket::Condition;
use leeward_store::{Error, Key};

use crate::http::{Fault, Response};

/// What a service said instead of doing what was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The status code of the answer.
    pub status: u16,
    /// The service's word for it; empty when the answer has none.
    pub code: String,
    /// The service's explanation.
    pub message: String,
    /// The region in which the bucket is, where the service says so.
    pub region: Option<String>,
    /// How long the service asks to wait.
    pub wait: Option<Duration>,
}

/// The longest explanation that is shown, in characters.
const MESSAGE_MAX: usize = 300;

impl Refusal {
    /// A refusal with what every answer has.
    #[must_use]
    pub fn of(response: &Response, code: impl Into<String>, message: impl Into<String>) -> Self {
        let seconds = response.header("retry-after").and_then(|text| text.parse().ok());
        Self {
            status: response.status,
            code: code.into(),
            message: message.into(),
            region: response.header("x-amz-bucket-region").map(str::to_owned),
            wait: seconds.map(Duration::from_secs),
        }
    }

    /// Whether the service is asked too much.
    #[must_use]
    pub fn is_throttling(&self) -> bool {
        const CODES: [&str; 6] = [
            "SlowDown",
            "Throttling",
            "ThrottlingException",
            "TooManyRequests",
            "ServerBusy",
            "RequestLimitExceeded",
        ];
        self.status == 429 || self.status == 503 || CODES.contains(&self.code.as_str())
    }

    /// Whether it may pass by itself.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        const CODES: [&str; 11] = [
            "BadDigest",
            "Md5Mismatch",
            // Another writer of the same blob was first, and took this one's blocks away.
            "InvalidBlockList",
            "ContainerBeingDeleted",
            "UnmatchedContentMD5",
            "ConcurrentObjectUpdate",
            "ConditionalRequestConflict",
            "OperationAborted",
            "RequestTimeout",
            "InternalError",
            "ConcurrentModification",
        ];
        self.is_throttling()
            || matches!(self.status, 408 | 500 | 502 | 504)
            || CODES.contains(&self.code.as_str())
    }

    fn text(&self, hint: Option<String>) -> String {
        let mut text = format!("the service answered {}", self.status);
        for part in [&self.code, &self.message] {
            if !part.is_empty() {
                text.push_str(": ");
                text.extend(part.chars().filter(|character| !character.is_control()).take(MESSAGE_MAX));
            }
        }
        if let Some(hint) = hint {
            text.push_str("; ");
            text.push_str(&hint);
        }
        text
    }

    /// The error that it is.
    #[must_use]
    pub fn into_error(self, at: &At<'_>, condition: Option<Condition<'_>>, hint: Option<String>) -> Error {
        let (store, key) = (at.store.to_owned(), at.key.to_owned());
        let exists = matches!(
            self.code.as_str(),
            "BlobAlreadyExists"
                | "FileAlreadyExists"
                | "PreconditionFailed"
                | "ConditionNotMet"
                | "IfNoneMatchFailed"
        );
        match (self.status, condition) {
            // Not the condition of this write, but a lock that somebody put on the object or the bucket.
            _ if self.is_of_lock() => Error::Denied { store, action: at.action, key, what: self.text(hint) },
            (412, Some(Condition::Absent)) => Error::AlreadyExists { store, key },
            (409, Some(Condition::Absent)) if exists => Error::AlreadyExists { store, key },
            (412, Some(Condition::Matches(_))) => Error::Conflict { store, key },
            // Somebody else writes at this moment. This write was not made; who reads again sees what became of it.
            (409, Some(Condition::Matches(_))) => Error::Conflict { store, key },
            (404, _) if !self.is_of_bucket() => Error::NotFound { store, key },
            (404, _) => Error::NoBucket { store, action: at.action, key, what: self.text(hint) },
            (401 | 403, _) => Error::Denied { store, action: at.action, key, what: self.text(hint) },
            _ if self.is_throttling() => {
                Error::Throttled { store, action: at.action, key, wait: self.wait, what: self.text(hint) }
            }
            _ => Error::Remote {
                store,
                action: at.action,
                key,
                is_transient: self.is_transient(),
                what: self.text(hint),
            },
        }
    }

    /// Whether a lease or a policy of immutability stands against it, in the words of Azure.
    fn is_of_lock(&self) -> bool {
        self.code.starts_with("LeaseId") || self.code.starts_with("BlobImmutable")
    }

    /// Whether it is the bucket that is not there, not an object.
    #[must_use]
    pub fn is_of_bucket(&self) -> bool {
        ["NoSuchBucket", "ContainerNotFound", "BucketNotFound", "NamespaceNotFound"]
            .contains(&self.code.as_str())
    }
}

/// What was tried, on what, where.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The store.
    pub store: &'a str,
    /// What was tried.
    pub action: &'static str,
    /// Key of the object, or what stands for it.
    pub key: &'a str,
}

impl At<'_> {
    /// The error that a fault is.
    #[must_use]
    pub fn fault(&self, fault: &Fault) -> Error {
        let (store, key) = (self.store.to_owned(), self.key.to_owned());
        match fault {
            Fault::TooLarge { size, size_max, .. } => Error::TooLarge {
                store,
                key,
                size: size.unwrap_or(size_max.saturating_add(1)),
                size_max: *size_max,
            },
            _ => Error::Remote {
                store,
                action: self.action,
                key,
                what: fault.to_string(),
                is_transient: fault.is_transient(),
            },
        }
    }

    /// That it may not be done, or not so: why, and what to do.
    #[must_use]
    pub fn denied(&self, what: impl Into<String>) -> Error {
        let (store, key) = (self.store.to_owned(), self.key.to_owned());
        Error::Denied { store, action: self.action, key, what: what.into() }
    }

    /// The error of an answer that makes no sense.
    #[must_use]
    pub fn nonsense(&self, what: impl Into<String>) -> Error {
        Error::Remote {
            store: self.store.to_owned(),
            action: self.action,
            key: self.key.to_owned(),
            what: format!(
                "the service's answer makes no sense ({}); see that the endpoint is right",
                what.into()
            ),
            is_transient: false,
        }
    }
}

/// Where an operation on a key is.
#[must_use]
pub fn at<'a>(store: &'a str, action: &'static str, key: &'a Key) -> At<'a> {
    At { store, action, key: key.as_str() }
}

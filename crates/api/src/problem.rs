//! What the server says when it does not do what it was asked, in the words of the protocol.

use serde::{Deserialize, Serialize};

/// Why a request was not done; stable, part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Code {
    /// The request makes no sense.
    BadRequest,
    /// No valid token.
    Unauthenticated,
    /// The token may not do that.
    Denied,
    /// There is no such object.
    NotFound,
    /// There is such an object already.
    Exists,
    /// The object has another version than the request expects.
    Conflict,
    /// The body has no length.
    LengthRequired,
    /// The object is larger than its kind may be.
    TooLarge,
    /// The range lies outside the object.
    BadRange,
    /// The bytes are not what the name says, or what they name is not there.
    Rejected,
    /// Neither condition stands in a request that writes.
    ConditionRequired,
    /// The body moves too slowly.
    TooSlow,
    /// Too many requests fail.
    TooMany,
    /// The store failed.
    Failed,
    /// Too much is under way; try again.
    Busy,
    /// The medium is full, or the quota is used up.
    Full,
}

impl Code {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::TooSlow => 408,
            Self::LengthRequired => 411,
            Self::Exists | Self::Conflict => 412,
            Self::TooLarge => 413,
            Self::BadRange => 416,
            Self::Rejected => 422,
            Self::ConditionRequired => 428,
            Self::TooMany => 429,
            Self::Failed => 500,
            Self::Busy => 503,
            Self::Full => 507,
        }
    }
}

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Why.
    pub code: Code,
    /// What, for people; names who asked and the object.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// The request, as the server's log has it.
    #[serde(default)]
    pub request_id: String,
}

impl Problem {
    /// A problem without request yet.
    pub fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into(), request_id: String::new() }
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(Code::Denied, message, "use a token of another role or prefix; see docs/server.md, Roles")
    }

    pub(crate) fn rejected(message: impl Into<String>) -> Self {
        Self::new(
            Code::Rejected,
            message,
            "nothing was stored; see that the client is sound, then run it again",
        )
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.code, Code::Busy | Code::Failed | Code::TooMany | Code::TooSlow)
    }
}

impl From<leeward_store::Error> for Problem {
    fn from(error: leeward_store::Error) -> Self {
        use leeward_store::Error;
        let retry = "try again; if it stays so, see the server's medium";
        match &error {
            Error::NotFound { key, .. } => Self::new(
                Code::NotFound,
                format!("there is no object {key}"),
                "see what there is with a listing",
            ),
            Error::AlreadyExists { key, .. } => {
                Self::new(Code::Exists, format!("object {key} exists already"), "use it as it is")
            }
            Error::Conflict { key, .. } => Self::new(
                Code::Conflict,
                format!("object {key} was changed by somebody else in the meantime"),
                "read it again and decide anew",
            ),
            Error::TooLarge { .. } => Self::new(Code::TooLarge, error.to_string(), "run check on the server"),
            Error::NoSpace { action, key, .. } => Self::new(
                Code::Full,
                format!("the server has no space left to {action} {key}; nothing was lost"),
                "free space on the server, then run the command again",
            ),
            // The operating system's reason may name paths of the server: that is for its log.
            _ => Self::new(Code::Failed, "the server's store failed; its log says why", retry),
        }
    }
}

//! What becomes of a request that was not done.

use leeward_store::Error;

use super::session::Lost;
use super::wire::{Answer, status};
use crate::answer::At;

/// The error of a connection that was lost.
pub(super) fn lost(at: &At<'_>, lost: Lost) -> Error {
    Error::Remote {
        store: at.store.to_owned(),
        action: at.action,
        key: at.key.to_owned(),
        what: lost.0,
        is_transient: true,
    }
}

/// The error of an answer that is not what was asked for.
pub(super) fn refused(at: &At<'_>, answer: &Answer) -> Error {
    let (store, key) = (at.store.to_owned(), at.key.to_owned());
    let Answer::Status(code, words) = answer else {
        return at.nonsense("an answer of another kind than was asked for");
    };
    let words: String = words.chars().filter(|character| !character.is_control()).take(200).collect();
    match *code {
        status::NO_SUCH_FILE => Error::NotFound { store, key },
        status::PERMISSION_DENIED => at.denied(
            "the server answered permission denied; see whose the directory is, and that this user may read, write and \
             delete in it",
        ),
        status::OP_UNSUPPORTED => Error::Unsupported { store, what: "its server cannot do that".to_owned() },
        code => Error::Remote {
            store,
            action: at.action,
            key,
            what: format!(
                "the server answered {words:?} (status {code}); see that its disk is not full and that no quota is reached"
            ),
            is_transient: matches!(code, status::NO_CONNECTION | status::CONNECTION_LOST),
        },
    }
}

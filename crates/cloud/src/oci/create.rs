//! Find before create.
//!
//! A retry token makes the same request within 24 hours the same thing. It is used up when that thing was removed since,
//! or when the request reads otherwise now (somebody edited the inputs); the service does not tell which. So the tags
//! decide: they are looked for first, and again when a token is used up. A thing that was made a moment ago may be
//! missing from a list for a while; therefore a token is given up for the next only when a removed thing of the owner
//! is seen, or when none has shown up in several looks.

use std::thread;
use std::time::Duration;

use crate::provider::{Owner, Token};
use crate::{Error, Result};

/// How many times a thing of one owner may be made anew within a token's life.
const TURNS_MAX: u32 = 16;
/// How often a list is looked at for a thing that should be in it.
const LOOKS_MAX: u32 = 4;

/// What a look for an owner's thing finds.
pub(super) enum Found<T> {
    /// It is there.
    Live(T),
    /// There was one.
    Gone,
    /// Nothing.
    Nothing,
}

/// Makes an owner's thing of a kind, or finds it.
pub(super) fn find_or_make<T>(
    (owner, kind): (&Owner, &str),
    pause: Duration,
    find: impl Fn() -> Result<Found<T>>,
    make: impl Fn(&Token) -> Result<T>,
) -> Result<T> {
    if let Found::Live(found) = find()? {
        return Ok(found);
    }
    let mut turn = 0;
    loop {
        let error = match make(&owner.token(kind, turn)) {
            Err(error) if is_used_up(&error) => error,
            other => return other,
        };
        if let Found::Live(found) = look(pause, &find)? {
            return Ok(found);
        }
        turn += 1;
        if turn == TURNS_MAX {
            return Err(error);
        }
    }
}

fn look<T>(pause: Duration, find: impl Fn() -> Result<Found<T>>) -> Result<Found<T>> {
    for _ in 1..LOOKS_MAX {
        match find()? {
            Found::Nothing => thread::sleep(pause),
            other => return Ok(other),
        }
    }
    find()
}

fn is_used_up(error: &Error) -> bool {
    matches!(error, Error::Provider(fault) if fault.code == "InvalidatedRetryToken")
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    use super::{Found, TURNS_MAX, find_or_make};
    use crate::provider::{Fault, Owner};
    use crate::{Error, ErrorKind};

    fn used_up() -> Error {
        let mut fault = Fault::new(ErrorKind::Conflict, "p", "a", "w");
        fault.code = "InvalidatedRetryToken".to_owned();
        fault.into()
    }

    #[test]
    fn a_used_token_is_followed_by_the_next_and_always_in_the_same_order() {
        let owner = Owner::new("r", "s");
        let make_in_turn = |wanted: usize| {
            let tokens = RefCell::new(Vec::new());
            let made = find_or_make(
                (&owner, "v"),
                Duration::ZERO,
                || Ok(Found::<usize>::Gone),
                |token| {
                    tokens.borrow_mut().push(token.clone());
                    if tokens.borrow().len() < wanted { Err(used_up()) } else { Ok(wanted) }
                },
            );
            (made, tokens.into_inner())
        };
        let (made, three) = make_in_turn(3);
        assert_eq!((made.unwrap(), three.len()), (3, 3));
        assert_eq!(make_in_turn(2).1, three[..2]);
        let (refused, all) = make_in_turn(99);
        assert_eq!((refused.unwrap_err().kind(), all.len()), (ErrorKind::Conflict, TURNS_MAX as usize));
    }

    #[test]
    fn what_a_list_shows_late_is_not_made_twice() {
        let looks = Cell::new(0);
        let find = || {
            looks.set(looks.get() + 1);
            Ok(if looks.get() > 3 { Found::Live("the first") } else { Found::Nothing })
        };
        let made = find_or_make((&Owner::new("r", "s"), "v"), Duration::ZERO, find, |_| Err(used_up()));
        assert_eq!(made.unwrap(), "the first");
    }

    #[test]
    fn other_errors_end_it() {
        let owner = Owner::new("r", "s");
        let refused = find_or_make(
            (&owner, "v"),
            Duration::ZERO,
            || Ok(Found::<()>::Nothing),
            |_| Err(Error::refused("p", "a", "w")),
        );
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    }
}

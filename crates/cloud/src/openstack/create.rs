//! Find before create.
//!
//! Neither Cinder nor Glance has idempotency tokens. Their lists, though, are read from the database into which a creation
//! is written before it is answered. So what an owner made is found by its tags at once, but for a request that is still on
//! its way when its answer is given up: it may be carried out a moment later. Hence, after an answer was lost, several looks
//! with pauses, and at the end of a step another, which removes what is one too many.

use std::thread;
use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// How many times a thing is looked for after an answer was lost.
const LOOKS_MAX: u32 = 4;

/// Finds an owner's thing, or makes it.
pub(super) fn find_or_make<T>(
    pause: Duration,
    find: impl Fn() -> Result<Option<T>>,
    make: impl Fn() -> Result<T>,
) -> Result<T> {
    if let Some(found) = find()? {
        return Ok(found);
    }
    let error = match make() {
        Err(error) if is_open(&error) => error,
        other => return other,
    };
    for look in 0..LOOKS_MAX {
        if look > 0 {
            thread::sleep(pause);
        }
        if let Some(found) = find()? {
            return Ok(found);
        }
    }
    Err(error)
}

/// Whether it may have been done all the same.
fn is_open(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Passing | ErrorKind::Io | ErrorKind::Protocol)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::find_or_make;
    use crate::provider::Fault;
    use crate::{Error, ErrorKind};

    fn lost() -> Error {
        Fault::new(ErrorKind::Passing, "p", "a", "no answer").into()
    }

    #[test]
    fn what_a_lost_answer_made_is_found_even_late() {
        let looks = Cell::new(0);
        let made = Cell::new(0);
        let find = || {
            looks.set(looks.get() + 1);
            Ok((looks.get() > 3).then_some("it"))
        };
        let make = || {
            made.set(made.get() + 1);
            Err(lost())
        };
        assert_eq!(find_or_make(Duration::ZERO, find, make).unwrap(), "it");
        assert_eq!(made.get(), 1);
    }

    #[test]
    fn a_refusal_is_believed_and_what_is_there_is_not_made() {
        let looks = Cell::new(0);
        let find = || {
            looks.set(looks.get() + 1);
            Ok(None::<()>)
        };
        let refused = find_or_make(Duration::ZERO, find, || Err(Error::refused("p", "a", "w"))).unwrap_err();
        assert_eq!((refused.kind(), looks.get()), (ErrorKind::Refused, 1));
        let never = find_or_make(Duration::ZERO, || Ok(None::<()>), || Err(lost())).unwrap_err();
        assert_eq!(never.kind(), ErrorKind::Passing);
        assert_eq!(find_or_make(Duration::ZERO, || Ok(Some(1)), || panic!("it is there")).unwrap(), 1);
    }
}

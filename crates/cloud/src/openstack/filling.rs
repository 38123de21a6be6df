//! The bytes of an image on their way to Glance.

use std::sync::Arc;

use leeward_remote::http::{Bytes, Feed};

use super::caller::Caller;
use crate::provider::{Fault, Filling};
use crate::{Error, ErrorKind, Result};

/// An upload.
pub(super) struct Upload {
    pub(super) caller: Arc<Caller>,
    pub(super) action: String,
    /// Until it is over.
    pub(super) feed: Option<Feed>,
}

impl Upload {
    fn end(&mut self) -> Result<()> {
        match self.feed.take() {
            Some(feed) => self.caller.uploaded(&self.action, feed.finish()),
            None => Err(self.over()),
        }
    }

    fn over(&self) -> Error {
        let what = "the service took no more before the image was whole";
        Fault::new(ErrorKind::Passing, self.caller.name(), self.action.as_str(), what).into()
    }
}

impl Filling for Upload {
    fn push(&mut self, bytes: Bytes) -> Result<()> {
        if self.feed.as_mut().is_some_and(|feed| feed.push(bytes)) {
            return Ok(());
        }
        // There is an answer before the end, which says why; one that says that all is well is not believed.
        self.end()?;
        Err(self.over())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.end()
    }
}

//! An open object of a server: ranged reads.

use std::sync::Arc;

use hyper::Method;
use leeward_store::{Error, Key, Object, Result};

use super::transport::Request;
use super::{Shared, object_path};

pub(super) struct HttpObject {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    /// In bytes; bounded by the kind of the object.
    pub(super) size: u64,
}

impl Object for HttpObject {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let length = buffer.len() as u64;
        let end = offset.checked_add(length).filter(|end| *end <= self.size).ok_or_else(|| Error::Io {
            store: self.shared.name.clone(),
            action: "read",
            key: self.key.to_string(),
            source: std::io::ErrorKind::UnexpectedEof.into(),
        })?;
        let request = Request::new(Method::GET, &object_path(&self.key)).taking(length).of_range(offset..end);
        let answer = self.shared.repeat("read", self.key.as_str(), &request)?;
        if answer.status != 206 || answer.body.len() != buffer.len() {
            return Err(self.shared.contradiction(
                self.key.as_str(),
                format!("the server sent {} bytes for the {length} from byte {offset} on", answer.body.len()),
            ));
        }
        buffer.copy_from_slice(&answer.body);
        Ok(())
    }
}

//! Uploads in parts over HTTP.

use std::ops::RangeInclusive;

use leeward_store::bucket::{Condition, RequestClass};
use leeward_store::{ErrorKind, Result};

use super::dialect::Uploads;
use super::parts::{Existing, Part, Parts};
use super::remote::{RemoteObjects, check_metadata};
use super::{Metadata, ObjectVersion, Objects};
use crate::answer::At;

/// What all services take as a part that is not the last one.
const PART_BYTES: RangeInclusive<u64> = (10 << 20)..=(5 << 30);
/// Parts of an upload, at most.
const PARTS_MAX: u32 = 10_000;
/// Pages of a listing of uploads, at most.
const PAGES_MAX: usize = 100;

impl RemoteObjects {
    fn way(&self, at: &At<'_>) -> Result<&dyn Uploads> {
        self.service.uploads().ok_or_else(|| at.denied("this service takes no uploads in parts from here"))
    }
}

impl Parts for RemoteObjects {
    fn part_bytes(&self) -> RangeInclusive<u64> {
        PART_BYTES
    }

    fn parts_max(&self) -> u32 {
        PARTS_MAX
    }

    fn begin(&self, object: &str, metadata: &Metadata) -> Result<String> {
        let at = At { store: &self.name, action: "begin to write", key: object };
        check_metadata(metadata).map_err(|what| at.denied(what))?;
        let (way, name) = (self.way(&at)?, self.whole(object)?);
        let begun = self.ask(&way.start(&name, metadata), RequestClass::Put, &at)?;
        way.started(&begun).map_err(|what| at.nonsense(what))
    }

    fn send(&self, object: &str, upload: &str, part: &Part) -> Result<String> {
        let at = At { store: &self.name, action: "write a part of", key: object };
        let (way, name) = (self.way(&at)?, self.whole(object)?);
        let request = way.part(&name, upload, part.number, part.content.clone());
        let response = self.ask(&request, RequestClass::Put, &at)?;
        Ok(self.version(&response, &at)?.0)
    }

    fn complete(
        &self,
        object: &str,
        upload: &str,
        tags: &[String],
        _bytes: u64,
        existing: Existing,
    ) -> Result<ObjectVersion> {
        let at = At { store: &self.name, action: "write", key: object };
        let (way, name) = (self.way(&at)?, self.whole(object)?);
        let parts: Vec<(u32, String)> = (1..).zip(tags.iter().cloned()).collect();
        let mut request = way.complete(&name, upload, &parts);
        let condition = match existing {
            Existing::Keep => Condition::Absent,
            Existing::Replace => Condition::Always,
        };
        if existing == Existing::Keep {
            request.set_header("if-none-match", "*");
            // Some services do not know the condition here, and would replace what is there.
            self.check_absent(object)?;
        }
        let response = self.ask_if(&request, condition, &at)?;
        match way.completed(&response).map_err(|what| at.nonsense(what))? {
            Some(version) => Ok(version),
            None => Ok(self.head(object)?.version),
        }
    }

    fn abort(&self, object: &str, upload: &str) -> Result<()> {
        let at = At { store: &self.name, action: "give up writing", key: object };
        let (way, name) = (self.way(&at)?, self.whole(object)?);
        match self.ask(&way.abort(&name, upload), RequestClass::Delete, &at) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn unfinished(&self, object: &str) -> Result<Vec<String>> {
        let at = At { store: &self.name, action: "list the uploads of", key: object };
        let (way, name) = (self.way(&at)?, self.whole(object)?);
        let (mut found, mut from) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let response = self.ask(&way.unfinished(&name, from.as_deref()), RequestClass::List, &at)?;
            let (uploads, next) = way.unfinished_in(&name, &response).map_err(|what| at.nonsense(what))?;
            found.extend(uploads);
            match next {
                Some(next) if from.as_ref() != Some(&next) => from = Some(next),
                _ => break,
            }
        }
        Ok(found)
    }
}

//! Large blobs: written as blocks, which a list then makes one blob of.
//!
//! Blocks of one blob that are not yet in a list belong to nobody: those of two writers lie side by side. So the names of a
//! writer's blocks hold random bytes. When one writer's list is taken, the service drops the others' blocks; their lists
//! are then refused, by their condition or for want of blocks.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leeward_store::bucket::Condition;

use super::set_condition;
use crate::digest;
use crate::http::{Method, Request};
use crate::service::InParts;

/// Size of a block in bytes, and of the largest blob that is written whole. Ordinary packs are smaller.
const BLOCK_BYTES: usize = 64 << 20;

/// Where blobs are.
pub(super) struct Blocks {
    pub(super) origin: String,
    /// Before a blob's name: the path of the container.
    pub(super) root: String,
}

/// The name of a block: all of one blob must be of one length.
fn id(nonce: &str, number: u32) -> String {
    STANDARD.encode(format!("{nonce}-{number:08x}"))
}

impl InParts for Blocks {
    fn part_bytes(&self) -> usize {
        BLOCK_BYTES
    }

    fn part(&self, name: &str, nonce: &str, number: u32, content: &[&[u8]]) -> Request {
        let mut request = Request::new(Method::PUT, self.origin.as_str(), format!("{}/{name}", self.root))
            .query("comp", "block")
            .query("blockid", id(nonce, number))
            .body(content);
        request.set_header("content-type", "application/octet-stream");
        request.set_header("content-md5", &digest::md5_base64(&request.body));
        request
    }

    fn join(&self, name: &str, nonce: &str, count: u32, condition: Condition<'_>) -> Request {
        let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for number in 0..count {
            // Writing to a string cannot fail.
            let _ = write!(list, "<Uncommitted>{}</Uncommitted>", id(nonce, number));
        }
        list.push_str("</BlockList>");
        let mut request = Request::new(Method::PUT, self.origin.as_str(), format!("{}/{name}", self.root))
            .query("comp", "blocklist")
            .body(&[list.as_bytes()]);
        request.set_header("content-type", "application/xml");
        request.set_header("content-md5", &digest::md5_base64(&request.body));
        request.set_header("x-ms-blob-content-type", "application/octet-stream");
        set_condition(&mut request, condition);
        request
    }
}

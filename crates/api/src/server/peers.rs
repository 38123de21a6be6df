//! Other servers that this one may speak to: those that its operator has named, and no others.

use crate::client::{Location, Trust};

/// Another server.
#[derive(Debug, Clone)]
pub struct PeerServer {
    /// What it is called here.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// By what it is known, and how this server shows who it is.
    pub trust: Trust,
}

impl PeerServer {
    /// Reads `NAME=URL`.
    ///
    /// # Errors
    /// It is none; says what to do.
    pub fn parse(text: &str, trust: Trust) -> Result<Self, String> {
        let (name, url) = text.split_once('=').ok_or_else(|| format!("{text}: write NAME=URL"))?;
        let is_name = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name {
            return Err(format!("{name:?}: the name of a peer has letters, digits, '-', '_' and '.'"));
        }
        Ok(Self { name: name.to_owned(), location: Location::parse(url)?, trust })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_and_a_place_that_keeps_secrets() {
        let peer = PeerServer::parse("west=https://west.example.org", Trust::default()).unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.location.to_string().as_str()),
            ("west", "https://west.example.org:443")
        );
        for text in
            ["https://a", "west", "=https://a", "we st=https://a", "west=http://192.0.2.1", "west=file:/x"]
        {
            assert!(PeerServer::parse(text, Trust::default()).is_err(), "{text}");
        }
    }
}

//! Leeward servers that a command speaks to, as the environment has tokens and trust.
//!
//! A command may speak to two of them. Each has tokens of its own, and a token goes to the server that it is of and to no
//! other: for the second there are variables of their own, `LEEWARD_OTHER_…`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use leeward_api::client::{ClientOptions, HttpStore, Location, ServerControl, Trust};
use leeward_api::token::TokenText;
use leeward_api::witness::WitnessStore;
use leeward_store::SharedStore;

use crate::failure::{Code, Failure};

/// Which of the repositories of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that it works on.
    Own,
    /// Another one, beside one that is behind no server.
    Other,
    /// Another one, beside one that is behind a server.
    OtherServer,
    /// None of them: a site's daemon, with variables `LEEWARD_SITE_…`.
    Site,
}

impl Side {
    /// What another repository is beside the one at a location.
    pub fn beside(location: &str) -> Self {
        if Location::is_one(location) { Self::OtherServer } else { Self::Other }
    }

    /// A variable of this side, by its last part; that of the first side where it is not set.
    fn variable(self, name: &str) -> Option<OsString> {
        self.own_variable(name).or_else(|| std::env::var_os(format!("LEEWARD_{name}")))
    }

    /// A variable of this side, by its last part.
    fn own_variable(self, name: &str) -> Option<OsString> {
        let prefix = match self {
            Self::Own => "LEEWARD",
            Self::Other | Self::OtherServer => "LEEWARD_OTHER",
            Self::Site => "LEEWARD_SITE",
        };
        std::env::var_os(format!("{prefix}_{name}")).filter(|value| !value.is_empty())
    }

    /// Whom it trusts, and what it shows.
    pub fn trust(self) -> Result<Trust, Failure> {
        let file = |name: &str| self.variable(name).map(PathBuf::from);
        let certificate = match (file("CLIENT_CERT"), file("CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(Failure::new(Code::Usage, "a client's certificate needs its key")
                    .hint("set both LEEWARD_CLIENT_CERT and LEEWARD_CLIENT_KEY, or neither"));
            }
        };
        Ok(Trust { authority: file("CA_FILE"), certificate })
    }

    /// Its token.
    pub fn token(self) -> Result<TokenText, Failure> {
        // The token of one server is not shown to another.
        let variable = |name: &str| match self {
            Self::OtherServer => self.own_variable(name),
            Self::Own | Self::Other | Self::Site => self.variable(name),
        };
        // A token of this side goes before one that is for the other as well, whichever way they are given.
        let of_side = self.own_variable("TOKEN").filter(|_| self.own_variable("TOKEN_FILE").is_none());
        let text = match (of_side, variable("TOKEN_FILE").map(PathBuf::from)) {
            (None, Some(path)) => std::fs::read_to_string(&path).map_err(|error| {
                Failure::new(Code::Usage, format!("{}: cannot read the token: {error}", path.display()))
            })?,
            (of_side, _) => {
                let given = of_side.or_else(|| variable("TOKEN"));
                given.and_then(|text| text.into_string().ok()).ok_or_else(|| self.no_token())?
            }
        };
        Ok(TokenText::new(text.trim()))
    }

    fn no_token(self) -> Failure {
        match self {
            Self::OtherServer => Failure::new(Code::Usage, "the other server needs a token of its own, and none is given")
                .hint("set LEEWARD_OTHER_TOKEN_FILE to a file with it, or LEEWARD_OTHER_TOKEN; LEEWARD_TOKEN* is for the server of -r, or the first one"),
            Self::Site => Failure::new(Code::Usage, "the site's daemon needs a token, and none is given")
                .hint("set LEEWARD_SITE_TOKEN_FILE to a file with it, as the admin.token that leeward server init made"),
            Self::Own | Self::Other => Failure::new(Code::Usage, "the server needs a token, and none is given")
                .hint("set LEEWARD_TOKEN_FILE to a file with it, or LEEWARD_TOKEN; one is made with: leeward token add"),
        }
    }
}

fn parsed(text: &str) -> Result<Location, Failure> {
    Location::parse(text).map_err(|what| Failure::new(Code::Usage, what))
}

/// The store behind a server, with a witness of its refs.
pub fn connect(text: &str, side: Side) -> Result<SharedStore, Failure> {
    let store = HttpStore::new(&parsed(text)?, side.token()?, &side.trust()?, ClientOptions::default())
        .map_err(|error| Failure::from(leeward_repository::Error::from(error)))?;
    let store: SharedStore = Arc::new(store);
    Ok(match WitnessStore::usual_directory() {
        Some(directory) => WitnessStore::wrap(store, &directory),
        None => store,
    })
}

/// A server, to be asked for more than objects.
pub fn control(text: &str, side: Side) -> Result<ServerControl, Failure> {
    ServerControl::new(&parsed(text)?, side.token()?, &side.trust()?, ClientOptions::default())
        .map_err(|error| Failure::from(leeward_repository::Error::from(error)))
}

//! From the environment to a site.

use clap::Args;
use leeward_api::client::{Location, SiteClient, SiteError};

use crate::failure::{Code, Failure};
use crate::servers::Side;

/// Which site
#[derive(Args)]
pub struct SiteArgument {
    /// The site's daemon, as in https://HOST:7443; its token comes from LEEWARD_SITE_TOKEN_FILE, or LEEWARD_TOKEN_FILE or
    /// LEEWARD_TOKEN
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "LEEWARD_SITE",
        default_value = "http://127.0.0.1:7443"
    )]
    site: String,
}

impl SiteArgument {
    /// A client of the site.
    pub fn client(&self) -> Result<SiteClient, Failure> {
        let location = Location::parse(&self.site).map_err(|what| Failure::new(Code::Usage, what))?;
        let token = Side::Site.token()?;
        let trust = Side::Site.trust()?;
        SiteClient::new(&location, &token, &trust).map_err(|what| Failure::new(Code::Usage, what))
    }
}

/// A site's answer as the command line tells it.
pub fn failure(error: SiteError) -> Failure {
    let (code, hint) = match &error {
        SiteError::Unreachable { .. } => (Code::Io, "see that the daemon runs: leeward server".to_owned()),
        SiteError::Refused { status, hint, .. } => (of_status(*status), hint.clone()),
        _ => (Code::Failed, "see that the URL is that of a site's daemon".to_owned()),
    };
    Failure::new(code, error.to_string()).hint(hint)
}

fn of_status(status: u16) -> Code {
    match status {
        401 | 403 => Code::Denied,
        404 => Code::NotFound,
        409 | 412 => Code::Conflict,
        400 | 405 | 413 | 422 => Code::Usage,
        408 | 429 | 503 => Code::Io,
        _ => Code::Failed,
    }
}

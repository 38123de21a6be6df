//! `leeward repo probe`: what the store of a repository can do.

use std::process::ExitCode;

use leeward_remote::probe::{self, Row};

use crate::failure::{Code, Failure};
use crate::location;
use crate::output::Output;

/// Tries out what the bucket at a location can do, and prints it.
pub fn run(location: &str, output: &Output) -> Result<ExitCode, Failure> {
    if leeward_api::client::Location::is_one(location) {
        return Err(Failure::new(
            Code::Usage,
            format!("{location}: a server of Leeward has every ability; only object stores differ"),
        )
        .hint("give a location such as s3://BUCKET/PREFIX"));
    }
    let connection = location::bucket(location)?.ok_or_else(|| {
        Failure::new(
            Code::Usage,
            format!("{location}: a directory has every ability; only object stores differ"),
        )
        .hint("give a location such as s3://BUCKET/PREFIX")
    })?;
    let abilities = probe::probe(connection.bare.as_ref()).map_err(leeward_remote::Error::from)?;
    let rows = abilities.rows();
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "location": location,
            "comparison": format!("{:?}", abilities.comparison()),
            "rows": rows,
            "abilities": abilities,
            "requests": connection.requests.counts().to_string(),
        }));
    } else {
        rows.iter().for_each(|row| output.line(line(row)));
        output.line(format!("requests sent: {}", connection.requests.counts()));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(row: &Row) -> String {
    format!("{:<26} {:<8} {}", row.ability, row.state, row.meaning).trim_end().to_owned()
}

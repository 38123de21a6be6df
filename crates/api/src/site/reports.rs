//! `/v1/reports`: what became of runs in a stretch of time.

use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use leeward_site::ReportQuestion;

use super::access::{Caller, Right};
use super::files::Leaving;
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, json, only, text, turn_of};

/// How far back a report goes where nothing is said.
const USUAL: SignedDuration = SignedDuration::from_hours(24 * 30);

/// How a report is given.
#[derive(Clone, Copy, Default)]
enum Form {
    #[default]
    Json,
    /// The table by kind and schedule, for programs for tables.
    Csv,
    /// That of images.
    ImagesCsv,
}

impl std::str::FromStr for Form {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "csv" => Ok(Self::Csv),
            "images-csv" => Ok(Self::ImagesCsv),
            _ => Err("a report is given as json, csv or images-csv".to_owned()),
        }
    }
}

pub(super) async fn handle(state: &SiteState, asking: &Asking, caller: &Caller) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let query = Query::parse(&asking.query, &["from", "to", "kind", "format"])?;
    let to: Timestamp = query.value("to")?.unwrap_or_else(Timestamp::now);
    let usual = to.checked_sub(USUAL).unwrap_or(Timestamp::MIN);
    let from: Timestamp = query.value("from")?.unwrap_or(usual);
    let form: Form = query.value("format")?.unwrap_or_default();
    let question = ReportQuestion { from, to, kind: query.text("kind").map(str::to_owned) };
    // It reads the documents of many runs: few at once, and none for who has gone.
    let turn = turn_of(&state.0.reports, "other reports are being made").await?;
    let (leaving, is_there) = Leaving::new();
    let report = state.act(turn, move |site| Ok(site.report(&question, &is_there)?)).await?;
    drop(leaving);
    Ok(match form {
        Form::Json => json(&report),
        Form::Csv => csv(report.groups_csv(), "runs.csv"),
        Form::ImagesCsv => csv(report.images_csv(), "images.csv"),
    })
}

fn csv(table: String, name: &str) -> Response {
    let mut response = text(table);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
    if let Ok(name) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    response
}

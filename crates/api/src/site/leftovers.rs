//! `/v1/leftovers`: things in a cloud that no run looks after any more, and having them removed.

use axum::body::Body;
use axum::http::Method;
use axum::response::Response;
use leeward_site::{Removal, Removed};
use serde::Serialize;

use super::access::{Caller, Right};
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, body_of, json, only};

#[derive(Serialize)]
struct Results {
    results: Vec<Removed>,
}

pub(super) async fn handle(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    rest: &[&str],
    body: Body,
) -> Result<Response, Problem> {
    match rest {
        [] => {
            only(asking, &[Method::GET])?;
            caller.needs(Right::See)?;
            let query = Query::parse(&asking.query, &["target"])?;
            let target = query.text("target").map(str::to_owned);
            Ok(json(&state.call_far(move |site| Ok(site.leftovers(target.as_deref())?)).await?))
        }
        ["remove"] => {
            only(asking, &[Method::POST])?;
            caller.needs(Right::Command)?;
            let removal: Removal = body_of(body).await?;
            let results = state.call_far(move |site| Ok(site.remove_leftovers(&removal)?)).await?;
            Ok(json(&Results { results }))
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}

//! `/v1/notify`: who is told of what happens, what came of it, and trying it.

use axum::body::Body;
use axum::http::Method;
use axum::response::Response;
use leeward_remote::encode::decoded;
use leeward_site::{Delivery, DeliveryState, ReceiverView};
use serde::{Deserialize, Serialize};

use super::access::{Caller, Right};
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, body_of, json, only};

#[derive(Serialize)]
struct Receivers {
    receivers: Vec<ReceiverView>,
}

/// A part of what was told, or is to be.
#[derive(Serialize)]
struct DeliveryPage {
    deliveries: Vec<Delivery>,
    next: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoBody {}

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
            Query::parse(&asking.query, &[])?;
            let receivers = state.call(|site| Ok(site.receivers()?)).await?;
            Ok(json(&Receivers { receivers }))
        }
        ["deliveries"] => deliveries(state, asking, caller).await,
        [name, "test"] => {
            only(asking, &[Method::POST])?;
            caller.needs(Right::Command)?;
            body_of::<NoBody>(body).await?;
            let name = decoded(name).ok_or_else(|| Problem::invalid("the receiver's name is no text"))?;
            let by = caller.by();
            Ok(json(&state.call_far(move |site| Ok(site.try_receiver(&name, &by)?)).await?))
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}

async fn deliveries(state: &SiteState, asking: &Asking, caller: &Caller) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let query = Query::parse(&asking.query, &["state", "before", "most"])?;
    let states = query.list::<DeliveryState>("state")?;
    let (before, most) = (query.value("before")?, query.most()?);
    let most_number = u32::try_from(most).unwrap_or(u32::MAX);
    let found = state.call(move |site| Ok(site.deliveries(&states, before, most_number)?)).await?;
    let next = found.last().filter(|_| found.len() == most).map(|delivery| delivery.number);
    Ok(json(&DeliveryPage { deliveries: found, next }))
}

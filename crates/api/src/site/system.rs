//! Who one is, what the site is, how it does.

use std::fmt::Write;

use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use leeward_runs::engine::Trouble;
use leeward_site::{Leftovers, Overview, ReceiverView};
use serde::Serialize;

use super::access::{Caller, Right};
use super::problem::Problem;
use super::{Asking, SiteState, json, only, text};
use crate::oidc::ProviderState;

/// What the API is, as OpenAPI 3.1 has it.
const OPENAPI: &str = include_str!("openapi.json");

pub(super) fn openapi() -> Response {
    let mut response = text(OPENAPI);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether the state of runs can be read: what a load balancer asks. Nothing is written for it, and nobody else is asked.
pub(super) async fn ready(state: &SiteState, asking: &Asking) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    state.call(|site| Ok(site.runs().state().last_event()?)).await?;
    // A run that makes no sense is no reason to send callers elsewhere.
    match state.0.site.runs().troubles().iter().all(|trouble| trouble.run.is_some()) {
        true => Ok(text("ok\n")),
        false => Err(Problem::busy("the state of runs fails; the daemon's log says more")),
    }
}

#[derive(Serialize)]
struct Who<'a> {
    name: &'a str,
    role: &'a str,
    prefixes: &'a [String],
    /// Who vouches for whom, where the token is a provider's.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
}

pub(super) fn whoami(asking: &Asking, caller: &Caller) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    let vouched = caller.vouched.as_ref();
    Ok(json(&Who {
        name: &caller.name,
        role: caller.role_name(),
        prefixes: &caller.prefixes,
        issuer: vouched.map(|vouched| vouched.issuer.as_str()),
        subject: vouched.map(|vouched| vouched.subject.as_str()),
    }))
}

#[derive(Serialize)]
struct SiteView<'a> {
    name: &'a str,
    version: &'a str,
    repository: Option<RepositoryView<'a>>,
    targets: Vec<TargetView<'a>>,
    sources: Vec<SourceView<'a>>,
    buckets: Vec<BucketView<'a>>,
}

#[derive(Serialize)]
struct RepositoryView<'a> {
    location: &'a str,
    encrypted: bool,
}

#[derive(Serialize)]
struct TargetView<'a> {
    name: &'a str,
    kind: &'a str,
}

#[derive(Serialize)]
struct SourceView<'a> {
    name: &'a str,
    location: &'a str,
    watch: Option<&'a str>,
    target: Option<&'a str>,
}

#[derive(Serialize)]
struct BucketView<'a> {
    name: &'a str,
    location: &'a str,
}

pub(super) async fn site(state: &SiteState, asking: &Asking, caller: &Caller) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let config = state.0.site.config();
    let targets = config.targets.iter().map(|(name, target)| TargetView { name, kind: target.kind.name() });
    let sources = config.sources.iter().map(|(name, source)| SourceView {
        name,
        location: &source.location,
        watch: Some(source.watch.name()).filter(|name| *name != "off"),
        target: source.target.as_deref(),
    });
    let buckets = config.buckets.iter().map(|(name, bucket)| BucketView { name, location: &bucket.location });
    Ok(json(&SiteView {
        name: &config.name,
        version: env!("CARGO_PKG_VERSION"),
        repository: config.repository.as_ref().map(|place| RepositoryView {
            location: &place.location,
            encrypted: place.passphrase_file.is_some() || place.key_file.is_some(),
        }),
        targets: targets.collect(),
        sources: sources.collect(),
        buckets: buckets.collect(),
    }))
}

pub(super) async fn overview(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    Ok(json(&state.call_far(|site| Ok(site.overview()?)).await?))
}

/// Figures for Prometheus.
pub(super) async fn metrics(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let overview = state.call_far(|site| Ok(site.overview()?)).await?;
    let mut figures = String::new();
    // Writing to a string cannot fail.
    let _ = write_figures(&mut figures, &overview, state.0.started.elapsed().as_secs());
    let _ = write_troubles(&mut figures, &state.0.site.runs().troubles());
    let _ = write_leftovers(&mut figures, state.0.site.last_leftovers().as_ref());
    let receivers = state.call(|site| Ok(site.receivers()?)).await?;
    let _ = write_receivers(&mut figures, &receivers);
    let _ = write_providers(&mut figures, &state.0.providers.states());
    let mut response = text(figures);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn write_figures(figures: &mut String, overview: &Overview, seconds: u64) -> std::fmt::Result {
    writeln!(figures, "# HELP leeward_up_seconds Since the daemon began.\n# TYPE leeward_up_seconds gauge")?;
    writeln!(figures, "leeward_up_seconds {seconds}")?;
    writeln!(figures, "# HELP leeward_runs Runs by kind and state.\n# TYPE leeward_runs gauge")?;
    for run in &overview.runs {
        writeln!(
            figures,
            "leeward_runs{{kind=\"{}\",state=\"{}\"}} {}",
            label(&run.kind),
            run.state.name(),
            run.count
        )?;
    }
    let Some(images) = &overview.images else { return Ok(()) };
    let help = "Age of the newest snapshot of an image.";
    writeln!(figures, "# HELP leeward_image_age_seconds {help}\n# TYPE leeward_image_age_seconds gauge")?;
    for image in images {
        if let Some(age) = image.age_seconds {
            writeln!(
                figures,
                "leeward_image_age_seconds{{image=\"{}\"}} {age}",
                label(image.image.as_str())
            )?;
        }
    }
    let help = "How old the newest snapshot of an image may be.";
    writeln!(
        figures,
        "# HELP leeward_image_rpo_target_seconds {help}\n# TYPE leeward_image_rpo_target_seconds gauge"
    )?;
    for image in images {
        if let Some(target) = image.rpo_target_seconds {
            let name = label(image.image.as_str());
            writeln!(figures, "leeward_image_rpo_target_seconds{{image=\"{name}\"}} {target}")?;
        }
    }
    writeln!(
        figures,
        "# HELP leeward_image_snapshots Snapshots of an image.\n# TYPE leeward_image_snapshots gauge"
    )?;
    for image in images {
        writeln!(
            figures,
            "leeward_image_snapshots{{image=\"{}\"}} {}",
            label(image.image.as_str()),
            image.snapshots
        )?;
    }
    Ok(())
}

fn write_troubles(figures: &mut String, troubles: &[Trouble]) -> std::fmt::Result {
    let (runs, state): (Vec<_>, Vec<_>) = troubles.iter().partition(|trouble| trouble.run.is_some());
    let help = "Whether the state of runs fails.";
    writeln!(figures, "# HELP leeward_runs_state_failing {help}\n# TYPE leeward_runs_state_failing gauge")?;
    writeln!(figures, "leeward_runs_state_failing {}", state.len())?;
    let help = "Runs whose documents make no sense.";
    writeln!(figures, "# HELP leeward_runs_damaged {help}\n# TYPE leeward_runs_damaged gauge")?;
    writeln!(figures, "leeward_runs_damaged {}", runs.len())
}

/// What was found when it was looked for last: asking clouds takes too long for who gathers figures.
fn write_leftovers(figures: &mut String, last: Option<&(jiff::Timestamp, Leftovers)>) -> std::fmt::Result {
    let Some((looked, found)) = last else { return Ok(()) };
    let help = "Things in clouds that no run looks after, by target, and whether they are plainly remains.";
    writeln!(figures, "# HELP leeward_leftovers {help}\n# TYPE leeward_leftovers gauge")?;
    let mut counts = std::collections::BTreeMap::new();
    for leftover in &found.leftovers {
        *counts.entry((&leftover.target, leftover.removable)).or_insert(0_u64) += 1;
    }
    for ((target, removable), count) in counts {
        let target = label(target);
        writeln!(figures, "leeward_leftovers{{target=\"{target}\",removable=\"{removable}\"}} {count}")?;
    }
    let help = "Targets that could not be asked for leftovers.";
    writeln!(figures, "# HELP leeward_leftover_problems {help}\n# TYPE leeward_leftover_problems gauge")?;
    writeln!(figures, "leeward_leftover_problems {}", found.problems.len())?;
    let help = "When leftovers were looked for last, in seconds since 1970.";
    writeln!(figures, "# HELP leeward_leftovers_looked {help}\n# TYPE leeward_leftovers_looked gauge")?;
    writeln!(figures, "leeward_leftovers_looked {}", looked.as_second())
}

fn write_receivers(figures: &mut String, receivers: &[ReceiverView]) -> std::fmt::Result {
    if receivers.is_empty() {
        return Ok(());
    }
    let help = "Notices by receiver and state.";
    writeln!(figures, "# HELP leeward_notices {help}\n# TYPE leeward_notices gauge")?;
    for receiver in receivers {
        let counts =
            [("waiting", receiver.waiting), ("failed", receiver.failed), ("delivered", receiver.delivered)];
        for (state, count) in counts {
            let name = label(&receiver.name);
            writeln!(figures, "leeward_notices{{receiver=\"{name}\",state=\"{state}\"}} {count}")?;
        }
    }
    Ok(())
}

fn write_providers(figures: &mut String, providers: &[ProviderState]) -> std::fmt::Result {
    if providers.is_empty() {
        return Ok(());
    }
    let help = "Keys of a provider of OpenID Connect with which tokens may be signed.";
    writeln!(figures, "# HELP leeward_oidc_keys {help}\n# TYPE leeward_oidc_keys gauge")?;
    for provider in providers {
        writeln!(figures, "leeward_oidc_keys{{provider=\"{}\"}} {}", label(&provider.name), provider.keys)?;
    }
    let help = "Whether the last attempt to get a provider's keys failed.";
    writeln!(figures, "# HELP leeward_oidc_failing {help}\n# TYPE leeward_oidc_failing gauge")?;
    for provider in providers {
        let fails = u8::from(provider.fails);
        writeln!(figures, "leeward_oidc_failing{{provider=\"{}\"}} {fails}", label(&provider.name))?;
    }
    Ok(())
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

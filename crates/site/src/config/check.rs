//! What a configuration may not ask for.

use leeward_remote::Location;

use super::{Config, Server, Target, TargetKind};

impl Config {
    /// Whether what it asks for is possible, as far as that can be told without asking anybody.
    pub(super) fn check(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        check_server(&self.server).map_err(|what| format!("[server]: {what}"))?;
        for (name, source) in &self.sources {
            check_name("source", name)?;
            Location::parse(&source.location).map_err(|error| format!("[source.{name}]: {error}"))?;
            match &source.target {
                Some(target) if !self.targets.contains_key(target) => {
                    return Err(format!("[source.{name}]: there is no [target.{target}]"));
                }
                None if source.watch.polls() || source.watch.takes_events() => {
                    return Err(format!("[source.{name}]: it is watched, so it needs a target"));
                }
                _ => {}
            }
            if source.poll_seconds == 0 {
                return Err(format!("[source.{name}]: poll_seconds must be at least 1"));
            }
        }
        for (name, target) in &self.targets {
            check_name("target", name)?;
            check_target(target).map_err(|what| format!("[target.{name}]: {what}"))?;
        }
        for (name, disk) in &self.disks {
            super::disk::check_name(name)?;
            disk.volume().map_err(|what| format!("[disk.{name}]: {what}"))?;
        }
        for (name, schedule) in self.schedules.iter().filter(|(_, schedule)| schedule.enabled) {
            check_name("schedule", name)?;
            let placed = |what: String| format!("[schedule.{name}]: {what}");
            schedule.times(&self.name, name).map_err(placed)?;
            schedule.job(self).map_err(placed)?;
        }
        let of_state =
            self.schedules.values().filter(|schedule| schedule.enabled && schedule.state.is_some());
        if of_state.count() > 1 {
            return Err(
                "several schedules store the daemon's own state: give one of them all its times".to_owned()
            );
        }
        match self.runs.steps {
            0 => Err("[runs]: steps must be at least 1".to_owned()),
            _ if self.runs.lease_seconds < 5 => Err("[runs]: lease_seconds must be at least 5".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Whether TLS is asked for as a whole or not at all: half of it would be none, and nobody would know.
fn check_server(server: &Server) -> Result<(), String> {
    let has_tls = server.tls_cert.is_some() || server.tls_dir.is_some();
    let wrong = match (&server.tls_cert, &server.tls_key, &server.tls_dir) {
        (Some(_), None, _) => "tls_cert needs tls_key, the key of the certificate",
        (None, Some(_), _) => "tls_key needs tls_cert, the certificate of the key",
        (Some(_), _, Some(_)) => {
            "tls_cert and tls_dir exclude each other: name a certificate, or have one made"
        }
        (_, _, None) if !server.tls_names.is_empty() => {
            "tls_names are for the certificate that tls_dir makes"
        }
        _ if server.client_ca.is_some() && !has_tls => {
            "client_ca goes with TLS: without it no client shows a certificate; add tls_cert and tls_key, or tls_dir"
        }
        _ => return Ok(()),
    };
    Err(wrong.to_owned())
}

fn check_target(target: &Target) -> Result<(), String> {
    match target.kind {
        TargetKind::Directory if target.path.is_none() => Err("a directory needs its path".to_owned()),
        TargetKind::Device if target.path.is_none() => Err("a device needs its path".to_owned()),
        _ => Ok(()),
    }
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(()),
        false => Err(format!("{what} {name:?}: a name has 1 to 64 letters, digits, '-', '_' or '.'")),
    }
}

//! What a configuration may not ask for.

use leeward_remote::Location;

use leeward_cloud::provider::AttachmentKind;
use leeward_cloud::rbd::RbdVolumes;

use super::{Config, Server, Target, TargetKind};

impl Config {
    /// Whether what it asks for is possible, as far as that can be told without asking anybody.
    pub(super) fn check(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        check_server(&self.server).map_err(|what| format!("[server]: {what}"))?;
        self.rpo.check().map_err(|what| format!("[rpo]: {what}"))?;
        if let Some(database) = &self.database {
            database.check().map_err(|what| format!("[database]: {what}"))?;
        }
        check_providers(&self.server)?;
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
        for (name, bucket) in &self.buckets {
            check_name("bucket", name)?;
            bucket.check(self).map_err(|what| format!("[bucket.{name}]: {what}"))?;
        }
        for (name, target) in &self.targets {
            check_name("target", name)?;
            check_target(target).map_err(|what| format!("[target.{name}]: {what}"))?;
            if target.kind == TargetKind::Repository && self.repository.is_none() {
                return Err(format!(
                    "[target.{name}]: its snapshots go to the site's [repository], and there is none"
                ));
            }
            super::worker::check(target, &self.workers).map_err(|what| format!("[target.{name}]: {what}"))?;
        }
        for name in self.workers.keys() {
            check_name("worker", name)?;
            if name == super::worker::TEMPORARY {
                return Err(format!(
                    "[worker.{name}]: the name means a worker that is launched for each run"
                ));
            }
        }
        for (name, disk) in &self.disks {
            super::disk::check_name("disk", name)?;
            disk.volume().map_err(|what| format!("[disk.{name}]: {what}"))?;
        }
        for (name, machine) in &self.machines {
            super::disk::check_name("machine", name)?;
            machine.backup().map_err(|what| format!("[machine.{name}]: {what}"))?;
        }
        for (name, schedule) in self.schedules.iter().filter(|(_, schedule)| schedule.enabled) {
            check_name("schedule", name)?;
            let placed = |what: String| format!("[schedule.{name}]: {what}");
            schedule.times(&self.name, name).map_err(placed)?;
            let is_local =
                schedule.timezone.is_none() && (schedule.cron.is_some() || schedule.full_cron.is_some());
            if self.database.is_some() && is_local {
                return Err(placed(
                    "name its timezone: the daemons that share the database may be in several".to_owned(),
                ));
            }
            schedule.job(self).map_err(placed)?;
        }
        let of_state =
            self.schedules.values().filter(|schedule| schedule.enabled && schedule.state.is_some());
        if of_state.count() > 1 {
            return Err(
                "several schedules store the daemon's own state: give one of them all its times".to_owned()
            );
        }
        for (name, receiver) in &self.receivers {
            check_name("notify", name)?;
            receiver.check(self).map_err(|what| format!("[notify.{name}]: {what}"))?;
        }
        for (key, length) in [("sweep_every", &self.runs.sweep_every), ("sweep_age", &self.runs.sweep_age)] {
            super::schedule::duration(key, length).map_err(|what| format!("[runs]: {what}"))?;
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
        _ => return check_url(server.url.as_deref()),
    };
    Err(wrong.to_owned())
}

/// Whether each provider lets somebody in, and nobody else.
fn check_providers(server: &Server) -> Result<(), String> {
    let mut issuers = std::collections::BTreeMap::new();
    for (name, provider) in &server.oidc {
        check_name("server.oidc", name)?;
        provider.check(server.url.as_deref()).map_err(|what| format!("[server.oidc.{name}]: {what}"))?;
        if let Some(other) = issuers.insert(&provider.issuer, name) {
            return Err(format!(
                "[server.oidc.{other}] and [server.oidc.{name}] both have the issuer {:?}",
                provider.issuer
            ));
        }
    }
    Ok(())
}

/// Whether links can begin with it.
fn check_url(url: Option<&str>) -> Result<(), String> {
    let Some(url) = url else { return Ok(()) };
    let parsed = url::Url::parse(url).map_err(|error| format!("url = {url:?}: {error}"))?;
    let is_whole = matches!(parsed.scheme(), "http" | "https") && parsed.has_host();
    let is_more = parsed.query().is_some() || parsed.fragment().is_some() || !parsed.username().is_empty();
    match is_whole && !is_more && parsed.path() == "/" {
        true => Ok(()),
        false => Err(format!("url = {url:?}: give it as https://leeward.example.org:7443")),
    }
}

fn check_target(target: &Target) -> Result<(), String> {
    match target.kind {
        TargetKind::Directory if target.path.is_none() => Err("a directory needs its path".to_owned()),
        TargetKind::Device if target.path.is_none() => Err("a device needs its path".to_owned()),
        _ if target.openstack.is_some() && target.kind != TargetKind::Openstack => {
            Err("the table openstack is for a target of kind \"openstack\"".to_owned())
        }
        _ if target.image.is_some() && target.kind != TargetKind::Repository => {
            Err("image is for kind \"repository\"".to_owned())
        }
        TargetKind::Repository => check_repository(target),
        TargetKind::Openstack => check_openstack(target),
        TargetKind::Rbd => check_pool(target),
        _ if target.pool.is_some() || target.ceph_conf.is_some() || target.ceph_user.is_some() => {
            Err("pool, ceph_conf and ceph_user are for kind \"rbd\"".to_owned())
        }
        TargetKind::Oci if target.attachment == Some(AttachmentKind::Iscsi) && target.device.is_some() => {
            Err("an iSCSI attachment shows as no device: leave `device` out".to_owned())
        }
        TargetKind::Directory | TargetKind::Device if target.attachment.is_some() => {
            Err("attachment is for kind \"oci\"".to_owned())
        }
        _ => Ok(()),
    }
}

fn check_pool(target: &Target) -> Result<(), String> {
    let pool = target.pool.as_deref().ok_or("a pool of RBD needs its name: pool = \"NAME\"")?;
    RbdVolumes::in_pool(pool, target.ceph_conf.as_deref(), target.ceph_user.as_deref())
        .map_err(|error| error.to_string())?;
    // What a pool does not have would hold every run.
    let none = [
        ("path", target.path.is_some()),
        ("instance", target.instance.is_some()),
        ("device", target.device.is_some()),
        ("attachment", target.attachment.is_some()),
        ("import_vpus", target.import_vpus.is_some()),
        ("final_vpus", target.final_vpus.is_some()),
        ("kms_key", target.kms_key.is_some()),
        ("backup_policy", target.backup_policy.is_some()),
    ];
    match none.iter().find(|(_, is_set)| *is_set) {
        Some((key, _)) => Err(format!("a pool of RBD has no {key}: leave it out")),
        None => Ok(()),
    }
}

/// What volumes have and snapshots do not, and what images may be called.
fn check_repository(target: &Target) -> Result<(), String> {
    let none = [
        ("path", target.path.is_some()),
        ("pool", target.pool.is_some() || target.ceph_conf.is_some() || target.ceph_user.is_some()),
        ("instance", target.instance.is_some()),
        ("device", target.device.is_some() || target.device_root.is_some()),
        ("attachment", target.attachment.is_some()),
        ("import_vpus", target.import_vpus.is_some()),
        ("final_vpus", target.final_vpus.is_some()),
        ("kms_key", target.kms_key.is_some()),
        ("backup_policy", target.backup_policy.is_some()),
        ("move_gpt", target.move_gpt),
        ("worker", target.worker.is_some()),
        ("table oci", target.oci.is_some()),
    ];
    if let Some((key, _)) = none.iter().find(|(_, is_set)| *is_set) {
        return Err(format!("a repository as target has no {key}: leave it out"));
    }
    target.image_template().map(|_| ()).map_err(|what| format!("image: {what}"))
}

/// What other kinds have, and which would silently do nothing.
fn check_openstack(target: &Target) -> Result<(), String> {
    let wrong = if target.import_vpus.is_some() || target.final_vpus.is_some() {
        "import_vpus and final_vpus are OCI's: set volume_type and final_volume_type in the table openstack"
    } else if target.kms_key.is_some() {
        "kms_key is OCI's: Cinder encrypts by the type of a volume; set volume_type in the table openstack"
    } else if target.instance.is_some()
        || target.device.is_some()
        || target.attachment.is_some()
        || target.device_root.is_some()
        || target.move_gpt
    {
        "instance, device, device_root and move_gpt are for volumes that are attached; those of OpenStack are made of images"
    } else if target.backup_policy.is_some() {
        "backup_policy is OCI's: Cinder has no backup policies"
    } else {
        return Ok(());
    };
    Err(wrong.to_owned())
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(()),
        false => Err(format!("{what} {name:?}: a name has 1 to 64 letters, digits, '-', '_' or '.'")),
    }
}

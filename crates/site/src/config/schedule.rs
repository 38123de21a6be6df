//! What is begun at what times.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo};
use leeward_protect::job::{CheckInputs, RetainInputs};
use serde::Deserialize;

use super::Config;
use crate::schedule::{CatchUp, Job, Times, Trigger};
use crate::{ImportRequest, StateInputs};

/// The longest jitter: a run that may begin a day later has no time any more.
const JITTER_MAX: SignedDuration = SignedDuration::from_hours(24);

/// Something that is begun again and again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Whether it is one at all; for those that are there when nothing is said.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Times as a cron pattern of five fields.
    #[serde(default)]
    pub cron: Option<String>,
    /// Times at equal distances.
    #[serde(default)]
    pub every: Option<String>,
    /// The time zone of cron patterns; the machine's own where absent.
    #[serde(default)]
    pub timezone: Option<String>,
    /// How much later than its time a run may begin.
    #[serde(default)]
    pub jitter: Option<String>,
    /// What becomes of missed times.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// Times of full backups as a cron pattern.
    #[serde(default)]
    pub full_cron: Option<String>,
    /// Times of full backups at equal distances.
    #[serde(default)]
    pub full_every: Option<String>,
    /// Backs disks and machines up.
    #[serde(default)]
    pub backup: Option<BackupJob>,
    /// Checks the repository.
    #[serde(default)]
    pub check: Option<CheckInputs>,
    /// Lets go of snapshots, and of what is not needed any more.
    #[serde(default)]
    pub retain: Option<RetainInputs>,
    /// Stores the daemon's own state in the repository.
    #[serde(default)]
    pub state: Option<StateInputs>,
    /// Imports an object.
    #[serde(default)]
    pub import: Option<ImportRequest>,
}

/// Which disks and machines are backed up: all where neither are named.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupJob {
    /// The disks.
    pub disks: Vec<String>,
    /// The machines.
    pub machines: Vec<String>,
}

fn yes() -> bool {
    true
}

/// A length of time as people write it, a day being 24 hours.
pub(super) fn duration(key: &str, text: &str) -> Result<SignedDuration, String> {
    let hint = "give for example 30s, 15m, 1h or 7d";
    let wrong = |what: String| format!("{key} = {text:?}: {what}; {hint}");
    let span: Span = text.parse().map_err(|error: jiff::Error| wrong(error.to_string()))?;
    match span.to_duration(SpanRelativeTo::days_are_24_hours()) {
        Ok(length) if length.is_positive() => Ok(length),
        Ok(_) => Err(wrong("it is no time at all".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

impl Schedule {
    /// What is there where nothing is said: the daemon's own state, each hour.
    pub(super) fn of_state() -> Self {
        Self {
            enabled: true,
            every: Some("1h".to_owned()),
            jitter: Some("5m".to_owned()),
            state: Some(StateInputs::default()),
            ..Self::default()
        }
    }

    /// What it begins.
    ///
    /// # Errors
    /// It names nothing to begin, more than one thing, or something that the site does not have; in words.
    pub(crate) fn job(&self, config: &Config) -> Result<Job, String> {
        let given = [
            self.backup.is_some(),
            self.check.is_some(),
            self.retain.is_some(),
            self.state.is_some(),
            self.import.is_some(),
        ];
        if given.into_iter().filter(|is_given| *is_given).count() > 1 {
            return Err(format!("it begins several things: give one of {}", Job::KINDS.join(", ")));
        }
        if (self.full_cron.is_some() || self.full_every.is_some()) && self.backup.is_none() {
            return Err("full_cron and full_every are for backups".to_owned());
        }
        if let Some(backup) = &self.backup {
            Job::backup(config, &backup.disks, &backup.machines)
        } else if let Some(check) = &self.check {
            Job::check(config, check)
        } else if let Some(retain) = &self.retain {
            Job::retain(config, retain)
        } else if let Some(state) = &self.state {
            Job::state(config, state)
        } else if let Some(import) = &self.import {
            Job::import(config, import)
        } else {
            Err(format!("it begins nothing: give one of {}", Job::KINDS.join(", ")))
        }
    }

    /// When it begins it.
    ///
    /// # Errors
    /// Times that make no sense; in words.
    pub(crate) fn times(&self, site: &str, name: &str) -> Result<Times, String> {
        let zone = self.zone()?;
        let trigger = |prefix: &str, cron: Option<&String>, every: Option<&String>| match (cron, every) {
            (Some(pattern), None) => {
                Trigger::cron(pattern, zone.clone()).map(Some).map_err(|what| format!("{prefix}{what}"))
            }
            (None, Some(text)) => {
                let key = format!("{prefix}every");
                Trigger::every(duration(&key, text)?)
                    .map(Some)
                    .map_err(|what| format!("{key} = {text:?}: {what}"))
            }
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(format!("give {prefix}cron or {prefix}every, not both")),
        };
        let main = trigger("", self.cron.as_ref(), self.every.as_ref())?
            .ok_or("it has no times: give cron or every")?;
        let full = trigger("full_", self.full_cron.as_ref(), self.full_every.as_ref())?;
        let jitter =
            self.jitter.as_deref().map(|text| duration("jitter", text)).transpose()?.unwrap_or_default();
        let longest = match main {
            Trigger::Every(seconds) => SignedDuration::from_secs(seconds).min(JITTER_MAX),
            Trigger::Cron(..) => JITTER_MAX,
        };
        if jitter > longest {
            return Err("jitter is longer than the time from one run to the next, or than a day".to_owned());
        }
        Ok(Times { main, full, jitter, catch_up: self.catch_up, salt: format!("{site}\n{name}") })
    }

    fn zone(&self) -> Result<TimeZone, String> {
        match &self.timezone {
            None => Ok(TimeZone::system()),
            Some(name) => TimeZone::get(name).map_err(|error| {
                format!("timezone = {name:?}: {error}; give a name as Europe/Berlin, or UTC")
            }),
        }
    }

    /// Its times, for people, and for telling whether they were changed.
    pub(crate) fn text(&self) -> String {
        let of = |prefix: &str, cron: Option<&String>, every: Option<&String>| {
            let cron = cron.map(|pattern| format!("{prefix}{pattern}"));
            cron.or_else(|| every.map(|length| format!("{prefix}every {length}")))
        };
        let main = of("", self.cron.as_ref(), self.every.as_ref());
        let full = of("full ", self.full_cron.as_ref(), self.full_every.as_ref());
        let zone = self.timezone.as_ref().filter(|_| self.cron.is_some() || self.full_cron.is_some());
        let parts = [main, full, zone.map(|zone| format!("({zone})"))];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SITE: &str =
        "name='a'\nstate='s'\n[source.x]\nlocation='/x'\n[target.t]\nkind='directory'\npath='/t'\n";

    const REPOSITORY: &str = "[repository]\nlocation='/r'\n";
    const DISK: &str = "[disk.a]\nlocation='/a.raw'\nimage='web/root'\n";

    fn parse(schedule: &str) -> Result<Config, String> {
        Config::parse(&format!("{SITE}[schedule.nightly]\n{schedule}"), Path::new("/"))
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        let import = "import = { source = 'x', object = 'a.raw', target = 't' }";
        parse(&format!("cron = '0 3 * * *'\n{import}")).unwrap();
        parse(&format!("cron = '0 3 * * *'\nfull_every = '7d'\nbackup = {{}}\n{REPOSITORY}{DISK}")).unwrap();
        parse(&format!("cron = '0 3 * * *'\nretain = {{ keep = {{ daily = 7 }} }}\n{REPOSITORY}")).unwrap();
        parse(&format!("every = '1d'\njitter = '10m'\ncatch_up = 'none'\n{import}")).unwrap();
        for (text, says) in [
            (import.to_owned(), "no times"),
            ("cron = '0 3 * * *'".to_owned(), "begins nothing"),
            (format!("cron = '0 3 * * *'\nevery = '1h'\n{import}"), "not both"),
            (format!("cron = '0 25 * * *'\n{import}"), "0 25"),
            (format!("every = 'often'\n{import}"), "often"),
            (format!("every = '1h'\njitter = '2h'\n{import}"), "jitter"),
            (format!("cron = '0 3 * * *'\ntimezone = 'Mars/Base'\n{import}"), "Mars/Base"),
            (format!("every = '1h'\n{}", import.replace("'x'", "'y'")), "no source y"),
            (format!("every = '1h'\n{}", import.replace("'t'", "'u'")), "no target u"),
            (format!("every = '1h'\nnever = true\n{import}"), "never"),
            (format!("every = '1h'\nfull_every = '7d'\n{import}"), "are for backups"),
            (format!("every = '1h'\ncheck = {{}}\n{import}"), "several"),
            ("every = '1h'\ncheck = {}\n".to_owned(), "needs a [repository]"),
            (format!("every = '1h'\ncheck = {{ budget = 'soon' }}\n{REPOSITORY}"), "soon"),
            (format!("every = '1h'\nretain = {{ keep = {{}} }}\n{REPOSITORY}"), "no rule"),
            (format!("every = '1h'\nretain = {{ window = 'x' }}\n{REPOSITORY}"), "window"),
            (format!("every = '1h'\nbackup = {{}}\n{REPOSITORY}"), "no disk to back up"),
            (format!("every = '1h'\nstate = {{ keep = {{}} }}\n{REPOSITORY}"), "no rule"),
            (
                format!("every = '1h'\nstate = {{}}\n{REPOSITORY}[schedule.b]\nevery = '1d'\nstate = {{}}\n"),
                "several schedules",
            ),
            (format!("every = '1h'\nbackup = {{ disks = ['b'] }}\n{REPOSITORY}{DISK}"), "no [disk.b]"),
            (format!("every = '1h'\nbackup = {{}}\n{REPOSITORY}{DISK}limit_read = '1'"), "limit_read"),
            (
                format!("every = '1h'\nbackup = {{}}\n{REPOSITORY}{}", DISK.replace(".a]", ".A]")),
                "disk \"A\"",
            ),
        ] {
            let what = parse(&text).unwrap_err();
            assert!(what.contains(says), "{text}: {what}");
        }
        let what = parse(&format!("every = 'often'\n{import}")).unwrap_err();
        assert!(what.contains("[schedule.nightly]"), "{what}");
    }

    #[test]
    fn the_own_state_is_stored_each_hour_unless_something_else_is_said() {
        let schedules = |text: &str| {
            let config = Config::parse(&format!("{SITE}{text}"), Path::new("/")).unwrap();
            config.schedules.into_iter().map(|(name, schedule)| (name, schedule.text())).collect::<Vec<_>>()
        };
        let named = |name: &str, text: &str| vec![(name.to_owned(), text.to_owned())];
        assert_eq!(schedules(""), []);
        assert_eq!(schedules(REPOSITORY), named("state", "every 1h"));
        let mine = format!("{REPOSITORY}[schedule.mine]\nevery = '1d'\nstate = {{}}\n");
        assert_eq!(schedules(&mine), named("mine", "every 1d"));
        assert_eq!(
            schedules(&format!("{REPOSITORY}[schedule.state]\nenabled = false\n")),
            named("state", "")
        );
    }
}

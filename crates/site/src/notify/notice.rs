//! What people are told: a value that says everything, whatever way it then goes.
//!
//! Names and reasons come from outside (objects, clouds, file systems). They are bounded and made printable here, once, so that
//! no way of delivery has to mistrust them again.

use jiff::Timestamp;
use leeward_runs::state::StoredEvent;
use leeward_runs::{Run, RunId, RunState, StepState};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Occasion;
use crate::config::Notify;

/// The most characters of a text from outside.
const CHARACTERS_MAX: usize = 500;
/// The most characters of a name in a title.
const NAME_CHARACTERS_MAX: usize = 100;
/// The most steps that are told of.
const STEPS_MAX: usize = 10;

/// Something that is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// Its name; the same for the same thing, however often it is decided or sent.
    pub id: String,
    /// What it is, as `leeward.run.failed`.
    pub kind: String,
    /// When that was.
    pub at: Timestamp,
    /// The site.
    pub site: String,
    /// What it is about: a run's name, or a schedule's.
    pub about: Option<String>,
    /// In one line.
    pub title: String,
    /// In plain words: what, where, why, what to do next.
    pub text: String,
    /// Where a person sees more.
    pub link: Option<String>,
    /// The run.
    pub run: Option<RunFacts>,
}

/// A run, as receivers are told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunFacts {
    pub id: RunId,
    pub kind: String,
    pub subject: String,
    pub state: RunState,
    pub reason: Option<String>,
    pub by: String,
    pub schedule: Option<String>,
    pub source: Option<String>,
    pub target: Option<String>,
    pub created: Timestamp,
    pub finished: Option<Timestamp>,
    /// The steps that did not go well.
    pub steps: Vec<StepFacts>,
}

/// A step that did not go well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepFacts {
    pub name: String,
    pub state: StepState,
    pub message: String,
    pub hint: String,
}

/// What is told by whom, and where people find him.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    pub site: String,
    pub url: Option<String>,
}

/// A text from outside in one line that neither rules a terminal nor turns the direction of what stands around it.
pub(crate) fn plain(text: &str, characters_max: usize) -> String {
    let deceives = |character: char| matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let mut shown = String::new();
    for (number, character) in text.trim().chars().enumerate() {
        if number == characters_max {
            shown.push('…');
            break;
        }
        match character {
            '\n' | '\r' | '\t' => shown.push(' '),
            _ if character.is_control() || deceives(character) => shown.extend(character.escape_unicode()),
            _ => shown.push(character),
        }
    }
    shown
}

fn id(parts: &[&str]) -> String {
    let hash = blake3::hash(parts.join("\n").as_bytes()).to_hex();
    format!("msg_{}", &hash[..32])
}

impl RunFacts {
    /// A run as it stood when something happened to it; what it looks like now tells the rest.
    fn new(run: &Run, state: RunState, reason: Option<&str>) -> Self {
        let input =
            |key: &str| run.inputs.get(key).and_then(Value::as_str).map(|text| plain(text, CHARACTERS_MAX));
        let steps = run.steps.iter().filter(|_| state != RunState::Succeeded).filter_map(|step| {
            let failure = step.failure.as_ref()?;
            Some(StepFacts {
                name: step.name.clone(),
                state: step.state,
                message: plain(&failure.message, CHARACTERS_MAX),
                hint: plain(&failure.hint, CHARACTERS_MAX),
            })
        });
        Self {
            id: run.id.clone(),
            kind: run.plan.kind.clone(),
            subject: plain(&run.subject, CHARACTERS_MAX),
            state,
            reason: reason.map(|reason| plain(reason, CHARACTERS_MAX)),
            by: plain(&run.by, NAME_CHARACTERS_MAX),
            schedule: run.labels.get("schedule").cloned(),
            source: input("source"),
            target: input("target"),
            created: run.created,
            finished: run.finished,
            steps: steps.take(STEPS_MAX).collect(),
        }
    }

    fn what(&self) -> String {
        let mut subject: String = self.subject.chars().take(NAME_CHARACTERS_MAX).collect();
        if subject.len() < self.subject.len() {
            subject.push('…');
        }
        format!("{} of {subject}", self.kind)
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.reason.as_ref().map(|reason| format!("Why: {reason}")));
        for step in &self.steps {
            lines.push(format!("Step {}: {}", step.name, step.message));
            lines.push(format!("  What to do: {}", step.hint));
        }
        let schedule = self.schedule.as_ref().map(|name| format!(", schedule {name}")).unwrap_or_default();
        let end = self.finished.map(|end| format!(", ended {end:.0}")).unwrap_or_default();
        lines.push(String::new());
        lines.push(format!("Begun {:.0} by {}{schedule}{end}.", self.created, self.by));
        if let (Some(source), Some(target)) = (&self.source, &self.target) {
            lines.push(format!("From source {source} to target {target}."));
        }
        lines
    }
}

/// What a person can do when a run has come to a state.
fn next(state: RunState, run: &RunId) -> String {
    match state {
        RunState::Held => format!(
            "It waits for a person: mend what is wrong, then run `leeward run retry {run}`; or give it up with \
             `leeward run cancel {run}`."
        ),
        RunState::UndoFailed => format!(
            "Something that it made is still there. Mend what is wrong and run `leeward run retry {run}`, or remove it by hand."
        ),
        RunState::Failed => {
            format!(
                "What it had made is undone. See what it did with `leeward run log {run}`, and begin it anew."
            )
        }
        _ => format!("See it with `leeward run show {run}`."),
    }
}

impl Teller {
    /// Tells that a run has come to a state. None where nobody is told of that.
    pub fn run(
        &self,
        event: &StoredEvent,
        state: RunState,
        reason: Option<&str>,
        run: &Run,
    ) -> Option<Notice> {
        let occasion = Occasion::of(state)?;
        let facts = RunFacts::new(run, state, reason);
        let came = match occasion {
            Occasion::Failed => "failed",
            Occasion::Held => "is held",
            Occasion::UndoFailed => "failed, and could not be undone",
            Occasion::Cancelled => "was cancelled",
            _ => "succeeded",
        };
        let title = format!("{} {came}", facts.what());
        let link = self.url.as_ref().map(|url| format!("{}/#/runs/{}", url.trim_end_matches('/'), run.id));
        let mut lines = vec![format!("The {title} at site {}.", self.site), String::new()];
        lines.extend(facts.lines());
        lines.push(next(state, &run.id));
        if run.state != state {
            lines.push(format!("Since then it went on; it is {} now.", run.state.name()));
        }
        Some(Notice {
            id: id(&["run", &self.site, run.id.as_str(), &event.number.to_string()]),
            kind: format!("leeward.run.{}", occasion.name()),
            at: event.at,
            about: Some(run.id.to_string()),
            run: Some(facts),
            ..self.notice(title, lines, link)
        })
    }

    /// Tells that a run which nothing more is known of has come to a state: it is forgotten, or damaged.
    pub fn lost_run(&self, event: &StoredEvent, state: RunState, reason: Option<&str>) -> Option<Notice> {
        let occasion = Occasion::of(state)?;
        let title = format!("run {} came to {}", event.run, state.name());
        let reason = reason.map(|reason| format!("Why: {}", plain(reason, CHARACTERS_MAX)));
        let lines = [format!("At site {}, {title}. Its document cannot be read any more.", self.site)];
        Some(Notice {
            id: id(&["run", &self.site, event.run.as_str(), &event.number.to_string()]),
            kind: format!("leeward.run.{}", occasion.name()),
            at: event.at,
            about: Some(event.run.to_string()),
            ..self.notice(title, lines.into_iter().chain(reason).collect(), None)
        })
    }

    /// Tells that a slot of a schedule passed without its run; `note` says what came of it.
    pub fn missed(&self, schedule: &str, slot: Timestamp, note: &str, run: Option<&RunId>) -> Notice {
        let note = plain(note, CHARACTERS_MAX);
        let title = format!("schedule {schedule}: {note}");
        let mut lines =
            vec![format!("Schedule {schedule} of site {}, its time {slot:.0}: {note}.", self.site)];
        lines.extend(
            run.map(|run| format!("The run in question: {run}. See it with `leeward run show {run}`.")),
        );
        lines.push("See the schedule with `leeward schedule list`.".to_owned());
        let link = run.zip(self.url.as_ref());
        let link = link.map(|(run, url)| format!("{}/#/runs/{run}", url.trim_end_matches('/')));
        Notice {
            id: id(&["missed", &self.site, schedule, &slot.to_string()]),
            kind: "leeward.schedule.missed".to_owned(),
            at: slot,
            about: Some(schedule.to_owned()),
            ..self.notice(title, lines, link)
        }
    }

    /// Tells that something keeps the daemon from its work, or does so no more.
    pub fn trouble(&self, run: Option<&RunId>, what: &str, since: Timestamp, over: bool) -> Notice {
        let stands = match (run, over) {
            (None, false) => "runs stand still".to_owned(),
            (None, true) => "runs go on".to_owned(),
            (Some(run), false) => format!("run {run} stands still"),
            (Some(run), true) => format!("run {run} goes on"),
        };
        let what = plain(what, CHARACTERS_MAX);
        let lines = match over {
            false => vec![
                format!("At site {}, {stands} since {since:.0}.", self.site),
                format!("Why: {what}"),
                "Nothing is lost: mend it, and they go on. The daemon's log says more.".to_owned(),
            ],
            true => vec![format!("At site {}, {stands}: what kept them is over. It was: {what}", self.site)],
        };
        let kind = if over { "leeward.trouble.over" } else { "leeward.trouble.begun" };
        let about = run.map(RunId::to_string);
        Notice {
            id: id(&[kind, &self.site, about.as_deref().unwrap_or_default(), &since.to_string()]),
            kind: kind.to_owned(),
            about,
            ..self.notice(stands, lines, None)
        }
    }

    /// What a person sends to see whether it arrives.
    pub fn test(&self, receiver: &str, by: &str) -> Notice {
        let by = plain(by, NAME_CHARACTERS_MAX);
        let lines = vec![format!(
            "{by} asked the daemon of site {} to try whether receiver {receiver} is reached. Nothing has happened.",
            self.site
        )];
        let now = Timestamp::now();
        Notice {
            id: id(&["test", &self.site, receiver, &now.to_string()]),
            kind: "leeward.test".to_owned(),
            ..self.notice("a test".to_owned(), lines, self.url.clone())
        }
    }

    fn notice(&self, title: String, lines: Vec<String>, link: Option<String>) -> Notice {
        let mut text = lines.join("\n");
        if let Some(link) = &link {
            text = format!("{text}\n\n{link}");
        }
        Notice {
            id: String::new(),
            kind: String::new(),
            at: Timestamp::now(),
            site: self.site.clone(),
            about: None,
            title,
            text,
            link,
            run: None,
        }
    }
}

impl Notify {
    /// Whether a receiver wants to be told of a run that has come to a state.
    pub(super) fn wants_run(&self, facts: &RunFacts) -> bool {
        let passes = |names: &[String], name: Option<&String>| {
            names.is_empty() || name.is_some_and(|name| names.contains(name))
        };
        Occasion::of(facts.state).is_some_and(|occasion| self.on.contains(&occasion))
            && passes(&self.kinds, Some(&facts.kind))
            && passes(&self.sources, facts.source.as_ref())
            && passes(&self.targets, facts.target.as_ref())
            && passes(&self.schedules, facts.schedule.as_ref())
    }

    /// Whether a receiver wants to be told that a schedule, which begins runs of a kind, missed a time.
    pub(super) fn wants_missed(&self, schedule: &str, kind: &str) -> bool {
        let passes =
            |names: &[String], name: &str| names.is_empty() || names.iter().any(|found| found == name);
        self.on.contains(&Occasion::Missed)
            && passes(&self.schedules, schedule)
            && passes(&self.kinds, kind)
            && self.sources.is_empty()
            && self.targets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use leeward_runs::{Event, Failure, OnCancel, OnFailure, Plan};

    use super::*;

    fn run(subject: &str) -> Run {
        let now = Timestamp::UNIX_EPOCH;
        let plan = Plan {
            kind: "import".to_owned(),
            version: 1,
            steps: Vec::new(),
            on_failure: OnFailure::Undo,
            on_cancel: OnCancel::Undo,
            pools: BTreeSet::new(),
        };
        let inputs = serde_json::json!({ "source": "inbox", "target": "volumes" });
        let mut run = Run::new(RunId::new(now).unwrap(), subject, plan, inputs, "ann", now);
        run.state = RunState::Failed;
        run.labels.insert("schedule".to_owned(), "nightly".to_owned());
        let mut step = leeward_runs::StepRecord::new("write");
        step.failure = Some(Failure {
            message: "disk full\u{1b}[2J".to_owned(),
            hint: "make room".to_owned(),
            passing: false,
            undo: false,
        });
        run.steps.push(step);
        run
    }

    fn event(run: &Run, number: u64) -> StoredEvent {
        let moved = Event::Moved { state: run.state, reason: None };
        StoredEvent { number, run: run.id.clone(), at: Timestamp::UNIX_EPOCH, event: moved }
    }

    #[test]
    fn a_notice_says_what_where_why_and_what_next_in_plain_words() {
        let teller = Teller { site: "home".to_owned(), url: Some("https://l.example/".to_owned()) };
        let failed = run("a.raw\r\nBcc: all@example.org\u{202e}");
        let notice = teller.run(&event(&failed, 7), RunState::Failed, Some("write failed"), &failed).unwrap();
        assert_eq!(notice.title, "import of a.raw  Bcc: all@example.org\\u{202e} failed");
        for wanted in
            ["Why: write failed", "Step write: disk full\\u{1b}[2J", "make room", "schedule nightly"]
        {
            assert!(notice.text.contains(wanted), "{wanted}: {}", notice.text);
        }
        assert_eq!(notice.link.unwrap(), format!("https://l.example/#/runs/{}", failed.id));
        assert_eq!(teller.run(&event(&failed, 7), RunState::Running, None, &failed), None);
        // The same thing has the same name, another one another.
        let again = teller.run(&event(&failed, 7), RunState::Failed, None, &failed).unwrap();
        let later = teller.run(&event(&failed, 8), RunState::Failed, None, &failed).unwrap();
        assert!(again.id == notice.id && later.id != notice.id);
        let long = teller.run(&event(&failed, 7), RunState::Failed, None, &run(&"x".repeat(5000))).unwrap();
        assert!(long.title.chars().count() < 150 && long.text.len() < 5000);
    }

    #[test]
    fn a_receiver_is_told_what_it_wants() {
        let on = |on: &[Occasion]| Notify {
            on: on.iter().copied().collect::<BTreeSet<_>>(),
            kinds: Vec::new(),
            sources: Vec::new(),
            targets: Vec::new(),
            schedules: Vec::new(),
            give_up_after: None,
            webhook: None,
            mail: None,
        };
        let failed = run("a.raw");
        let facts = RunFacts::new(&failed, RunState::Failed, None);
        let names = |name: &str| vec![name.to_owned()];
        let wants = |change: &dyn Fn(&mut Notify)| {
            let mut notify = on(&[Occasion::Failed, Occasion::Missed]);
            change(&mut notify);
            (notify.wants_run(&facts), notify.wants_missed("nightly", "import"))
        };
        assert_eq!(wants(&|_| ()), (true, true));
        assert_eq!(wants(&|notify| notify.on = [Occasion::Held].into()), (false, false));
        assert_eq!(wants(&|notify| notify.kinds = names("import")), (true, true));
        assert_eq!(wants(&|notify| notify.kinds = names("backup")), (false, false));
        assert_eq!(wants(&|notify| notify.sources = names("inbox")), (true, false));
        assert_eq!(wants(&|notify| notify.targets = names("other")), (false, false));
        assert_eq!(wants(&|notify| notify.schedules = names("nightly")), (true, true));
        assert_eq!(wants(&|notify| notify.schedules = names("weekly")), (false, false));
        let backup = RunFacts { source: None, ..facts.clone() };
        assert!(!Notify { sources: names("inbox"), ..on(&[Occasion::Failed]) }.wants_run(&backup));
    }
}

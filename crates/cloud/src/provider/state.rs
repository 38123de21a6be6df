//! States of things, in our words and in the provider's.

use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Result};

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The thing can be used.
    Use,
    /// The thing is gone.
    End,
}

/// How far a thing is on the way to a [`Goal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is there.
    Ready,
    /// It may get there by itself: ask again.
    Changing,
    /// It will not get there.
    Broken,
}

/// A state that can be judged.
pub trait State: Copy {
    /// How far this state is on the way to a goal.
    fn progress(self, goal: Goal) -> Progress;
}

/// A state, and the provider's own word for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported<S> {
    /// The state.
    pub state: S,
    /// What the provider calls it; shown to people.
    pub word: String,
}

impl<S: State> Reported<S> {
    /// A state under the provider's word.
    #[must_use]
    pub fn new(state: S, word: impl Into<String>) -> Self {
        Self { state, word: word.into() }
    }

    /// How far it is on the way to a goal.
    #[must_use]
    pub fn progress(&self, goal: Goal) -> Progress {
        self.state.progress(goal)
    }

    /// Whether it is neither gone nor going; a broken one is live, as somebody has to remove it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let (usable, ended) = (self.progress(Goal::Use), self.progress(Goal::End));
        usable == Progress::Changing || ended == Progress::Broken
    }
}

/// How far something that is to go has come, from what asking for it gave: that it is not found is the end.
///
/// # Errors
/// The provider failed otherwise.
pub fn ending<S: State>(asked: Result<Reported<S>>) -> Result<Progress> {
    match asked {
        Ok(reported) => Ok(reported.progress(Goal::End)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Progress::Ready),
        Err(error) => Err(error),
    }
}

/// States of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Being made, or changed in size or performance.
    Changing,
    /// Usable.
    Available,
    /// Being removed.
    Deleting,
    /// Gone, though the provider still tells of it.
    Deleted,
    /// Not usable, and never again by itself; to be removed.
    Faulty,
    /// A word that is not known here.
    Unknown,
}

impl State for VolumeState {
    fn progress(self, goal: Goal) -> Progress {
        match (self, goal) {
            (Self::Available, Goal::Use) | (Self::Deleted, Goal::End) => Progress::Ready,
            (Self::Changing | Self::Unknown, Goal::Use) => Progress::Changing,
            (Self::Deleting | Self::Unknown, Goal::End) => Progress::Changing,
            (Self::Faulty | Self::Deleting | Self::Deleted, Goal::Use) => Progress::Broken,
            // It does not go by itself: removing it has to be asked for (again).
            (Self::Available | Self::Changing | Self::Faulty, Goal::End) => Progress::Broken,
        }
    }
}

/// States of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// On its way.
    Attaching,
    /// The device is there.
    Attached,
    /// Being undone.
    Detaching,
    /// Undone.
    Detached,
    /// A word that is not known here.
    Unknown,
}

impl State for AttachmentState {
    fn progress(self, goal: Goal) -> Progress {
        match (self, goal) {
            (Self::Attached, Goal::Use) | (Self::Detached, Goal::End) => Progress::Ready,
            (Self::Attaching | Self::Unknown, Goal::Use) => Progress::Changing,
            (Self::Detaching | Self::Unknown, Goal::End) => Progress::Changing,
            (Self::Detaching | Self::Detached, Goal::Use) => Progress::Broken,
            (Self::Attaching | Self::Attached, Goal::End) => Progress::Broken,
        }
    }
}

/// States of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Being made or started.
    Starting,
    /// Running.
    Running,
    /// Being stopped.
    Stopping,
    /// Stopped, and it can be started.
    Stopped,
    /// Being removed.
    Terminating,
    /// Gone, though the provider still tells of it; also how a launch ends that failed.
    Terminated,
    /// A word that is not known here.
    Unknown,
}

impl State for InstanceState {
    fn progress(self, goal: Goal) -> Progress {
        match (self, goal) {
            (Self::Running, Goal::Use) | (Self::Terminated, Goal::End) => Progress::Ready,
            (Self::Starting | Self::Unknown, Goal::Use) => Progress::Changing,
            (Self::Terminating | Self::Unknown, Goal::End) => Progress::Changing,
            (_, Goal::Use) => Progress::Broken,
            (_, Goal::End) => Progress::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AttachmentState, Goal, InstanceState, Progress, Reported, State, VolumeState};

    fn both<S: State>(state: S) -> (Progress, Progress) {
        (state.progress(Goal::Use), state.progress(Goal::End))
    }

    #[test]
    fn a_state_is_judged_by_what_is_waited_for() {
        use Progress::{Broken, Changing, Ready};
        assert_eq!(both(VolumeState::Available), (Ready, Broken));
        assert_eq!(both(VolumeState::Changing), (Changing, Broken));
        assert_eq!(both(VolumeState::Deleting), (Broken, Changing));
        assert_eq!(both(VolumeState::Deleted), (Broken, Ready));
        assert_eq!(both(VolumeState::Faulty), (Broken, Broken));
        assert_eq!(both(AttachmentState::Detached), (Broken, Ready));
        assert_eq!(both(AttachmentState::Attaching), (Changing, Broken));
        assert_eq!(both(InstanceState::Terminated), (Broken, Ready));
        assert_eq!(both(InstanceState::Stopped), (Broken, Broken));
        assert_eq!(both(InstanceState::Unknown), (Changing, Changing));
    }

    #[test]
    fn what_goes_is_not_live() {
        assert!(Reported::new(VolumeState::Changing, "PROVISIONING").is_live());
        assert!(Reported::new(VolumeState::Faulty, "FAULTY").is_live());
        assert!(Reported::new(VolumeState::Unknown, "NEW_WORD").is_live());
        assert!(!Reported::new(VolumeState::Deleting, "TERMINATING").is_live());
    }
}

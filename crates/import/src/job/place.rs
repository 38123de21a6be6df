//! Who writes: the daemon itself, on a machine of the provider.

use std::sync::Arc;

use leeward_runs::step::{Context, Fault, Outcome, Step};

use super::{Inputs, Places, fault};

/// `create_instance`.
pub(super) struct CreateInstance(pub Arc<dyn Places>);

impl Step for CreateInstance {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: Inputs = context.inputs()?;
        let target = self.0.target(&inputs.target).map_err(fault::of_place)?;
        Ok(Outcome::Skipped(match target.writer {
            Some(writer) => format!("the volume is written from instance {writer}, which is there already"),
            None => "the volume is written from here; this target needs no worker".to_owned(),
        }))
    }
}

fn no_worker() -> Outcome {
    Outcome::Skipped("no worker was launched for this run".to_owned())
}

/// `get_private_ip`.
pub(super) struct PrivateAddress;

impl Step for PrivateAddress {
    fn act(&self, _: &Context) -> Result<Outcome, Fault> {
        Ok(no_worker())
    }
}

/// `wait_cloud_init_execution`.
pub(super) struct WaitForWorker;

impl Step for WaitForWorker {
    fn act(&self, _: &Context) -> Result<Outcome, Fault> {
        Ok(no_worker())
    }
}

/// `terminate_instance`.
pub(super) struct TerminateInstance;

impl Step for TerminateInstance {
    fn act(&self, _: &Context) -> Result<Outcome, Fault> {
        Ok(no_worker())
    }
}

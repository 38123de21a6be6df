//! The plan of an import.

use std::collections::BTreeSet;

use leeward_runs::{OnCancel, OnFailure, Plan, Retry, StepPlan};

use super::Inputs;

/// What runs of this kind are called.
pub const KIND: &str = "import";
/// The version of the steps.
pub const PLAN_VERSION: u32 = 1;

/// The steps' names and what they do.
pub const STEPS: [(&str, &str); 14] = [
    ("get_file_head", "Look at the object"),
    ("create_instance", "Launch a worker"),
    ("get_private_ip", "Learn the worker's address"),
    ("wait_cloud_init_execution", "Wait until the worker reports"),
    ("download_image_from_bucket", "Open the image where it lies"),
    ("create_block_volume", "Make the volume"),
    ("attach_block_volume", "Attach the volume"),
    ("wait_for_attachment", "Wait for the device"),
    ("write_image_to_bv", "Write, read back, compare"),
    ("fsck_on_block_volume", "Check the file systems"),
    ("detach_block_volume", "Detach the volume"),
    ("terminate_instance", "Remove the worker"),
    ("update_performance_of_bv", "Set the performance"),
    ("setup_backup_policy", "Assign the backup policy"),
];

/// How long a step may take, in seconds.
fn deadline(step: &str) -> Option<u64> {
    match step {
        // As long as the disk is large (a compressed one is expanded once to be measured); what stands still is noticed by the
        // requests' own limits.
        "download_image_from_bucket" | "write_image_to_bv" => None,
        "fsck_on_block_volume" => Some(6 * 3600),
        _ => Some(45 * 60),
    }
}

fn step(number: usize) -> StepPlan {
    let (name, title) = STEPS[number];
    StepPlan {
        name: name.to_owned(),
        title: title.to_owned(),
        after: number.checked_sub(1).map(|before| STEPS[before].0.to_owned()).into_iter().collect(),
        retry: Retry { attempts: 6, first_ms: 1_000, most_ms: 60_000 },
        deadline_seconds: deadline(name),
        may_skip: matches!(
            name,
            "fsck_on_block_volume"
                | "terminate_instance"
                | "update_performance_of_bv"
                | "setup_backup_policy"
        ),
        has_undo: matches!(name, "create_instance" | "create_block_volume" | "attach_block_volume"),
    }
}

/// The plan of an import: 14 steps in a row. What a failed step leaves is kept for a person to mend; what a cancelled run
/// has made is removed.
#[must_use]
pub fn plan(inputs: &Inputs) -> Plan {
    Plan {
        kind: KIND.to_owned(),
        version: PLAN_VERSION,
        steps: (0..STEPS.len()).map(step).collect(),
        on_failure: OnFailure::Hold,
        on_cancel: OnCancel::Undo,
        pools: pools(inputs),
    }
}

/// The pools of which an import takes a place.
#[must_use]
pub fn pools(inputs: &Inputs) -> BTreeSet<String> {
    BTreeSet::from(["imports".to_owned(), format!("target:{}", inputs.target)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_the_chain_that_people_know() {
        let plan = plan(&Inputs::default());
        plan.check().unwrap();
        let order: Vec<_> = plan.in_order().iter().map(|at| plan.steps[*at].name.as_str()).collect();
        assert_eq!(order, STEPS.map(|(name, _)| name));
    }
}

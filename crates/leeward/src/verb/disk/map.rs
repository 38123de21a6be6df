//! `leeward disk map`.

use std::process::ExitCode;

use clap::Args;
use leeward_disk::{Extent, ExtentKind, walk_extents};

use super::OpenArguments;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;

#[derive(Args)]
pub struct Map {
    /// Image file, block device or NBD URL
    image: String,
    #[command(flatten)]
    open: OpenArguments,
}

enum Stop {
    Disk(leeward_disk::Error),
    Interrupted,
}

impl From<leeward_disk::Error> for Stop {
    fn from(error: leeward_disk::Error) -> Self {
        Self::Disk(error)
    }
}

impl Map {
    /// Prints extents as they are found: a large disk has too many to keep.
    pub fn run(self, output: &Output) -> Result<ExitCode, Failure> {
        let source = self.open.open(&self.image)?;
        output.line(format!("{:>20} {:>20}  kind", "offset", "length"));
        let mut pending: Option<Extent> = None;
        let walked = walk_extents(source.as_ref(), 0, source.virtual_size(), |extent| {
            if interrupt::is_requested() {
                return Err(Stop::Interrupted);
            }
            match &mut pending {
                Some(last) if last.kind == extent.kind => last.length += extent.length,
                _ => pending.replace(extent).iter().for_each(|extent| show(output, extent)),
            }
            Ok(())
        });
        match walked {
            Ok(()) => pending.iter().for_each(|extent| show(output, extent)),
            Err(Stop::Interrupted) => return Err(Failure::new(Code::Interrupted, "interrupted")),
            Err(Stop::Disk(error)) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(output: &Output, extent: &Extent) {
    if output.is_json() {
        output.json_line(extent);
        return;
    }
    let kind = match extent.kind {
        ExtentKind::Data => "data",
        ExtentKind::Zero => "zero",
        ExtentKind::Unallocated => "unallocated",
    };
    output.line(format!("{:>20} {:>20}  {kind}", extent.offset, extent.length));
}

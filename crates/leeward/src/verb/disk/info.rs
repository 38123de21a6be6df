//! `leeward disk info`.

use std::process::ExitCode;

use clap::Args;

use super::OpenArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::size;

#[derive(Args)]
pub struct Info {
    /// Image file, block device or NBD URL
    image: String,
    #[command(flatten)]
    open: OpenArguments,
}

impl Info {
    pub fn run(self, output: &Output) -> Result<ExitCode, Failure> {
        let info = self.open.open(&self.image)?.info();
        if output.is_json() {
            output.json_line(&info);
            return Ok(ExitCode::SUCCESS);
        }
        output.line(format!("format: {}", info.format));
        output.line(format!("virtual size: {} ({} bytes)", size::show(info.virtual_size), info.virtual_size));
        if let Some(bytes) = info.allocated_bytes {
            output.line(format!("takes: {} ({bytes} bytes)", size::show(bytes)));
        }
        for (name, value) in &info.details {
            output.line(format!("{name}: {value}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

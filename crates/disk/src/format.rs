//! Names of the formats.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A disk image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
    /// VMware virtual machine disk.
    Vmdk,
    /// Microsoft virtual hard disk (also known as vpc).
    Vhd,
    /// Microsoft virtual hard disk, version 2.
    Vhdx,
    /// VirtualBox disk image.
    Vdi,
    /// A disk served over the network block device protocol.
    Nbd,
}

impl Format {
    /// All formats that lie in files.
    pub const FILES: [Self; 6] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vhd, Self::Vhdx, Self::Vdi];

    /// The name used on the command line and in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Nbd => "nbd",
        }
    }

    /// The format that a file name's ending announces, if it announces one.
    #[must_use]
    pub fn from_extension(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "raw" | "img" | "dd" => Some(Self::Raw),
            "qcow2" | "qcow" => Some(Self::Qcow2),
            "vmdk" => Some(Self::Vmdk),
            "vhd" | "vpc" | "avhd" => Some(Self::Vhd),
            "vhdx" | "avhdx" => Some(Self::Vhdx),
            "vdi" => Some(Self::Vdi),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::FILES
            .into_iter()
            .find(|format| format.name() == text)
            .or_else(|| (text == "vpc").then_some(Self::Vhd))
            .ok_or_else(|| format!("unknown format {text:?}: use raw, qcow2, vmdk, vhd, vhdx or vdi"))
    }
}

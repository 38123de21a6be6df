//! The running program itself, as temporary workers fetch it: they need nothing but what the daemon is.

use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// The running program. Its file may have been replaced since it was started; this is what runs.
const RUNNING: &str = "/proc/self/exe";

/// Opens the running program, and says how many bytes it has.
///
/// # Errors
/// The system does not show it.
pub fn open() -> std::io::Result<(File, u64)> {
    let file = File::open(RUNNING)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// SHA-256 of the running program, as 64 hexadecimal digits. It is read once.
///
/// # Errors
/// It cannot be read; in words.
pub fn sha256() -> Result<String, String> {
    static DIGEST: OnceLock<String> = OnceLock::new();
    if let Some(digest) = DIGEST.get() {
        return Ok(digest.clone());
    }
    let digest = measure().map_err(|error| format!("{RUNNING}: cannot read the running program: {error}"))?;
    Ok(DIGEST.get_or_init(|| digest).clone())
}

fn measure() -> std::io::Result<String> {
    let (mut file, _) = open()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

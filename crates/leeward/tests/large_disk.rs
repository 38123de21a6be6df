//! A disk of a TiB with little in it costs what that little costs, in reading, memory and stored bytes.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const TIB: u64 = 1 << 40;
/// Stretches of data, evenly spread.
const STRETCHES: u64 = 64;
const STRETCH_BYTES: u64 = 2 << 20;
/// The bound that `docs/operations.md` states, without anything for unique data.
const MEMORY_BYTES_MAX: u64 = 300 << 20;

/// Runs the command and returns its output with the most memory that it held.
fn run(arguments: &[&str]) -> (serde_json::Value, u64) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_leeward"))
        .args(arguments)
        .arg("--json")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
        most = most.max(kib << 10);
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{arguments:?}: {output}");
    (serde_json::from_str(output.lines().next().unwrap_or("null")).unwrap(), most)
}

fn make_disk(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(TIB).unwrap();
    let mut data = vec![0; STRETCH_BYTES as usize];
    for stretch in 0..STRETCHES {
        for (index, word) in data.chunks_exact_mut(8).enumerate() {
            let mixed = (stretch << 32 | (index as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&mixed.to_le_bytes());
        }
        file.write_all_at(&data, stretch * (TIB / STRETCHES)).unwrap();
    }
}

#[test]
fn a_sparse_disk_of_a_tebibyte_costs_its_data() {
    let directory =
        tempfile::tempdir_in(std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into())).unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (disk, repository, copy) = (path("disk.raw"), path("repository"), path("copy.raw"));
    make_disk(Path::new(&disk));
    run(&["repo", "init", "-r", &repository]);

    let (first, memory) = run(&["backup", "-r", &repository, &disk, "huge"]);
    let data = STRETCHES * STRETCH_BYTES;
    assert_eq!(first["virtual_size"], TIB);
    assert_eq!(first["statistics"]["data_bytes"], data);
    assert!(first["statistics"]["read_bytes"].as_u64().unwrap() <= data + STRETCHES * 8192, "{first}");
    assert!(memory < MEMORY_BYTES_MAX, "the backup held {memory} bytes");

    let (second, memory) = run(&["backup", "-r", &repository, &disk, "huge"]);
    assert_eq!(second["statistics"]["new_bytes"], 0);
    assert!(second["statistics"]["stored_bytes"].as_u64().unwrap() * 1000 <= data, "{second}");
    assert!(memory < MEMORY_BYTES_MAX, "the second backup held {memory} bytes");

    let (restored, memory) = run(&["restore", "-r", &repository, "huge", &copy]);
    assert_eq!(restored["restore"]["written_bytes"], data);
    assert!(memory < MEMORY_BYTES_MAX, "the restore held {memory} bytes");
    let (verified, _) = run(&["verify-restore", "-r", &repository, "huge", &copy]);
    assert_eq!(verified["equal"], true);
    assert!(fs::metadata(&copy).unwrap().blocks() * 512 < 2 * data, "the copy is sparse");
}

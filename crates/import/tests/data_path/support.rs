//! Images made by qemu-img, places to put them, and one import from end to end.

use std::fs::{File, OpenOptions};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leeward_import::image::{Disk, ImageOptions, ObjectImage};
use leeward_import::verify::{Verified, VerifyOptions, verify};
use leeward_import::write::{WriteOptions, Written, write};
use leeward_import::{Quiet, Result, VolumeTarget, image};
use leeward_remote::Environment;
use leeward_remote::objects::{Metadata, SharedObjects, open};

pub const MIB: u64 = 1 << 20;

/// A bucket that is empty: of a directory, or of a server that is up.
pub struct Bucket {
    pub location: String,
    pub variables: Vec<(String, String)>,
    pub objects: SharedObjects,
    folder: Option<tempfile::TempDir>,
}

fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("import-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

fn beds() -> PathBuf {
    std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from)
}

fn answers(endpoint: &str) -> bool {
    let address = endpoint.split_once("://").unwrap().1.parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}

fn skipped<T>(why: &str) -> Option<T> {
    println!("SKIPPED: {why}");
    None
}

pub fn oci_endpoint() -> String {
    format!("http://127.0.0.1:{}", std::env::var("OCI_PORT").unwrap_or_else(|_| "12780".to_owned()))
}

impl Bucket {
    pub fn directory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().to_str().unwrap().to_owned();
        let objects = open(&location, &Environment::of(&[])).unwrap();
        Self { location, variables: Vec::new(), objects, folder: Some(folder) }
    }

    fn remote(location: String, variables: Vec<(String, String)>) -> Self {
        let environment = environment(&variables);
        let parsed = leeward_remote::Location::parse(&location).unwrap().unwrap();
        leeward_remote::connect(&parsed, &environment).unwrap().bare.make().unwrap();
        let objects = open(&location, &environment).unwrap();
        Self { location, variables, objects, folder: None }
    }

    /// Ceph's gateway.
    pub fn ceph() -> Option<Self> {
        let Ok(text) = std::fs::read_to_string(beds().join("ceph/env")) else {
            return skipped("the test bed ceph was never started");
        };
        let value = |name: &str| {
            let at = text.find(&format!("{name}=")).unwrap() + name.len() + 1;
            text[at..].split_whitespace().next().unwrap().to_owned()
        };
        let endpoint = value("TB_RGW");
        if !answers(&endpoint) {
            return skipped("the test bed ceph is not up");
        }
        let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"];
        let variables = names.iter().map(|name| ((*name).to_owned(), value(name))).collect();
        Some(Self::remote(format!("s3://leeward-tests/{}?endpoint={endpoint}", prefix()), variables))
    }

    /// The test bed of OCI.
    pub fn oci() -> Option<Self> {
        let state = beds().join("oci/state");
        let Ok(site) = std::fs::read_to_string(state.join("site.json")) else {
            return skipped("the test bed oci was never started");
        };
        let endpoint = oci_endpoint();
        if !answers(&endpoint) {
            return skipped("the test bed oci is not up");
        }
        let site: serde_json::Value = serde_json::from_str(&site).unwrap();
        let variables =
            vec![("OCI_CONFIG_FILE".to_owned(), state.join("config").to_str().unwrap().to_owned())];
        let namespace = site["namespace"].as_str().unwrap();
        let location = format!("oci://leeward-tests@{namespace}/{}?endpoint={endpoint}", prefix());
        Some(Self::remote(location, variables))
    }

    /// All that are up.
    pub fn all() -> Vec<Self> {
        [Some(Self::directory()), Self::ceph(), Self::oci()].into_iter().flatten().collect()
    }

    pub fn put(&self, name: &str, path: &Path) {
        self.put_with(name, path, &[]);
    }

    pub fn put_with(&self, name: &str, path: &Path, metadata: &[(&str, &str)]) {
        let metadata: Metadata =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.objects.put(name, &mut File::open(path).unwrap(), &metadata).unwrap();
    }

    pub fn put_bytes(&self, name: &str, bytes: &[u8]) {
        self.objects.put(name, &mut &*bytes, &Metadata::new()).unwrap();
    }

    pub fn open(&self, name: &str, options: &ImageOptions) -> Result<ObjectImage> {
        let head = self.objects.head(name).unwrap();
        image::open(&self.objects, name, &head, options, &Quiet)
    }

    pub fn disk(&self, name: &str) -> Disk {
        self.open(name, &ImageOptions::default()).unwrap().disks.remove(0)
    }

    pub fn received(&self) -> u64 {
        self.objects.requests().map_or(0, |counts| counts.bytes_received)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if self.folder.is_none()
            && let Ok(page) = self.objects.list("", None)
        {
            for listed in page.objects {
                let _ = self.objects.delete(&listed.name);
            }
        }
    }
}

pub fn environment(variables: &[(String, String)]) -> Environment {
    let pairs: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Environment::of(&pairs)
}

pub fn tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether a program is here; a test without it says that it is skipped.
pub fn has(program: &str) -> bool {
    let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .any(|place| Path::new(place).join(program).exists());
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that neither repeat nor compress.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// A raw disk with data here and there: at both ends, across units, small ones between zeros.
pub fn disk(path: &Path, bytes: u64, data: &[(u64, u64)]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    for (number, &(offset, length)) in data.iter().enumerate() {
        file.write_all_at(&noise(number as u64 + 1, length as usize), offset).unwrap();
    }
}

/// The places of data on the usual test disk of 65 MiB.
pub const DATA: [(u64, u64); 8] = [
    (0, 512),
    (MIB - 4096, 8192),
    (4 * MIB, 3 * MIB),
    (10 * MIB + 512, 1024),
    (20 * MIB, 9 * MIB),
    (33 * MIB + 65_536, 65_536),
    (50 * MIB, MIB),
    (65 * MIB - 512, 512),
];

/// A volume full of what somebody else has left there.
pub fn used_volume(path: &Path, bytes: u64) {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
    let rest = vec![0xa5; MIB as usize];
    for offset in (0..bytes).step_by(MIB as usize) {
        file.write_all_at(&rest[..(bytes - offset).min(MIB) as usize], offset).unwrap();
    }
}

/// What an import came to.
pub struct Imported {
    pub written: Written,
    pub verified: Verified,
}

/// Writes a disk onto a volume, and reads it back.
pub fn import(disk: &Disk, volume: &Path, options: &WriteOptions) -> Result<Imported> {
    let target = VolumeTarget::open(volume, disk.virtual_size())?;
    let written = write(disk, &target, "volume-1", None, options, &Quiet, &|_| Ok(()))?;
    drop(target);
    let verified = verify(volume, &written.checkpoint, None, &VerifyOptions::default(), &Quiet, &|_| Ok(()))?;
    Ok(Imported { written, verified })
}

/// Asserts that a volume begins with a disk and is zero behind it.
pub fn assert_holds(volume: &Path, disk: &Path) {
    let (volume, disk) = (File::open(volume).unwrap(), File::open(disk).unwrap());
    let (bytes, disk_bytes) = (volume.metadata().unwrap().len(), disk.metadata().unwrap().len());
    for offset in (0..bytes).step_by(MIB as usize) {
        let mut found = vec![0; (bytes - offset).min(MIB) as usize];
        volume.read_exact_at(&mut found, offset).unwrap();
        let mut wanted = vec![0; found.len()];
        let of_disk = disk_bytes.saturating_sub(offset).min(wanted.len() as u64) as usize;
        disk.read_exact_at(&mut wanted[..of_disk], offset).unwrap();
        assert!(found == wanted, "the volume differs within the MiB at {offset}");
    }
}

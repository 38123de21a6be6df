//! Every format, from every kind of bucket, ends as the same bytes on a volume that held something else.

use std::io::Write as _;
use std::path::Path;

use crate::support::{Bucket, DATA, MIB, assert_holds, disk, has, import, text, tool, used_volume};
use leeward_disk::Format;
use leeward_import::image::{ImageOptions, Scratch};
use leeward_import::write::{Checkpoint, WriteOptions, Zeros, write};
use leeward_import::{DigestCheck, DigestKind, ErrorKind, Quiet, VolumeTarget};

const DISK_BYTES: u64 = 65 * MIB;
const VOLUME_BYTES: u64 = 80 * MIB + 512;

/// What qemu-img makes: the name, its format, and the options.
const IMAGES: [(&str, &str, &str, bool); 15] = [
    ("v3.qcow2", "qcow2", "compat=1.1", false),
    ("v2.qcow2", "qcow2", "compat=0.10", false),
    ("zlib.qcow2", "qcow2", "compression_type=zlib", true),
    ("zstd.qcow2", "qcow2", "compression_type=zstd,cluster_size=2M", true),
    ("ext.qcow2", "qcow2", "extended_l2=on,cluster_size=128k", false),
    ("sparse.vmdk", "vmdk", "subformat=monolithicSparse", false),
    ("stream.vmdk", "vmdk", "subformat=streamOptimized", false),
    ("flat.vmdk", "vmdk", "subformat=monolithicFlat", false),
    ("split.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse", false),
    ("dynamic.vhd", "vpc", "subformat=dynamic,force_size=on", false),
    ("fixed.vhd", "vpc", "subformat=fixed,force_size=on", false),
    ("dynamic.vhdx", "vhdx", "subformat=dynamic", false),
    ("fixed.vhdx", "vhdx", "subformat=fixed", false),
    ("plain.vdi", "vdi", "", false),
    ("static.vdi", "vdi", "static=on", false),
];

fn convert(raw: &Path, to: &Path, format: &str, options: &str, compress: bool) {
    let mut arguments = vec!["convert", "-f", "raw", "-O", format];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    if compress {
        arguments.push("-c");
    }
    arguments.extend([text(raw), text(to)]);
    tool("qemu-img", &arguments);
}

/// Puts what a folder holds into a bucket, under names that say nothing about the format.
fn put_all(bucket: &Bucket, folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        bucket.put(&format!("in/{}", entry.file_name().to_str().unwrap()), &entry.path());
    }
}

#[test]
fn every_format_ends_as_the_same_bytes() {
    if !has("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    disk(&raw, DISK_BYTES, &DATA);
    let images = folder.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for (name, format, options, compress) in IMAGES {
        convert(&raw, &images.join(name), format, options, compress);
    }
    std::fs::copy(&raw, images.join("no-name")).unwrap();
    let volume = folder.path().join("volume");
    for bucket in Bucket::all() {
        put_all(&bucket, &images);
        for name in IMAGES.iter().map(|image| image.0).chain(["no-name"]) {
            used_volume(&volume, VOLUME_BYTES);
            let before = bucket.received();
            let disk = bucket.disk(&format!("in/{name}"));
            assert_eq!(disk.virtual_size(), DISK_BYTES, "{name}");
            let imported = import(&disk, &volume, &WriteOptions::default()).unwrap();
            assert_holds(&volume, &raw);
            assert!(imported.verified.is_equal(), "{name}: {:?}", imported.verified);
            let received = bucket.received() - before;
            println!("{name} ({:?}): {received} bytes received, {:?}", disk.format, imported.written.digest);
            // Without a scratch copy, nothing large is read twice: what comes in addition are the rest of blocks that
            // hold tables and small pieces of data.
            let bytes = std::fs::metadata(images.join(name)).unwrap().len();
            let is_described = ["flat.vmdk", "split.vmdk"].contains(&name);
            let most = if is_described { DISK_BYTES } else { bytes } + 4 * MIB;
            assert!(received <= most, "{name}: {received} of {bytes}");
        }
    }
}

#[test]
fn the_stated_digest_of_a_raw_image_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, volume) = (folder.path().join("disk.raw"), folder.path().join("volume"));
    disk(&raw, 9 * MIB + 512, &[(0, MIB), (5 * MIB, MIB + 700)]);
    let output = std::process::Command::new("sha256sum").arg(&raw).output().unwrap();
    let sha256 = String::from_utf8(output.stdout).unwrap()[..64].to_owned();
    let bucket = Bucket::directory();
    bucket.put_with("good.raw", &raw, &[("sha256", &sha256)]);
    used_volume(&volume, 16 * MIB);
    let imported = import(&bucket.disk("good.raw"), &volume, &WriteOptions::default()).unwrap();
    assert_eq!(imported.written.digest, DigestCheck::Matches { kinds: vec![DigestKind::Sha256] });
    bucket.put_with("bad.raw", &raw, &[("sha256", &"ab".repeat(32))]);
    let error = import(&bucket.disk("bad.raw"), &volume, &WriteOptions::default()).err().unwrap();
    assert!(error.to_string().contains("SHA-256") && error.kind() == ErrorKind::Object, "{error}");
    let kept = std::sync::Mutex::new(None);
    let keep = |checkpoint: &Checkpoint| {
        *kept.lock().unwrap() = Some(checkpoint.clone());
        Ok(())
    };
    let (bad, target) = (bucket.disk("bad.raw"), VolumeTarget::open(&volume, 9 * MIB + 512).unwrap());
    let attempt = || {
        let from = kept.lock().unwrap().clone();
        let error = write(&bad, &target, "v", from.as_ref(), &WriteOptions::default(), &Quiet, &keep).err();
        assert_eq!(error.expect("it is refused each time").kind(), ErrorKind::Object);
    };
    attempt();
    assert!(kept.lock().unwrap().as_ref().is_some_and(Checkpoint::is_complete), "all was written");
    attempt();
    for bucket in [Bucket::ceph(), Bucket::oci()].into_iter().flatten() {
        bucket.put("small.raw", &raw);
        let imported = import(&bucket.disk("small.raw"), &volume, &WriteOptions::default()).unwrap();
        assert_eq!(imported.written.digest, DigestCheck::Matches { kinds: vec![DigestKind::Md5] });
        assert_holds(&volume, &raw);
    }
}

#[test]
fn places_without_data_are_proven_or_made_zero() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, volume) = (folder.path().join("disk.raw"), folder.path().join("volume"));
    disk(&raw, DISK_BYTES, &DATA);
    let bucket = Bucket::directory();
    let image = folder.path().join("a.qcow2");
    convert(&raw, &image, "qcow2", "", false);
    bucket.put("a", &image);
    used_volume(&volume, VOLUME_BYTES);
    let options = WriteOptions { zeros: Zeros::Prove, ..WriteOptions::default() };
    assert!(import(&bucket.disk("a"), &volume, &options).unwrap().verified.is_equal());
    assert_holds(&volume, &raw);
}

#[test]
fn wrapped_images_are_expanded_as_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (raw, volume) = (path("disk.raw"), path("volume"));
    disk(&raw, DISK_BYTES, &DATA);
    convert(&raw, &path("fixed.vhd"), "vpc", "subformat=fixed,force_size=on", false);
    for name in ["disk.raw", "fixed.vhd"] {
        tool("gzip", &["-kf1", text(&path(name))]);
    }
    tool("zstd", &["-qkf", "--long=27", text(&raw)]);
    tool("xz", &["-kf1", text(&raw)]);
    // Two members, as from a parallel packer.
    let whole = std::fs::read(&raw).unwrap();
    let mut two = Vec::new();
    for half in [&whole[..30 * MIB as usize + 7], &whole[30 * MIB as usize + 7..]] {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(half).unwrap();
        two.extend(packer.finish().unwrap());
    }
    std::fs::write(path("two.gz"), two).unwrap();
    for bucket in Bucket::all() {
        for name in ["disk.raw.gz", "disk.raw.zst", "disk.raw.xz", "fixed.vhd.gz", "two.gz"] {
            bucket.put(name, &path(name));
            used_volume(&volume, VOLUME_BYTES);
            let image = bucket.open(name, &ImageOptions::default()).unwrap();
            let disk = &image.disks[0];
            assert_eq!(disk.virtual_size(), DISK_BYTES, "{name}");
            let imported = import(disk, &volume, &WriteOptions::default()).unwrap();
            assert_holds(&volume, &raw);
            assert!(imported.verified.is_equal());
            println!("{name}: {:?} {:?} {:?}", disk.format, disk.wrappings, imported.written.digest);
            // Measured once: a second opening reads the start only.
            let before = bucket.received();
            let known = ImageOptions { expanded: image.expanded.clone(), ..ImageOptions::default() };
            assert_eq!(bucket.open(name, &known).unwrap().disks[0].virtual_size(), DISK_BYTES);
            assert!(bucket.received() - before <= 5 * MIB);
        }
    }
}

#[test]
fn wrapped_formats_that_need_seeking_take_scratch_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (raw, volume) = (path("disk.raw"), path("volume"));
    disk(&raw, DISK_BYTES, &DATA);
    convert(&raw, &path("a.qcow2"), "qcow2", "", false);
    tool("gzip", &["-kf1", text(&path("a.qcow2"))]);
    let bucket = Bucket::directory();
    bucket.put("a.qcow2.gz", &path("a.qcow2.gz"));
    let refused = bucket.open("a.qcow2.gz", &ImageOptions::default()).err().unwrap();
    assert!(refused.to_string().contains("without the compression"), "{refused}");
    let scratch = |bytes_max| {
        let scratch = Some(Scratch { directory: folder.path().to_owned(), bytes_max });
        ImageOptions { scratch, ..ImageOptions::default() }
    };
    let too_small = bucket.open("a.qcow2.gz", &scratch(MIB)).err().unwrap();
    assert!(too_small.to_string().contains("expands to more"), "{too_small}");
    used_volume(&volume, VOLUME_BYTES);
    let image = bucket.open("a.qcow2.gz", &scratch(64 * MIB)).unwrap();
    assert_eq!(image.disks[0].format, Format::Qcow2);
    import(&image.disks[0], &volume, &WriteOptions::default()).unwrap();
    assert_holds(&volume, &raw);
}

const OVF: &str = r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>
    <File ovf:id="f1" ovf:href="HREF1" ovf:size="1"/>
    <File ovf:id="f2" ovf:href="vm-disk2.vmdk" ovf:size="1"/>
  </References>
  <DiskSection><Info>disks</Info>
    <Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="9"/>
    <Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="65"/>
    <Disk ovf:diskId="d3" ovf:capacity="5"/>
  </DiskSection>
</Envelope>"#;

/// An OVA of two disks, whose description calls the first one `href`.
fn ova(folder: &Path, name: &str, href: &str) -> std::path::PathBuf {
    std::fs::write(folder.join("vm.ovf"), OVF.replace("HREF1", href)).unwrap();
    std::fs::write(folder.join("vm.mf"), "SHA256(vm.ovf)= 00\n").unwrap();
    let members = ["vm.ovf", "vm.mf", "vm-disk1.vmdk", "vm-disk2.vmdk"];
    let archive = folder.join(name);
    let mut arguments = vec!["--format=ustar", "-C", text(folder), "-cf", text(&archive)];
    arguments.extend(members);
    tool("tar", &arguments);
    archive
}

#[test]
fn the_disks_of_an_ova_are_read_where_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let raws = [path("one.raw"), path("two.raw")];
    disk(&raws[0], DISK_BYTES, &DATA);
    disk(&raws[1], 9 * MIB, &[(MIB, 2 * MIB)]);
    convert(&raws[0], &path("vm-disk1.vmdk"), "vmdk", "subformat=streamOptimized", false);
    convert(&raws[1], &path("vm-disk2.vmdk"), "vmdk", "subformat=streamOptimized", false);
    let good = ova(folder.path(), "vm.ova", "vm-disk1.vmdk");
    for bucket in Bucket::all() {
        bucket.put("vm", &good);
        let image = bucket.open("vm", &ImageOptions::default()).unwrap();
        let names: Vec<_> = image.disks.iter().map(|disk| disk.identity().disk.as_str()).collect();
        assert_eq!(names, ["vm-disk2.vmdk", "vm-disk1.vmdk"], "in the order of the description");
        assert_eq!(image.notes.len(), 2, "{:?}", image.notes);
        for (disk, raw) in image.disks.iter().zip(raws.iter().rev()) {
            let volume = path("volume");
            used_volume(&volume, VOLUME_BYTES);
            assert!(import(disk, &volume, &WriteOptions::default()).unwrap().verified.is_equal());
            assert_holds(&volume, raw);
        }
    }
    let bucket = Bucket::directory();
    for href in ["../one.raw", "/etc/passwd", "http://example.com/x.vmdk", "vm-disk2.vmdk"] {
        bucket.put("bad", &ova(folder.path(), "bad.ova", href));
        assert!(bucket.open("bad", &ImageOptions::default()).is_err(), "{href}");
    }
    let whole = std::fs::read(&good).unwrap();
    bucket.put_bytes("cut", &whole[..whole.len() / 2]);
    assert!(bucket.open("cut", &ImageOptions::default()).err().unwrap().to_string().contains("cut off"));
}

#[test]
fn hostile_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let raw = path("disk.raw");
    disk(&raw, 4 * MIB, &[(0, 4096)]);
    let bucket = Bucket::directory();
    // A backing file on the worker.
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&raw), "-F", "raw", text(&path("b.qcow2"))]);
    bucket.put("backed", &path("b.qcow2"));
    // Descriptors that name what is elsewhere.
    bucket.put("beside.raw", &raw);
    for (number, name) in
        ["/etc/passwd", "../disk.raw", "sub/x", ".hidden", "beside.raw\" 0\nRW 1 FLAT \"/etc/shadow"]
            .iter()
            .enumerate()
    {
        let descriptor = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 64 FLAT \"{name}\" 0\n"
        );
        bucket.put_bytes(&format!("descriptor-{number}"), descriptor.as_bytes());
    }
    // Two formats at once.
    let mut two = std::fs::read(path("b.qcow2")).unwrap();
    two.resize(4 * MIB as usize - 512, 0);
    tool("qemu-img", &["create", "-q", "-f", "vpc", "-o", "subformat=fixed", text(&path("f.vhd")), "1M"]);
    let fixed = std::fs::read(path("f.vhd")).unwrap();
    two.extend_from_slice(&fixed[fixed.len() - 512..]);
    bucket.put_bytes("two", &two);
    // What expands without an end, as far as this test is concerned.
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        packer.write_all(&vec![0; MIB as usize]).unwrap();
    }
    bucket.put_bytes("bomb.gz", &packer.finish().unwrap());
    bucket.put_bytes("tar", &{
        tool("tar", &["--format=ustar", "-C", text(folder.path()), "-cf", text(&path("x.tar")), "disk.raw"]);
        std::fs::read(path("x.tar")).unwrap()
    });
    bucket.put_bytes("empty", b"");
    bucket.put_bytes("cut.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc");
    let options = ImageOptions { expanded_bytes_max: 32 * MIB, ..ImageOptions::default() };
    for (name, why) in [
        ("backed", "refers to another file"),
        ("descriptor-0", "plain name"),
        ("descriptor-1", "plain name"),
        ("descriptor-2", "plain name"),
        ("descriptor-3", "plain name"),
        ("descriptor-4", "plain name"),
        ("two", "can be read as"),
        ("bomb.gz", "expands to more"),
        ("tar", "no OVA"),
        ("empty", "empty"),
        ("cut.gz", "cannot be read"),
    ] {
        let error = bucket.open(name, &options).err().unwrap_or_else(|| panic!("{name} was opened"));
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
}

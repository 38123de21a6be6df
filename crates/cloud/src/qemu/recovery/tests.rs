//! What a hostile definition can do: nothing.

use std::process::Command;

use super::*;
use crate::qemu::definition::NicDefinition;

const EVIL: [&str; 8] = [
    "'; touch /tmp/evil; '",
    "$(touch /tmp/evil)",
    "x,file=/etc/shadow",
    "vd0,bus=pci.0",
    "</name><evil/>",
    "\" -device evil",
    "a\n-incoming exec:evil",
    "../../etc/passwd",
];

fn definition(text: &str) -> MachineDefinition {
    let text = text.to_owned();
    MachineDefinition {
        provider: text.clone(),
        version: text.clone(),
        name: Some(text.clone()),
        uuid: Some(text.clone()),
        architecture: "x86_64".to_owned(),
        machine_type: Some(text.clone()),
        cpu_type: Some(format!("{text}-x86_64-cpu")),
        cpus: 2,
        memory_bytes: 256 * MIB,
        firmware: Firmware::Flash { code: Some(text.clone()), variables: Some(text.clone()) },
        disks: vec![disk(&text)],
        nics: vec![NicDefinition { model: text.clone(), mac: text.clone() }],
        command_line: vec!["-netdev".to_owned(), format!("bridge,br={text}")],
        libvirt_xml: Some(text.clone()),
    }
}

fn disk(text: &str) -> DiskDefinition {
    DiskDefinition {
        name: text.to_owned(),
        image: Some(text.to_owned()),
        model: Some(text.to_owned()),
        bus: text.to_owned(),
        boot_index: Some(i64::MIN),
        virtual_size: u64::MAX,
        location: Some(text.to_owned()),
        format: Some(text.to_owned()),
        file: Some(text.to_owned()),
    }
}

fn restored(name: &str, definition: Option<DiskDefinition>) -> RestoredDisk {
    RestoredDisk { name: name.to_owned(), path: format!("/dir/{name}.qcow2"), is_qcow2: true, definition }
}

fn options() -> RecoveryOptions {
    RecoveryOptions {
        name: "drill".parse().unwrap(),
        directory: "/dir".to_owned(),
        memory_bytes: None,
        cpus: None,
        network: Network::All(Link::None),
        mac: Identity::Keep,
        uuid: Identity::Keep,
        bus: None,
    }
}

#[test]
fn nothing_of_a_hostile_definition_gets_into_script_or_document() {
    for evil in EVIL {
        let definition = definition(evil);
        let disks = [restored("root", None), restored("data", Some(disk("vd1")))];
        let plan = Blueprint::plan(&definition, &disks, &options()).unwrap();
        let mut texts = vec![plan.script(), plan.domain(true), plan.domain(false)];
        let keep = RecoveryOptions { network: Network::Keep, ..options() };
        match Blueprint::plan(&definition, &disks, &keep) {
            // Before the comma there was a good name, and it alone is taken.
            Ok(plan) => texts.extend([plan.script(), plan.domain(true)]),
            Err(error) => assert!(matches!(error, Error::Refused { .. })),
        }
        for text in texts {
            assert!(
                !text.contains("evil") && !text.contains("shadow") && !text.contains("etc"),
                "{evil}: {text}"
            );
        }
        let other = MachineDefinition { architecture: evil.to_owned(), ..definition };
        assert!(matches!(Blueprint::plan(&other, &disks, &options()), Err(Error::Refused { .. })));
    }
}

#[test]
fn the_same_definition_with_good_words_is_kept() {
    let mut good = definition("x");
    good.uuid = Some("f81d4fae-7dec-11d0-a765-00a0c91e6bf6".to_owned());
    good.machine_type = Some("pc-q35-7.2".to_owned());
    good.cpu_type = Some("Skylake-Server-x86_64-cpu".to_owned());
    good.nics = vec![NicDefinition { model: "e1000".to_owned(), mac: "52:54:00:01:02:03".to_owned() }];
    good.firmware = Firmware::Flash {
        code: Some("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd".to_owned()),
        variables: Some("nvram".to_owned()),
    };
    good.command_line = vec!["-netdev".to_owned(), "tap,ifname=tap3,script=/bin/x".to_owned()];
    let mut nvram = disk("nvram");
    nvram.bus = "flash".to_owned();
    let mut root = disk("root");
    root.bus = "scsi".to_owned();
    let disks = [restored("root", Some(root)), restored("nvram", Some(nvram))];
    let plan =
        Blueprint::plan(&good, &disks, &RecoveryOptions { network: Network::Keep, ..options() }).unwrap();
    let script = plan.script();
    for part in [
        "-uuid f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "machine=pc-q35-7.2",
        "cpu=Skylake-Server",
        "e1000,mac=52:54:00:01:02:03,netdev=host-net0",
        "tap,id=host-net0,ifname=tap3,script=no,downscript=no",
        "OVMF_CODE_4M.secboot.fd",
        "if=pflash,unit=1,format=raw,file=/dir/nvram.qcow2,id=nvram",
        "scsi-hd,bus=host-scsi.0,drive=host-disk0,bootindex=1,id=root",
        "size=256M",
        "cpus=2",
    ] {
        assert!(script.contains(part), "{part}: {script}");
    }
    assert!(!script.contains("/bin/x"));
}

#[test]
fn a_directory_with_all_that_sh_and_xml_care_about_is_quoted() {
    let directory = "/it's <a> \"dir\" & $HOME `x`, %s";
    let path = format!("{directory}/root.qcow2");
    let disks = [RestoredDisk { path: path.clone(), ..restored("root", None) }];
    let wanted = RecoveryOptions { directory: directory.to_owned(), ..options() };
    let mut plain = definition("x");
    plain.firmware = Firmware::Bios;
    let plan = Blueprint::plan(&plain, &disks, &wanted).unwrap();
    // sh itself says which words QEMU would get.
    let fake = tempfile::tempdir().unwrap();
    let qemu = fake.path().join("qemu");
    std::fs::write(&qemu, "#!/bin/sh\n[ \"$2\" != help ] || exit 0\nprintf '%s\\n' \"$@\"\n").unwrap();
    std::fs::set_permissions(&qemu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut run = Command::new("sh");
    run.args(["-c", &plan.script()]).env("QEMU", &qemu).env("LEEWARD_ACCEL", "tcg");
    let output = run.output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    let blockdev = words.lines().skip_while(|word| *word != "-blockdev").nth(1).unwrap();
    let value: serde_json::Value = serde_json::from_str(blockdev).unwrap();
    assert_eq!(value["file"]["filename"], path.as_str());
    assert!(words.contains(&format!("path={}/drill.qmp,server=on", directory.replace(',', ",,"))), "{words}");
    let domain = plan.domain(false);
    assert!(
        domain.contains("/it&apos;s &lt;a&gt; &quot;dir&quot; &amp; $HOME `x`, %s/root.qcow2"),
        "{domain}"
    );
    for bad in ["relative", "/new\nline", &format!("/{}", "x".repeat(100))] {
        let wanted = RecoveryOptions { directory: bad.to_owned(), ..options() };
        assert!(matches!(Blueprint::plan(&plain, &disks, &wanted), Err(Error::Refused { .. })), "{bad}");
    }
}

#[test]
fn overrides_and_limits() {
    let mut machine = definition("x");
    machine.firmware = Firmware::Bios;
    let disks: Vec<_> = (0..5).map(|number| restored(&format!("vd{number}"), None)).collect();
    let plan =
        |machine: &MachineDefinition, wanted: RecoveryOptions| Blueprint::plan(machine, &disks, &wanted);
    let wanted = RecoveryOptions {
        memory_bytes: Some(100 * MIB + 1),
        cpus: Some(7),
        bus: Some(Bus::Nvme),
        network: Network::All(Link::User),
        ..options()
    };
    let script = plan(&machine, wanted).unwrap().script();
    for part in ["size=101M", "cpus=7", "nvme,serial=leeward4,drive=host-disk4", "user,id=host-net0"] {
        assert!(script.contains(part), "{part}: {script}");
    }
    assert!(plan(&machine, RecoveryOptions { bus: Some(Bus::Ide), ..options() }).is_err());
    assert!(plan(&machine, RecoveryOptions { cpus: Some(0), ..options() }).is_err());
    machine.memory_bytes = u64::MAX;
    assert!(plan(&machine, options()).is_err());
    machine.memory_bytes = 0;
    assert!(plan(&machine, options()).unwrap().script().contains("size=1024M"));
    machine.nics = vec![machine.nics[0].clone(); 1000];
    assert!(plan(&machine, options()).is_err());
    machine.nics.truncate(2);
    let tap = Network::All(Link::Tap("tap0".parse().unwrap()));
    assert!(plan(&machine, RecoveryOptions { network: tap, ..options() }).is_err());
}

#[test]
fn an_unknown_type_of_machine_gives_way() {
    let mut machine = definition("x");
    machine.machine_type = Some("pc-q35-99.0".to_owned());
    let mut plan = Blueprint::plan(&machine, &[restored("root", None)], &options()).unwrap();
    plan.fit("q35   Standard PC\npc-q35-99.0  Future PC\n");
    assert!(plan.domain(false).contains("machine='pc-q35-99.0'"));
    plan.fit("q35   Standard PC\n");
    assert!(plan.domain(false).contains("machine='q35'"));
    assert!(plan.notes().iter().any(|note| note.contains("pc-q35-99.0")));
}

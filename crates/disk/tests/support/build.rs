//! Writers of images that qemu-img cannot make, after the specifications.

/// Sets the checksum of a VHD footer (`place` 64) or header (36).
pub fn vhd_checksum_field(bytes: &mut [u8], place: usize) {
    bytes[place..place + 4].fill(0);
    let sum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    bytes[place..place + 4].copy_from_slice(&(!sum).to_be_bytes());
}

const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 * 8 {
        let value = if index % 8 == 0 { index as u32 / 8 } else { table[index / 8] };
        table[index / 8] = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
        index += 1;
    }
    table
};

/// Sets the CRC-32C at 4 of a VHDX header, region table or log entry.
pub fn crc32c_field(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let crc = !bytes.iter().fold(u32::MAX, |crc, byte| CRC32C[(crc as u8 ^ byte) as usize] ^ (crc >> 8));
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

pub fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

pub fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

/// Sectors of a block: number and content.
pub type Sectors = Vec<(usize, [u8; 512])>;

/// A VHD with blocks of 64 KiB.
pub struct Vhd {
    pub disk_bytes: u64,
    pub uuid: [u8; 16],
    /// Name and UUID of the parent.
    pub parent: Option<(String, [u8; 16])>,
    /// Per block: the sectors that are there (number and content), or none if the block is absent.
    pub blocks: Vec<Option<Sectors>>,
}

pub const VHD_BLOCK_BYTES: usize = 64 << 10;

impl Vhd {
    pub fn footer(&self) -> Vec<u8> {
        let mut footer = vec![0; 512];
        put(&mut footer, 0, b"conectix");
        put(&mut footer, 8, &2_u32.to_be_bytes());
        put(&mut footer, 12, &0x1_0000_u32.to_be_bytes());
        put(&mut footer, 16, &512_u64.to_be_bytes());
        put(&mut footer, 28, b"win ");
        put(&mut footer, 40, &self.disk_bytes.to_be_bytes());
        put(&mut footer, 48, &self.disk_bytes.to_be_bytes());
        put(&mut footer, 60, &if self.parent.is_some() { 4_u32 } else { 3 }.to_be_bytes());
        put(&mut footer, 68, &self.uuid);
        vhd_checksum_field(&mut footer, 64);
        footer
    }

    /// Footer, header, locator at 1536, table at 2048, blocks, footer.
    pub fn build(&self) -> Vec<u8> {
        let mut header = vec![0; 1024];
        put(&mut header, 0, b"cxsparse");
        put(&mut header, 8, &u64::MAX.to_be_bytes());
        put(&mut header, 16, &2048_u64.to_be_bytes());
        put(&mut header, 24, &0x1_0000_u32.to_be_bytes());
        put(&mut header, 28, &(self.blocks.len() as u32).to_be_bytes());
        put(&mut header, 32, &(VHD_BLOCK_BYTES as u32).to_be_bytes());
        let mut locator = vec![0; 512];
        if let Some((name, uuid)) = &self.parent {
            put(&mut header, 40, uuid);
            put(&mut header, 64, &utf16(name, u16::to_be_bytes));
            let path = utf16(&format!(".\\{name}"), u16::to_le_bytes);
            put(&mut header, 576, b"W2ru");
            put(&mut header, 580, &512_u32.to_be_bytes());
            put(&mut header, 584, &(path.len() as u32).to_be_bytes());
            put(&mut header, 592, &1536_u64.to_be_bytes());
            put(&mut locator, 0, &path);
        }
        vhd_checksum_field(&mut header, 36);
        let mut table = vec![0xff; (self.blocks.len() * 4).next_multiple_of(512)];
        let mut data = Vec::new();
        let start = 2048 + table.len();
        for (index, block) in self.blocks.iter().enumerate() {
            let Some(sectors) = block else { continue };
            put(&mut table, index * 4, &(((start + data.len()) / 512) as u32).to_be_bytes());
            let mut bytes = vec![0; 512 + VHD_BLOCK_BYTES];
            for (sector, content) in sectors {
                bytes[sector / 8] |= 0x80 >> (sector % 8);
                put(&mut bytes, 512 + sector * 512, content);
            }
            data.extend(bytes);
        }
        [self.footer(), header, locator, table, data, self.footer()].concat()
    }
}

pub const MIB: usize = 1 << 20;

/// A VHDX with blocks of 1 MiB: headers, log at 1 MiB, metadata at 2, block table at 3, the rest from 4 on.
pub struct Vhdx {
    pub disk_bytes: u64,
    pub data_write: [u8; 16],
    pub log: [u8; 16],
    /// Name and linkage of the parent.
    pub parent: Option<(String, String)>,
    /// Entries of the block table, in its order.
    pub table: Vec<u64>,
    /// What follows the block table, from 4 MiB on.
    pub data: Vec<u8>,
}

const FILE_PARAMETERS: [u8; 16] = *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
const DISK_SIZE: [u8; 16] = *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
const LOGICAL_SECTOR: [u8; 16] = *b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f";
const PARENT_LOCATOR: [u8; 16] = *b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c";
const VHDX_LOCATOR: [u8; 16] = *b"\xb7\xef\x4a\xb0\x9e\xd1\x81\x4a\xb7\x89\x25\xb8\xe9\x44\x59\x13";
const BLOCK_TABLE: [u8; 16] = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
const METADATA: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";

impl Vhdx {
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0; 4 * MIB];
        put(&mut file, 0, b"vhdxfile");
        for (place, sequence) in [(64 << 10, 7_u64), (128 << 10, 6)] {
            let header = &mut file[place..place + 4096];
            put(header, 0, b"head");
            put(header, 8, &sequence.to_le_bytes());
            put(header, 32, &self.data_write);
            put(header, 48, &self.log);
            put(header, 66, &1_u16.to_le_bytes());
            put(header, 68, &(MIB as u32).to_le_bytes());
            put(header, 72, &(MIB as u64).to_le_bytes());
            crc32c_field(header);
        }
        for place in [192 << 10, 256 << 10] {
            let regions = &mut file[place..place + (64 << 10)];
            put(regions, 0, b"regi");
            put(regions, 8, &2_u32.to_le_bytes());
            for (index, (guid, offset)) in [(BLOCK_TABLE, 3 * MIB), (METADATA, 2 * MIB)].iter().enumerate() {
                let at = 16 + 32 * index;
                put(regions, at, guid);
                put(regions, at + 16, &(*offset as u64).to_le_bytes());
                put(regions, at + 24, &(MIB as u32).to_le_bytes());
                put(regions, at + 28, &1_u32.to_le_bytes());
            }
            crc32c_field(regions);
        }
        self.put_metadata(&mut file[2 * MIB..3 * MIB]);
        for (index, entry) in self.table.iter().enumerate() {
            put(&mut file, 3 * MIB + 8 * index, &entry.to_le_bytes());
        }
        file.extend(&self.data);
        file
    }

    fn put_metadata(&self, metadata: &mut [u8]) {
        let parameters =
            [(MIB as u32).to_le_bytes(), if self.parent.is_some() { 2_u32 } else { 0 }.to_le_bytes()]
                .concat();
        let mut items = vec![
            (FILE_PARAMETERS, parameters),
            (DISK_SIZE, self.disk_bytes.to_le_bytes().to_vec()),
            (LOGICAL_SECTOR, 512_u32.to_le_bytes().to_vec()),
        ];
        if let Some((name, linkage)) = &self.parent {
            let texts = ["parent_linkage", linkage, "relative_path", &format!(".\\{name}")]
                .map(|text| utf16(text, u16::to_le_bytes));
            let mut locator = [VHDX_LOCATOR.as_slice(), &[0, 0], &2_u16.to_le_bytes()].concat();
            let mut place = 20 + 24;
            for pair in texts.chunks(2) {
                locator.extend((place as u32).to_le_bytes());
                locator.extend(((place + pair[0].len()) as u32).to_le_bytes());
                locator.extend((pair[0].len() as u16).to_le_bytes());
                locator.extend((pair[1].len() as u16).to_le_bytes());
                place += pair[0].len() + pair[1].len();
            }
            locator.extend(texts.concat());
            items.push((PARENT_LOCATOR, locator));
        }
        put(metadata, 0, b"metadata");
        put(metadata, 10, &(items.len() as u16).to_le_bytes());
        let mut place = 64 << 10;
        for (index, (guid, bytes)) in items.iter().enumerate() {
            let at = 32 + 32 * index;
            put(metadata, at, guid);
            put(metadata, at + 16, &(place as u32).to_le_bytes());
            put(metadata, at + 20, &(bytes.len() as u32).to_le_bytes());
            put(metadata, at + 24, &4_u32.to_le_bytes());
            put(metadata, place, bytes);
            place += bytes.len();
        }
    }
}

/// A change in a log entry.
pub enum Change {
    Zeros { offset: u64, length: u64 },
    Page { offset: u64, bytes: Vec<u8> },
}

/// A log entry; `sizes` are the lengths of the file that were flushed and that are needed.
pub fn log_entry(log: &[u8; 16], number: u64, tail: u32, sizes: (u64, u64), changes: &[Change]) -> Vec<u8> {
    let mut entry = vec![0; (64 + 32 * changes.len()).next_multiple_of(4096)];
    put(&mut entry, 0, b"loge");
    put(&mut entry, 12, &tail.to_le_bytes());
    put(&mut entry, 16, &number.to_le_bytes());
    put(&mut entry, 24, &(changes.len() as u32).to_le_bytes());
    put(&mut entry, 32, log);
    put(&mut entry, 48, &sizes.0.to_le_bytes());
    put(&mut entry, 56, &sizes.1.to_le_bytes());
    for (index, change) in changes.iter().enumerate() {
        let at = 64 + 32 * index;
        put(&mut entry, at + 24, &number.to_le_bytes());
        match change {
            Change::Zeros { offset, length } => {
                put(&mut entry, at, b"zero");
                put(&mut entry, at + 8, &length.to_le_bytes());
                put(&mut entry, at + 16, &offset.to_le_bytes());
            }
            Change::Page { offset, bytes } => {
                put(&mut entry, at, b"desc");
                put(&mut entry, at + 4, &bytes[4092..]);
                put(&mut entry, at + 8, &bytes[..8]);
                put(&mut entry, at + 16, &offset.to_le_bytes());
                let mut sector = bytes.clone();
                put(&mut sector, 0, b"data");
                put(&mut sector, 4, &((number >> 32) as u32).to_le_bytes());
                put(&mut sector, 4092, &(number as u32).to_le_bytes());
                entry.extend(sector);
            }
        }
    }
    let length = entry.len() as u32;
    put(&mut entry, 8, &length.to_le_bytes());
    crc32c_field(&mut entry);
    entry
}

/// A streamOptimized VMDK as VMware writes it: grains in any order, then tables, directory, footer and end marker.
pub fn stream_vmdk(disk: &[u8], grains: &[usize]) -> Vec<u8> {
    use std::io::Write;
    const GRAIN: usize = 64 << 10;
    let header = |directory: u64| {
        let mut header = vec![0; 512];
        put(&mut header, 0, b"KDMV");
        put(&mut header, 4, &3_u32.to_le_bytes());
        put(&mut header, 8, &0x3_0001_u32.to_le_bytes());
        put(&mut header, 12, &(disk.len() as u64 / 512).to_le_bytes());
        put(&mut header, 20, &128_u64.to_le_bytes());
        put(&mut header, 28, &1_u64.to_le_bytes());
        put(&mut header, 36, &1_u64.to_le_bytes());
        put(&mut header, 44, &512_u32.to_le_bytes());
        put(&mut header, 56, &directory.to_le_bytes());
        put(&mut header, 64, &128_u64.to_le_bytes());
        put(&mut header, 73, b"\n \r\n\x01");
        header
    };
    let marker = |sectors: u64, kind: u32| {
        let mut marker = vec![0; 512];
        put(&mut marker, 0, &sectors.to_le_bytes());
        put(&mut marker, 12, &kind.to_le_bytes());
        marker
    };
    let mut file = header(u64::MAX);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\nRW {} SPARSE \"x.vmdk\"\n",
        disk.len() / 512
    );
    file.extend(text.as_bytes());
    file.resize(GRAIN, 0);
    let tables = disk.len().div_ceil(GRAIN).div_ceil(512);
    let mut entries = vec![0_u32; tables * 512];
    for &grain in grains {
        entries[grain] = (file.len() / 512) as u32;
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&disk[grain * GRAIN..disk.len().min((grain + 1) * GRAIN)]).unwrap();
        let packed = packer.finish().unwrap();
        file.extend((grain as u64 * 128).to_le_bytes());
        file.extend((packed.len() as u32).to_le_bytes());
        file.extend(packed);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    let mut directory = Vec::new();
    for table in entries.chunks(512) {
        if table.iter().all(|entry| *entry == 0) {
            directory.extend(0_u32.to_le_bytes());
            continue;
        }
        file.extend(marker(4, 1));
        directory.extend(((file.len() / 512) as u32).to_le_bytes());
        file.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    }
    directory.resize(directory.len().next_multiple_of(512), 0);
    file.extend(marker(directory.len() as u64 / 512, 2));
    let place = file.len() as u64 / 512;
    file.extend(directory);
    file.extend(marker(1, 3));
    file.extend(header(place));
    file.extend(marker(0, 0));
    file
}

//! Reads a snapshot as a disk under load: how many random reads of 4 KiB, or how many bytes in order, a second.
//!
//!     read_load REPOSITORY IMAGE random|sequential THREADS SECONDS CACHE_MIB

#![allow(clippy::expect_used, reason = "a benchmark that cannot run has nothing to say")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leeward_disk::{Source, walk_extents};
use leeward_repository::{ReadOptions, Repository};
use leeward_store::DirectoryStore;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [repository, image, kind, threads, seconds, cache] = &arguments[..] else {
        eprintln!("read_load REPOSITORY IMAGE random|sequential THREADS SECONDS CACHE_MIB");
        std::process::exit(2);
    };
    let threads: u64 = threads.parse().expect("a number of threads");
    let seconds: u64 = seconds.parse().expect("a number of seconds");
    let cache: u64 = cache.parse().expect("MiB");
    let store = DirectoryStore::open(repository.as_ref()).expect("a directory");
    let repository = Repository::open(Arc::new(store)).expect("a repository");
    let entry = repository.resolve(&image.parse().expect("IMAGE")).expect("a snapshot");
    let opened = Instant::now();
    let options = ReadOptions { cache_bytes: cache << 20, ..ReadOptions::serving() };
    let source = repository.source_with(entry.id, options).expect("a disk");
    source.read_at(&mut [0; 4096], 0).expect("the first read");
    println!("first read after {:?}", opened.elapsed());

    // Only where there is data: zeros cost nobody anything.
    let mut data = Vec::new();
    walk_extents::<leeward_disk::Error>(&source, 0, source.virtual_size(), |extent| {
        if extent.kind.is_data() {
            extent.push_merged(&mut data);
        }
        Ok(())
    })
    .expect("extents");
    let total: u64 = data.iter().map(|extent| extent.length).sum();
    let place = |mut position: u64| {
        for extent in &data {
            if position < extent.length {
                return extent.offset + position;
            }
            position -= extent.length;
        }
        0
    };
    let (count, next) = (AtomicU64::new(0), AtomicU64::new(0));
    let length: u64 = if kind == "random" { 4096 } else { 256 << 10 };
    for round in 0..seconds {
        let end = Instant::now() + Duration::from_secs(1);
        let before = count.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (source, count, next, place) = (&source, &count, &next, &place);
                scope.spawn(move || {
                    let mut buffer = vec![0; length as usize];
                    let mut state = (round << 8 | thread).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                    while Instant::now() < end {
                        let offset = if length == 4096 {
                            state ^= state << 13;
                            state ^= state >> 7;
                            state ^= state << 17;
                            place(state % (total / length) * length)
                        } else {
                            place(next.fetch_add(length, Ordering::Relaxed) % (total - length))
                        };
                        let end = (offset + length).min(source.virtual_size());
                        source.read_at(&mut buffer[..(end - offset) as usize], offset).expect("a read");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let done = count.load(Ordering::Relaxed) - before;
        println!("{done} reads/s, {} MB/s", done * length / 1_000_000);
    }
}

//! What a worker does with an order.

use std::path::{Component, Path};
use std::time::{Duration, Instant};

use leeward_cloud::provider::Device;
use leeward_remote::objects::SharedObjects;
use leeward_runs::state::Level;
use leeward_runs::step::Fault;
use leeward_store::RateLimit;

use super::bench::Watching;
use super::{Bench, CheckWork, Ended, Order, Work, WriteWork, check_disk, write_disk};
use crate::image::{self, ImageOptions};
use crate::job::fault_of;

/// How long a device may take to show once the provider says that it is attached.
const DEVICE_TIME: Duration = Duration::from_secs(120);

/// Does what an order says, with devices that are seen under `device_root`; `objects` reads the object of the order.
#[must_use]
pub fn perform(order: &Order, objects: &SharedObjects, device_root: &Path, bench: &dyn Bench) -> Ended {
    let done = match &order.work {
        Work::Write(work) => {
            write(work, objects, device_root, bench).map(|done| Ended::Written(Box::new(done)))
        }
        Work::Check(work) => check(work, device_root, bench).map(Ended::Checked),
    };
    done.unwrap_or_else(|fault| match fault {
        Fault::Stopped => Ended::Stopped,
        Fault::Failed(failure) => Ended::Failed(failure),
    })
}

fn write(
    work: &WriteWork,
    objects: &SharedObjects,
    device_root: &Path,
    bench: &dyn Bench,
) -> Result<super::Finished, Fault> {
    let device = device(&work.device, device_root, bench)?;
    let options =
        ImageOptions { format: work.format, expanded: work.expanded.clone(), ..ImageOptions::default() };
    let watching = Watching { bench, note: "opening the image" };
    let opened = image::open(objects, &work.object, &work.head, &options, &watching)
        .map_err(|error| fault_of(bench, &error))?;
    let Some(disk) = opened.disks.iter().find(|disk| disk.identity().disk == work.disk) else {
        return Err(Fault::lasting(
            format!("{}: there is no disk {:?} in it", work.object, work.disk),
            "retry download_image_from_bucket; daemon and worker may be of different releases",
        ));
    };
    let limit = work.bytes_per_second.map(RateLimit::new);
    write_disk(bench, disk, &work.volume, &device, &work.kept, limit)
}

fn check(
    work: &CheckWork,
    device_root: &Path,
    bench: &dyn Bench,
) -> Result<crate::filesystem::FileSystemReport, Fault> {
    let device = device(&work.device, device_root, bench)?;
    check_disk(bench, &work.volume, &device, work.move_gpt)
}

/// Where a device is seen here, once it is: the provider knows of it before the kernel does.
fn device(told: &Path, root: &Path, bench: &dyn Bench) -> Result<Device, Fault> {
    if told.components().any(|part| part == Component::ParentDir) {
        return Err(Fault::lasting(format!("{}: no path of a device", told.display()), "report this"));
    }
    let path = root.join(told.strip_prefix("/").unwrap_or(told));
    let end = Instant::now() + DEVICE_TIME;
    while !path.exists() {
        if bench.is_stopped() {
            return Err(Fault::Stopped);
        }
        if Instant::now() >= end {
            return Err(Fault::passing(
                format!("{} does not show at the worker", path.display()),
                "see that the volume is attached to the worker's machine, and the target's `device`",
            ));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bench.log(Level::Info, &format!("device {}", path.display()));
    Ok(Device::Path(path))
}

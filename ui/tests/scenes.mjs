// Runs in the states that the tests and the pictures need.

import { GIB } from './world.mjs';

/** A run in the middle of writing, with a branch behind it. */
export function writing(world, subject = 'debian-13.qcow2') {
  const run = world.make({ subject, created: Date.now() - 140_000 });
  world.upTo(run, 'write_image_to_bv');
  world.say(run, 'write_image_to_bv', 'the image is qcow2, 20 GiB, of which 3.2 GiB are data');
  world.say(run, 'write_image_to_bv', 'bucket answers 503 to range 812–816 MiB; asked again', 'warning');
  world.begin(run, 'write_image_to_bv', 21_000);
  world.advance(run, 'write_image_to_bv', 1.2 * GIB, 3.2 * GIB, 'range 19 661 of 52 429');
  return run;
}

/** A run whose file systems are damaged, on hold. */
export function held(world, subject = 'disks/legacy.example.vmdk') {
  const run = world.make({ subject, created: Date.now() - 3_600_000 });
  world.upTo(run, 'fsck_on_block_volume');
  world.begin(run, 'fsck_on_block_volume', 9000);
  world.say(run, 'fsck_on_block_volume', 'partition 1 (ext4): Inode 131 has illegal block(s). Clear? no', 'warning');
  world.fail(run, 'fsck_on_block_volume', 'the ext4 file system on partition 1 has errors (e2fsck ends with 4)', 'Mend the image and upload it again, or skip this step if the disk is meant to be like that.');
  return run;
}

/** A run that could not be undone. */
export function stuck(world) {
  const run = world.make({ subject: 'windows.server.2019.vdi', created: Date.now() - 86_400_000 });
  world.upTo(run, 'wait_for_attachment');
  const step = run.steps.find(({ name }) => name === 'create_block_volume');
  Object.assign(step, { state: 'undo-failed', undo_attempts: 5, failure: { message: 'volume ocid1.volume.oc1..bbbb stays: the service answers 409 (attached to an instance of another owner)', hint: 'Detach it in the console, then try to undo again.', passing: false } });
  world.move(run, 'undo-failed', 'not undone: create_block_volume');
  return run;
}

/** Waits for a second attempt. */
export function waiting(world) {
  const run = world.make({ subject: 'disks/web-01.vhdx', created: Date.now() - 50_000 });
  world.upTo(run, 'download_image_from_bucket');
  world.begin(run, 'download_image_from_bucket', 12_000);
  const step = run.steps.find(({ name }) => name === 'download_image_from_bucket');
  Object.assign(step, { state: 'waiting', next_at: new Date(Date.now() + 45_000).toISOString(), failure: { message: 'the bucket answers 503', hint: 'Nothing to do: it is tried again.', passing: true } });
  world.tell(run, { event: 'will-retry', step: step.name, failure: step.failure, at: step.next_at });
  return run;
}

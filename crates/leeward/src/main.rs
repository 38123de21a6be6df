//! The `leeward` command: parses arguments, calls a library, prints, sets the exit code.

mod cache;
mod failure;
mod interrupt;
mod limit;
mod location;
mod output;
mod place;
mod place_of_site;
mod progress;
mod prompt;
mod requests;
mod servers;
#[cfg(test)]
mod told;
mod unlock;
mod verb;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use leeward_protect::size;

use verb::{
    backup, cancel, changed_blocks, check, clone, disk, export, files, groups, hydrate, import, key, label,
    lock, mount, notify, push, quickstart, repository, restore, retain, runs, schedule, seed, serve, server,
    snapshots, sweep, sync, thaw, token, upload, worker,
};

/// Leeward brings virtual machines through a disaster: it keeps content-addressed copies of their disks and gives them
/// back, byte for byte.
#[derive(Parser)]
#[command(name = "leeward", version, max_term_width = 110, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    repository: repository::RepositoryArgument,
    #[command(flatten)]
    output: output::OutputArguments,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Quickstart(quickstart::QuickstartArguments),
    #[command(subcommand)]
    Repo(repository::RepoVerb),
    #[command(subcommand)]
    Key(key::KeyVerb),
    Backup(backup::BackupArguments),
    Cancel(cancel::CancelArguments),
    /// List the images and their last snapshots
    Images,
    Groups(groups::GroupsArguments),
    Log(snapshots::LogArguments),
    Show(snapshots::ShowArguments),
    Diff(snapshots::DiffArguments),
    Files(files::FilesArguments),
    Cp(files::CpArguments),
    Restore(restore::RestoreArguments),
    VerifyRestore(restore::VerifyArguments),
    Mount(mount::MountArguments),
    Export(export::ExportArguments),
    Upload(upload::UploadArguments),
    Hydrate(hydrate::HydrateArguments),
    Tag(label::TagArguments),
    Hold(label::HoldArguments),
    Release(label::ReleaseArguments),
    Push(push::PushArguments),
    Pull(push::PullArguments),
    Clone(clone::CloneArguments),
    Sync(sync::SyncArguments),
    #[command(subcommand)]
    Seed(seed::SeedVerb),
    Forget(retain::ForgetArguments),
    Undelete(retain::UndeleteArguments),
    Collect(retain::CollectArguments),
    Lock(lock::LockArguments),
    Check(check::CheckArguments),
    /// Show what the repository holds and what it costs
    Stats,
    /// Make the index anew from the packs alone
    RebuildIndex,
    Serve(serve::ServeArguments),
    Server(server::ServerArguments),
    Worker(worker::WorkerArguments),
    Run(runs::RunsArguments),
    Schedule(schedule::ScheduleArguments),
    Import(import::ImportArguments),
    Notify(notify::NotifyArguments),
    Sweep(sweep::SweepArguments),
    #[command(subcommand)]
    Token(token::TokenVerb),
    #[command(subcommand)]
    ChangedBlocks(changed_blocks::ChangedBlocksVerb),
    #[command(hide = true)]
    ThawOrphan(thaw::ThawArguments),
    #[command(subcommand)]
    Disk(disk::DiskVerb),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = output::Output::new(&arguments.output);
    interrupt::watch();
    let repository = &arguments.repository;
    let result = match arguments.verb {
        Verb::Quickstart(arguments) => quickstart::run(&arguments, &output),
        Verb::Repo(verb) => repository::run(&verb, repository, &output),
        Verb::Key(verb) => key::run(&verb, repository, &output),
        Verb::Backup(arguments) => backup::run(arguments, repository, &output),
        Verb::Cancel(arguments) => cancel::run(&arguments, repository, &output),
        Verb::Groups(arguments) => groups::run(&arguments, repository, &output),
        Verb::Images => snapshots::images(repository, &output),
        Verb::Log(arguments) => snapshots::log(&arguments, repository, &output),
        Verb::Show(arguments) => snapshots::show(&arguments, repository, &output),
        Verb::Diff(arguments) => snapshots::diff(&arguments, repository, &output),
        Verb::Files(arguments) => files::list(&arguments, repository, &output),
        Verb::Cp(arguments) => files::copy(&arguments, repository, &output),
        Verb::Restore(arguments) => restore::restore(&arguments, repository, &output),
        Verb::VerifyRestore(arguments) => restore::verify(&arguments, repository, &output),
        Verb::Mount(arguments) => mount::run(&arguments, repository, &output),
        Verb::Export(arguments) => export::run(&arguments, repository, &output),
        Verb::Upload(arguments) => upload::run(&arguments, &output),
        Verb::Hydrate(arguments) => hydrate::run(&arguments, repository, &output),
        Verb::Tag(arguments) => label::tag(&arguments, repository, &output),
        Verb::Hold(arguments) => label::hold(&arguments, repository, &output),
        Verb::Release(arguments) => label::release(&arguments, repository, &output),
        Verb::Push(arguments) => push::push(&arguments, repository, &output),
        Verb::Pull(arguments) => push::pull(&arguments, repository, &output),
        Verb::Clone(arguments) => clone::run(&arguments, repository, &output),
        Verb::Sync(arguments) => sync::run(&arguments, repository, &output),
        Verb::Seed(verb) => seed::run(&verb, repository, &output),
        Verb::Forget(arguments) => retain::forget(&arguments, repository, &output),
        Verb::Undelete(arguments) => retain::undelete(&arguments, repository, &output),
        Verb::Collect(arguments) => retain::collect(&arguments, repository, &output),
        Verb::Lock(arguments) => lock::lock(&arguments, repository, &output),
        Verb::Check(arguments) => check::check(&arguments, repository, &output),
        Verb::Stats => check::stats(repository, &output),
        Verb::RebuildIndex => check::rebuild_index(repository, &output),
        Verb::Server(arguments) => server::run(&arguments, repository, &output),
        Verb::Worker(arguments) => worker::run(&arguments, &output),
        Verb::Run(arguments) => runs::run(&arguments, &output),
        Verb::Schedule(arguments) => schedule::run(&arguments, &output),
        Verb::Import(arguments) => import::run(&arguments, &output),
        Verb::Notify(arguments) => notify::run(&arguments, &output),
        Verb::Sweep(arguments) => sweep::run(&arguments, &output),
        Verb::Serve(arguments) => serve::run(&arguments, repository, &output),
        Verb::Token(verb) => token::run(verb, &output),
        Verb::ChangedBlocks(verb) => changed_blocks::run(&verb, &output),
        Verb::ThawOrphan(arguments) => thaw::run(&arguments),
        Verb::Disk(verb) => disk::run(verb, &output),
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "leeward", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    cache::clear();
    match result {
        Ok(code) => code,
        Err(failure) => failure.report(&output),
    }
}

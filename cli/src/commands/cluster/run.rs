//! Chooses the command, and gives it what it needs.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::runtime::Builder;

use super::args::{Cluster, Command, Record, Snapshot};
use super::session::Session;
use super::{doctor, install, logs, ls, pull, record, snapshot, status, uninstall};

pub(crate) fn run(args: &Cluster) -> Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("failed to start a runtime")?;
    let done = runtime.block_on(dispatch(args));
    // A transfer that was given up must not keep the program alive.
    runtime.shutdown_background();
    done
}

async fn dispatch(args: &Cluster) -> Result<ExitCode> {
    let access = &args.access;
    // What needs no cluster.
    match &args.command {
        Command::Install(args) if args.applying.dry_run => {
            return install::print(access, &args.settings, args.applying.output);
        }
        Command::Record(Record::Create(args)) if args.dry_run => {
            return record::print(access, args);
        }
        Command::Snapshot(Snapshot::Create(args)) if args.dry_run => {
            return snapshot::print(access, args);
        }
        Command::Wipe(args) => return uninstall::wipe(args).await,
        _ => {}
    }
    let session = Session::open(access).await?;
    match &args.command {
        Command::Install(args) => install::install(&session, args).await,
        Command::Upgrade(args) => install::upgrade(&session, args).await,
        Command::Uninstall(args) => uninstall::uninstall(&session, args).await,
        Command::Status(args) => status::status(&session, args).await,
        Command::Doctor(args) => doctor::doctor(&session, args).await,
        Command::Record(Record::Create(args)) => record::create(&session, args).await,
        Command::Record(Record::Pause(args)) => record::switch(&session, args, true).await,
        Command::Record(Record::Resume(args)) => record::switch(&session, args, false).await,
        Command::Record(Record::Delete(args)) => record::delete(&session, args).await,
        Command::Ls(args) => ls::ls(&session, args).await,
        Command::Snapshot(Snapshot::Create(args)) => snapshot::create(&session, args).await,
        Command::Snapshot(Snapshot::Delete(args)) => snapshot::delete(&session, args).await,
        Command::Pull(args) => pull::pull(&session, args).await,
        Command::Logs(args) => logs::logs(&session, args).await,
        Command::Top(args) => status::top(&session, args).await,
        Command::Wipe(_) => Ok(ExitCode::SUCCESS),
    }
}

//! The command line of `tapedeck cluster`, as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use tapedeck_cluster::{Owner, OwnerKind, Size, Span};
use tapedeck_filter::Filter;

use crate::args::{duration, filter};

/// Tapedeck on a Kubernetes cluster; also `kubectl tapedeck`
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Cluster {
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tapedeck cluster install --image registry.example.com/tapedeck:0.1.0 --store s3://bucket/tapedeck
  tapedeck cluster status --watch
  tapedeck cluster record create shop -n shop -l app=shop --for 1h
  tapedeck cluster snapshot create friday -n shop --recording shop
  tapedeck cluster pull friday -n shop -o friday.tape";

/// Which cluster, and as whom: as with kubectl.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Access {
    /// The kubeconfig file [default: those that KUBECONFIG names, else ~/.kube/config, else the service
    /// account of the pod]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// The cluster of the kubeconfig [default: that of the context]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) cluster: Option<String>,
    /// The user of the kubeconfig [default: that of the context]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) user: Option<String>,
    /// The namespace [default: that of the context; for install, upgrade and uninstall: tapedeck-system]
    #[arg(
        short,
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Cluster"
    )]
    pub(crate) namespace: Option<String>,
    /// Where Tapedeck is installed [default: what its resource definitions say]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) system_namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install Tapedeck: server-side apply of the objects of the chart
    Install(Install),
    /// Bring an installation to this version, with the settings that it has
    Upgrade(Upgrade),
    /// Remove everything: snapshots with what they stored, recordings, the programs, the definitions
    Uninstall(Uninstall),
    /// Nodes, versions, recordings, loss, cost. Exit code 1 when a node or recording is in trouble
    Status(Status),
    /// Per node: what it needs to capture, and what of each pod it would see
    Doctor(Doctor),
    /// Say what is recorded
    #[command(subcommand)]
    Record(Record),
    /// List recordings and snapshots
    Ls(Ls),
    /// Take recordings of a time, from all nodes, as one archive
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Get a snapshot as a local archive; goes on where an earlier try was cut
    Pull(Pull),
    /// What the programs on the cluster say
    Logs(Logs),
    /// What the nodes cost, the most expensive first
    Top(Top),
    /// Empty a folder, then wait to be ended: what `uninstall` runs on each node
    #[command(hide = true)]
    Wipe(Wipe),
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    Yaml,
    /// KIND/NAME, one a line
    Name,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Report {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// How objects are printed that are not applied.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Text {
    #[default]
    Yaml,
    Json,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The image, with its tag [default: tapedeck:VERSION]
    #[arg(long, value_name = "REPOSITORY:TAG")]
    pub(crate) image: Option<String>,
    /// Where snapshots go: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or
    /// file:///snapshots with --snapshot-claim [default: nowhere, so that none can be taken]
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// What the store needs beside: region=eu-west-1, endpoint=...; may be given several times
    #[arg(long, value_name = "KEY=VALUE", requires = "store", value_parser = pair)]
    pub(crate) store_option: Vec<(String, String)>,
    /// The Secret of Tapedeck's namespace whose keys (AWS_ACCESS_KEY_ID, ...) the store signs in with
    #[arg(long, value_name = "NAME", requires = "store")]
    pub(crate) store_secret: Option<String>,
    /// The ReadWriteMany claim of Tapedeck's namespace that is mounted at /snapshots
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot_claim: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Applying {
    /// Print the objects, and apply none; needs no cluster
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t, requires = "dry_run")]
    pub(crate) output: Text,
    /// Take over fields that somebody else has set
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    /// Wait until every node and the controller run
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Parser)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(flatten)]
    pub(crate) applying: Applying,
}

#[derive(Debug, Parser)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(flatten)]
    pub(crate) applying: Applying,
}

#[derive(Debug, Parser)]
pub(crate) struct Uninstall {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Leave the archives on the nodes
    #[arg(long)]
    pub(crate) keep_archives: bool,
    /// Leave the namespace, with what others put into it
    #[arg(long)]
    pub(crate) keep_namespace: bool,
    /// Do not wait for the controller: what snapshots stored stays in the store
    #[arg(long)]
    pub(crate) abandon_stored: bool,
    /// How long to wait at most, for each step
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Parser)]
pub(crate) struct Status {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Report,
    /// Print again every few seconds, until interrupted
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct Doctor {
    /// This node only
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Report,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Record {
    /// Begin to record workloads
    Create(Box<RecordCreate>),
    /// Record nothing for a while; what was recorded stays
    Pause(RecordSwitch),
    /// Go on
    Resume(RecordSwitch),
    /// End recordings; their archives on the nodes go, snapshots stay
    Delete(Delete),
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Waiting {
    /// Do not wait for it
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Parser)]
pub(crate) struct RecordCreate {
    /// Its name
    pub(crate) name: String,
    /// Pods with this label; may be given several times, or several with commas between
    #[arg(short = 'l', long = "selector", value_name = "LABEL=VALUE", value_delimiter = ',', value_parser = pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Pods of this owner, such as deployment/shop; may be given several times
    #[arg(long = "of", value_name = "KIND/NAME", value_parser = owner)]
    pub(crate) owners: Vec<Owner>,
    /// Only this container of the pods; may be given several times
    #[arg(short, long = "container", value_name = "NAME")]
    pub(crate) containers: Vec<String>,
    /// Pods of this namespace, `*` for all: only for recordings in Tapedeck's own namespace; may be
    /// given several times
    #[arg(long = "from-namespace", value_name = "NAME")]
    pub(crate) namespaces: Vec<String>,
    /// Only this TCP port, at either end; may be given several times
    #[arg(long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) ports: Vec<u16>,
    /// Only paths that begin so; may be given several times
    #[arg(long = "path", value_name = "/PATH")]
    pub(crate) paths: Vec<String>,
    /// No paths that begin so, such as /healthz; may be given several times
    #[arg(long = "not-path", value_name = "/PATH")]
    pub(crate) not_paths: Vec<String>,
    /// The share of connections that is recorded, whole ones: 10%, 0.5%
    #[arg(long, value_name = "SHARE", value_parser = per_mille, default_value = "100%")]
    pub(crate) sample: u16,
    /// Heads only, no bodies
    #[arg(long)]
    pub(crate) headers_only: bool,
    /// End by itself after this time: 30s, 15m, 24h, 7d
    #[arg(long = "for", value_name = "TIME")]
    pub(crate) duration: Option<Span>,
    /// End on a node that has archived so much: 500Mi, 10Gi
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_per_node: Option<Size>,
    /// Keep nothing older than this on the nodes
    #[arg(long, value_name = "TIME")]
    pub(crate) keep: Option<Span>,
    /// The store for its snapshots [default: the first of the installation]
    #[arg(long, value_name = "NAME")]
    pub(crate) store: Option<String>,
    /// Print the object, and make none; needs no cluster
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Parser)]
pub(crate) struct RecordSwitch {
    /// The recording
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Parser)]
pub(crate) struct Delete {
    /// Which
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Parser)]
pub(crate) struct Ls {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Take one, and wait until it can be pulled
    Create(Box<SnapshotCreate>),
    /// Remove snapshots, with what they stored
    Delete(Delete),
}

#[derive(Debug, Parser)]
pub(crate) struct SnapshotCreate {
    /// Its name
    pub(crate) name: String,
    /// A recording of the same namespace; may be given several times
    #[arg(short, long = "recording", required = true, value_name = "NAME")]
    pub(crate) recordings: Vec<String>,
    /// Only what began within this time before now: 15m, 1h30m
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "from")]
    pub(crate) since: Option<Duration>,
    /// Only what began then or later: 2026-11-21T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<Timestamp>,
    /// Only what began before
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<Timestamp>,
    /// Only the exchanges that this CEL expression chooses
    #[arg(long, value_name = "CEL", value_parser = filter_text)]
    pub(crate) filter: Option<String>,
    /// The store [default: that of the first recording]
    #[arg(long, value_name = "NAME")]
    pub(crate) store: Option<String>,
    /// Wait no longer for nodes: then it is made of what there is, and names who is missing
    #[arg(long, value_name = "TIME")]
    pub(crate) deadline: Option<Span>,
    /// Delete it, with what is stored, so long after it was made [default: never]
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<Span>,
    /// Print the object, and make none; needs no cluster
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not wait for it
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "15m")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Parser)]
pub(crate) struct Pull {
    /// The snapshot
    pub(crate) name: String,
    /// The archive to write [default: NAME.tape]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the archive if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct Logs {
    /// Only the daemon of this node
    #[arg(long, value_name = "NAME", conflicts_with = "controller")]
    pub(crate) node: Option<String>,
    /// Only the controller
    #[arg(long)]
    pub(crate) controller: bool,
    /// Go on as they say more
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The last lines of each
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) tail: i64,
}

#[derive(Debug, Parser)]
pub(crate) struct Top {
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sort: TopSort,
    /// Print again every few seconds, until interrupted
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum TopSort {
    #[default]
    Cpu,
    Disk,
    Lost,
    Memory,
}

#[derive(Debug, Parser)]
pub(crate) struct Wipe {
    /// Only say whether it is empty
    #[arg(long)]
    pub(crate) check: bool,
    /// The folder
    pub(crate) folder: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected KEY=VALUE".to_owned()),
    }
}

fn owner(text: &str) -> Result<Owner, String> {
    const KINDS: [(&str, OwnerKind); 6] = [
        ("cronjob", OwnerKind::CronJob),
        ("daemonset", OwnerKind::DaemonSet),
        ("deployment", OwnerKind::Deployment),
        ("job", OwnerKind::Job),
        ("replicaset", OwnerKind::ReplicaSet),
        ("statefulset", OwnerKind::StatefulSet),
    ];
    let (kind, name) = text.split_once('/').unwrap_or((text, ""));
    let kind = kind.to_ascii_lowercase();
    let known = KINDS.iter().find(|(name, _)| *name == kind);
    match known {
        Some((_, kind)) if !name.is_empty() => Ok(Owner {
            kind: *kind,
            name: name.to_owned(),
        }),
        Some(_) | None => {
            let kinds: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            Err(format!(
                "expected KIND/NAME, with one of {}",
                kinds.join(", ")
            ))
        }
    }
}

/// `10%` as thousandths.
fn per_mille(text: &str) -> Result<u16, String> {
    let wrong = || "expected a share between 0.1% and 100%, in steps of 0.1%: 10%, 0.5%".to_owned();
    let percent: f64 = text
        .strip_suffix('%')
        .and_then(|number| number.parse().ok())
        .ok_or_else(wrong)?;
    let thousandths = percent * 10.0;
    let is_share = (1.0..=1000.0).contains(&thousandths);
    if !is_share || (thousandths - thousandths.round()).abs() > 1e-6 {
        return Err(wrong());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 1000"
    )]
    Ok(thousandths.round() as u16)
}

/// An expression that makes sense; the controller reads it again.
fn filter_text(text: &str) -> Result<String, String> {
    let _: Filter = filter(text)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_owners_are_read_as_people_write_them() {
        for (text, thousandths) in [("100%", 1000), ("10%", 100), ("0.1%", 1), ("12.5%", 125)] {
            assert_eq!(per_mille(text), Ok(thousandths), "{text}");
        }
        for wrong in ["", "10", "0%", "101%", "-1%", "0.05%", "NaN%", "inf%"] {
            assert!(per_mille(wrong).is_err(), "{wrong}");
        }
        let shop = owner("Deployment/shop").unwrap();
        assert_eq!(
            (shop.kind, shop.name.as_str()),
            (OwnerKind::Deployment, "shop")
        );
        for wrong in ["", "shop", "pod/shop", "deployment/"] {
            assert!(owner(wrong).is_err(), "{wrong}");
        }
    }
}

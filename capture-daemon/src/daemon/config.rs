//! The configuration file, as typed.
//!
//! [`Config::parse`] reads and checks it; nothing is opened before that succeeds. Every key has a
//! default but the archive's folder. Unknown keys are errors: a key with a mistake in it would else
//! be a default that nobody asked for.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::{fs, io};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapedeck_archive::{KeyError, Recipients};

use super::quantities::{Age, Size};
use crate::capture::{self, Backend, NICE, OpenError, Options};
use crate::sources::{Action, Match, Policy, Rule, SourceError};
use crate::words::in_words;

/// The configuration of tapedeckd.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where packets come from.
    #[serde(default)]
    pub capture: CaptureConfig,
    /// Which connections are recorded, and how much of them; the first rule that fits counts.
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
    /// What is done with connections that fit no rule. Unset: `ignore` where there are rules that
    /// capture something, else `capture`.
    #[serde(default)]
    pub otherwise: Option<ActionConfig>,
    /// Where exchanges go.
    pub archive: ArchiveConfig,
    /// What the daemon may use.
    #[serde(default)]
    pub budget: BudgetConfig,
    /// How the daemon is watched.
    #[serde(default)]
    pub control: ControlConfig,
    /// How connections are named.
    #[serde(default)]
    pub attribution: AttributionConfig,
    /// On a node of a cluster: the resources `Recording` and `Snapshot` say what is recorded, in the place
    /// of `rules` and `otherwise`. Unset: not on a cluster.
    #[serde(default)]
    pub kubernetes: Option<KubernetesConfig>,
    /// What the daemon says about itself.
    #[serde(default)]
    pub log: LogConfig,
}

/// Where packets come from.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureConfig {
    /// The way to capture; `auto` takes the best that the kernel and the privileges allow.
    pub backend: BackendConfig,
    /// The interface to listen on (af-packet, libpcap). Unset: all.
    pub interface: Option<String>,
    /// The network namespace whose interfaces are meant (af-packet, libpcap): /run/netns/NAME or
    /// /proc/PID/ns/net. Unset: the daemon's own.
    pub network_namespace: Option<PathBuf>,
    /// Which packets are taken, in the language of libpcap, see pcap-filter(7) (libpcap). Unset:
    /// those of TCP.
    pub filter: Option<String>,
    /// The cgroup whose sockets are seen (ebpf), with those below it. Unset: every socket.
    pub cgroup: Option<PathBuf>,
    /// Leave out the sockets of the daemon's own cgroup, unless that is the root (ebpf).
    pub ignore_own_cgroup: bool,
    /// Memory for packets that wait to be read, at least 1MiB. It must hold what arrives while a
    /// block is compressed and written; resident memory grows by up to twice as much.
    pub ring_size: Size,
    /// Keep the capabilities that opening a source takes, so that a reload may change `interface`,
    /// `network_namespace`, `filter`, `cgroup` and `ring_size`. Else they are given up once the source
    /// is open.
    pub keep_privileges: bool,
    /// Threads that read packets, each the connections of its own: 1, 2 or 4 with ebpf, 1 to 4 with
    /// af-packet, 1 with libpcap.
    pub threads: NonZeroUsize,
    /// How far these step back when no processor is free, as nice(1) has it, 0 to 19: what is recorded is
    /// served first, and what the daemon then does not manage is counted as lost. Among containers their
    /// shares of the processors count before that.
    #[schemars(range(max = 19))]
    pub nice: u8,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            backend: BackendConfig::Auto,
            interface: None,
            network_namespace: None,
            filter: None,
            cgroup: None,
            ignore_own_cgroup: true,
            ring_size: Size(16 << 20),
            keep_privileges: false,
            threads: NonZeroUsize::MIN,
            nice: NICE,
        }
    }
}

/// A way to capture.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendConfig {
    /// The best that the kernel and the privileges allow.
    #[default]
    Auto,
    /// Socket hooks.
    Ebpf,
    /// Packet sockets.
    AfPacket,
    /// The system's libpcap, where the daemon was built with it.
    Libpcap,
}

/// Some connections, and what is done with them. Names ports, a cgroup or sockets.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Connections with one of these TCP ports at either end.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Connections of sockets in this cgroup or one below it (ebpf): a path from the root of the
    /// cgroup2 file system on, or a whole one.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Connections of these sockets (ebpf), by the cookies that `ss -e` prints behind `sk:`, in
    /// hexadecimal there (0x1f here). Such a rule comes before all others.
    #[serde(default)]
    pub sockets: Vec<u64>,
    /// What is done with them.
    #[serde(default)]
    pub action: ActionConfig,
    /// The share of them that is taken, above 0 and up to 1 (ebpf): whole connections, by a hash.
    #[serde(default = "every")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: f64,
}

fn every() -> f64 {
    1.0
}

/// What is done with a connection.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionConfig {
    /// Recorded whole.
    #[default]
    Capture,
    /// Only the first 16 KiB of each packet: enough for heads, not for long bodies (ebpf).
    Headers,
    /// Left out.
    Ignore,
}

/// Where exchanges go: a folder of archives, each complete by itself.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveConfig {
    /// The folder. Made where there is none; one daemon writes to it at a time.
    pub folder: PathBuf,
    /// The next archive begins when one has so many bytes.
    #[serde(default = "segment_size")]
    pub segment_size: Size,
    /// The next archive begins when one is so old.
    #[serde(default = "segment_age")]
    pub segment_age: Age,
    /// Archives are deleted, oldest first, when all together are larger. Unset: never.
    #[serde(default)]
    pub retain_size: Option<Size>,
    /// Archives are deleted when they are so old. Unset: never.
    #[serde(default)]
    pub retain_age: Option<Age>,
    /// Archives are encrypted to these age recipients (age1...), their index too: docs/encryption.md.
    /// Empty: not at all.
    #[serde(default)]
    pub encrypt_to: Vec<String>,
}

impl ArchiveConfig {
    /// To whom archives are encrypted.
    pub(crate) fn recipients(&self) -> Result<Option<Recipients>, KeyError> {
        if self.encrypt_to.is_empty() {
            return Ok(None);
        }
        Recipients::parse(&self.encrypt_to.join("\n")).map(Some)
    }
}

fn segment_size() -> Size {
    Size(256 << 20)
}

fn segment_age() -> Age {
    Age::from_secs(300)
}

/// What the daemon may use. Over it, new connections are not recorded until it is below again;
/// those that are under way are recorded to their end.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// Processor time, in cores: 0.5 is half of one. Unset: no limit.
    pub cpu: Option<f64>,
    /// Resident memory. Unset: no limit.
    pub memory: Option<Size>,
}

/// How the daemon is watched.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Address and port of /livez, /readyz and /metrics; port 0 takes a free one, which is logged.
    /// `null`: none.
    #[schemars(with = "Option<String>")]
    pub listen: Option<std::net::SocketAddr>,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            listen: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 9464))),
        }
    }
}

/// How connections are named.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttributionConfig {
    /// Find container and pod, or else the process, of each connection (ebpf).
    pub enabled: bool,
    /// The node's /var/log, where the kubelet's folders have the names of pods and containers.
    pub node_logs: PathBuf,
}

impl Default for AttributionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            node_logs: "/var/log".into(),
        }
    }
}

/// The daemon as a part of a cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// The name of the node. Unset: what the environment has as NODE_NAME.
    pub node: Option<String>,
    /// Tapedeck's own namespace: recordings there may select pods of others. Unset: what the
    /// environment has as POD_NAMESPACE.
    pub namespace: Option<String>,
    /// How to reach the API server. Unset: by the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// The stores that snapshots may go to (YAML). Unset: none, and snapshots fail.
    pub stores: Option<PathBuf>,
    /// How long traffic of a pod that nothing is known of yet is held, until it is known whether it
    /// is recorded.
    pub quarantine: Age,
    /// How much of it is held, at least 64KiB.
    pub quarantine_size: Size,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            node: None,
            namespace: None,
            kubeconfig: None,
            stores: None,
            quarantine: Age::from_secs(10),
            quarantine_size: Size(8 << 20),
        }
    }
}

/// What the daemon says about itself, on standard error.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How much. Addresses are said at `debug` and below only; what connections carry, never.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What stops the daemon.
    Error,
    /// What somebody should look at.
    Warn,
    /// What it does.
    #[default]
    Info,
    /// How it does it.
    Debug,
    /// Everything.
    Trace,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has mistakes: a line each, with file and place. The first one where it is not YAML, or not of
    /// the right shape; else all values that make no sense.
    #[error("{}\n{HELP}", .0.join("\n"))]
    Mistakes(Vec<String>),
}

const HELP: &str = "every key is shown in docs/configuration/tapedeckd.yaml, and described by `tapedeckd --schema`";

/// The smallest ring that makes sense: a few of the largest packets.
const MIN_RING: u64 = 1 << 20;

/// The largest that the kernel takes.
const MAX_RING: u64 = 1 << 30;

/// The farthest that a thread can step back.
const MAX_NICE: u8 = 19;

/// The smallest quarantine: a few exchanges.
const MIN_QUARANTINE: u64 = 64 << 10;

/// The smallest segment: below it more goes into the edges of archives than into exchanges.
const MIN_SEGMENT: u64 = 1 << 20;

impl Config {
    /// Reads and checks a configuration file (YAML, of which JSON is a part).
    ///
    /// # Errors
    ///
    /// When it cannot be read; what is wrong with it, and where.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads and checks the text of a configuration file of that name.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::Mistakes(vec![mistake(&error, name)]))?;
        let mut problems = config.problems();
        if problems.is_empty() {
            problems.extend(config.contradiction());
        }
        if problems.is_empty() {
            return Ok(config);
        }
        let lines = problems.iter().map(|problem| format!("{name}: {problem}"));
        Err(ConfigError::Mistakes(lines.collect()))
    }

    /// The JSON Schema of the file.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    /// What to capture.
    #[must_use]
    pub fn options(&self) -> Options {
        let CaptureConfig {
            backend,
            interface,
            network_namespace,
            filter,
            cgroup,
            ignore_own_cgroup,
            ring_size,
            threads,
            nice: _,
            keep_privileges: _,
        } = self.capture.clone();
        Options {
            backend: match backend {
                BackendConfig::Auto => Backend::Auto,
                BackendConfig::Ebpf => Backend::Ebpf,
                BackendConfig::AfPacket => Backend::AfPacket,
                BackendConfig::Libpcap => Backend::Libpcap,
            },
            interface,
            network_namespace,
            filter,
            cgroup,
            ignore_own_cgroup,
            policy: self.policy(),
            ring_bytes: ring_size.0.try_into().unwrap_or(usize::MAX),
            threads,
        }
    }

    fn policy(&self) -> Policy {
        if self.kubernetes.is_some() {
            // Until a recording says what.
            return Policy {
                rules: Vec::new(),
                otherwise: Action::Ignore,
            };
        }
        let rules: Vec<Rule> = self
            .rules
            .iter()
            .map(|rule| Rule {
                of: match &rule.cgroup {
                    Some(cgroup) => Match::Cgroup(cgroup.clone()),
                    None if !rule.sockets.is_empty() => Match::Sockets(rule.sockets.clone()),
                    None => Match::Ports(rule.ports.clone()),
                },
                action: action(rule.action),
                sample: rule.sample,
            })
            .collect();
        let takes_some = rules.iter().any(|rule| rule.action != Action::Ignore);
        let otherwise = match self.otherwise {
            Some(otherwise) => action(otherwise),
            None if takes_some => Action::Ignore,
            None => Action::Capture,
        };
        Policy { rules, otherwise }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut complain = |is_wrong: bool, text: String| {
            if is_wrong {
                problems.push(text);
            }
        };
        let Self {
            capture,
            rules,
            archive,
            budget,
            ..
        } = self;
        complain(
            !(MIN_RING..=MAX_RING).contains(&capture.ring_size.0),
            format!(
                "capture.ring_size: {} is not between {} and {}",
                capture.ring_size,
                Size(MIN_RING),
                Size(MAX_RING)
            ),
        );
        complain(
            capture.threads.get() > 4,
            format!("capture.threads: {} is more than 4", capture.threads),
        );
        complain(
            capture.nice > MAX_NICE,
            format!("capture.nice: {} is more than {MAX_NICE}", capture.nice),
        );
        complain(
            rules.len() > tapedeck_ebpf_abi::MAX_RULES,
            format!(
                "rules: {} are more than {}",
                rules.len(),
                tapedeck_ebpf_abi::MAX_RULES
            ),
        );
        for (index, rule) in rules.iter().enumerate() {
            let named = [
                !rule.ports.is_empty(),
                rule.cgroup.is_some(),
                !rule.sockets.is_empty(),
            ];
            complain(
                named.into_iter().filter(|is_named| *is_named).count() != 1,
                format!("rules[{index}]: names ports, a cgroup or sockets: one of them"),
            );
            complain(
                !(rule.sample > 0.0 && rule.sample <= 1.0),
                format!(
                    "rules[{index}].sample: {} is not above 0 and up to 1",
                    rule.sample
                ),
            );
        }
        complain(
            archive.folder.as_os_str().is_empty(),
            "archive.folder: is empty".to_owned(),
        );
        if let Err(error) = archive.recipients() {
            complain(true, format!("archive.encrypt_to: {error}"));
        }
        complain(
            archive.segment_size.0 < MIN_SEGMENT,
            format!(
                "archive.segment_size: {} is less than {}",
                archive.segment_size,
                Size(MIN_SEGMENT)
            ),
        );
        complain(
            archive.segment_age.duration().as_secs() == 0,
            "archive.segment_age: is less than a second".to_owned(),
        );
        complain(
            archive
                .retain_size
                .is_some_and(|size| size.0 < archive.segment_size.0),
            "archive.retain_size: is less than archive.segment_size, so nothing would be kept"
                .to_owned(),
        );
        complain(
            budget
                .cpu
                .is_some_and(|cpu| !(cpu > 0.0 && cpu.is_finite())),
            "budget.cpu: is not a number of cores above 0".to_owned(),
        );
        problems.extend(self.kubernetes_problems());
        problems
    }

    /// What no machine can capture, as the start would say it.
    fn contradiction(&self) -> Option<String> {
        let mut options = self.options();
        if self.kubernetes.is_some() {
            options.backend = Backend::Ebpf;
        }
        let error = capture::check(&options).err()?;
        let key = match &error {
            OpenError::WrongOption { option, .. } => {
                format!("capture.{}", option.replace(' ', "_"))
            }
            OpenError::Threads { .. } => "capture.threads".to_owned(),
            OpenError::Failed { source, .. } => match source {
                SourceError::Filter { .. } => "capture.filter",
                SourceError::NotBuilt { .. } => "capture.backend",
                _ => "rules",
            }
            .to_owned(),
            OpenError::Contradiction | OpenError::AllFailed(_) => "capture".to_owned(),
        };
        Some(format!("{key}: {}", in_words(&error)))
    }

    fn kubernetes_problems(&self) -> Vec<String> {
        let Some(kubernetes) = &self.kubernetes else {
            return Vec::new();
        };
        let mut problems = Vec::new();
        if !self.rules.is_empty() || self.otherwise.is_some() {
            problems.push(
                "kubernetes: recordings say what is recorded: `rules` and `otherwise` have no place \
                 beside it"
                    .to_owned(),
            );
        }
        if !matches!(
            self.capture.backend,
            BackendConfig::Auto | BackendConfig::Ebpf
        ) {
            problems.push(
                "kubernetes: pods are told apart by their sockets, which takes the backend ebpf"
                    .to_owned(),
            );
        }
        if kubernetes.quarantine_size.0 < MIN_QUARANTINE {
            problems.push(format!(
                "kubernetes.quarantine_size: {} is less than {}",
                kubernetes.quarantine_size,
                Size(MIN_QUARANTINE)
            ));
        }
        problems
    }
}

/// What the reader of YAML says, as `FILE:LINE:COLUMN: WHAT`: it says more for a terminal.
fn mistake(error: &serde_saphyr::Error, name: &str) -> String {
    let text = error.without_snippet().to_string();
    let text = text.trim_start_matches("error: ");
    let what = match text.split(" at line ").next().unwrap_or(text) {
        "invalid u16" => "expected a port: a whole number from 0 to 65535",
        "invalid u32" | "invalid u64" | "invalid usize" => "expected a whole number of 0 or more",
        "invalid f64" => "expected a number",
        what => what,
    };
    match error.location() {
        Some(at) if at.line() > 0 => format!("{name}:{}:{}: {what}", at.line(), at.column()),
        _ => format!("{name}: {what}"),
    }
}

const fn action(action: ActionConfig) -> Action {
    match action {
        ActionConfig::Capture => Action::Capture,
        ActionConfig::Headers => Action::Headers,
        ActionConfig::Ignore => Action::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, "a.yaml")
    }

    #[track_caller]
    fn refuse(text: &str, expect: &[&str]) {
        let error = parse(text).unwrap_err().to_string();
        for part in expect {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
    }

    #[test]
    fn the_shortest_configuration_names_a_folder() {
        let config = parse("archive: { folder: /var/lib/tapedeck }").unwrap();
        let options = config.options();
        assert_eq!(options.backend, Backend::Auto);
        assert_eq!(options.policy, Policy::default());
        assert!(options.ignore_own_cgroup);
        assert_eq!(config.archive.segment_size, Size(256 << 20));
        assert_eq!(config.archive.segment_age, Age::from_secs(300));
        assert_eq!(config.archive.retain_size, None);
    }

    #[test]
    fn rules_become_a_policy() {
        let parse = |text: &str| {
            let archive = "archive: { folder: a }\n";
            parse(&format!("{archive}{text}")).unwrap().policy()
        };
        assert_eq!(
            parse("rules: [{ ports: [80, 8080] }]"),
            Policy::only_ports(&[80, 8080])
        );
        let policy = parse(
            "rules:\n- { cgroup: /kubepods.slice, sample: 0.5, action: headers }\n\
             - { ports: [22], action: ignore }\notherwise: capture",
        );
        assert_eq!(policy.rules.len(), 2);
        assert_eq!(policy.rules[0].of, Match::Cgroup("/kubepods.slice".into()));
        assert_eq!(policy.otherwise, Action::Capture);
        // As the comment of the documented example has it.
        assert_eq!(
            parse("rules: [{ sockets: [0x1f] }]"),
            Policy::only_sockets(&[31])
        );
        // Rules that only leave out leave the rest in.
        let policy = parse("rules: [{ ports: [22], action: ignore }]");
        assert_eq!(policy.otherwise, Action::Capture);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        refuse(
            "archive: { folder: a }\nkubernetes: { nodes: a }",
            &["unknown field `nodes`"],
        );
        refuse(
            "archive: { folder: a }\nbudgets: {}",
            &["a.yaml:2:1: unknown field `budgets`, expected one of capture, rules"],
        );
        refuse(
            "archive: { folder: a }\nrules: [{ ports: [70000] }]",
            &["a.yaml:2:19: expected a port: a whole number from 0 to 65535"],
        );
        refuse("archive: { folder: a, retain: 1 }", &["retain"]);
        refuse("capture: {}", &["archive"]);
        refuse(
            "archive: { folder: a, encrypt_to: [age1nobody] }",
            &["archive.encrypt_to", "not a recipient"],
        );
        refuse(
            "archive: { folder: a, segment_size: 10 potatoes }",
            &["10 potatoes"],
        );
        refuse(
            "archive: { folder: a }\ncapture: { backend: dtrace }",
            &["dtrace"],
        );
        refuse("archive: [", &["a.yaml:1:10: "]);
        refuse("", &["end of input"]);
        refuse(
            "archive: { folder: a, segment_size: 10MiB, retain_size: 1MiB }\n\
             capture: { ring_size: 4KiB, threads: 9, nice: 20 }\n\
             rules: [{ ports: [1], cgroup: b }, { sample: 2.0, ports: [1] }, {}]\n\
             budget: { cpu: 0 }",
            &[
                "a.yaml: capture.ring_size: 4KiB is not between 1MiB and 1GiB",
                "capture.threads",
                "capture.nice: 20 is more than 19",
                "rules[0]: names",
                "rules[1].sample: 2",
                "rules[2]: names",
                "archive.retain_size",
                "budget.cpu",
            ],
        );
        refuse(
            "archive: { folder: a }\nrules: [{ ports: [1] }]\ncapture: { backend: af-packet }\n\
             kubernetes: { quarantine_size: 1KiB }",
            &[
                "`rules` and `otherwise` have no place",
                "takes the backend ebpf",
                "kubernetes.quarantine_size: 1KiB is less than 64KiB",
            ],
        );
    }

    /// What could never start is no valid configuration.
    #[test]
    fn what_no_backend_can_do_is_a_mistake() {
        let refuse = |more: &str, expect: &str| {
            refuse(&format!("archive: {{ folder: a }}\n{more}"), &[expect]);
        };
        refuse(
            "capture: { backend: ebpf, interface: lo }",
            "a.yaml: capture.interface: the ebpf backend knows no interface",
        );
        refuse(
            "capture: { backend: ebpf, network_namespace: /run/netns/a }",
            "a.yaml: capture.network_namespace: the ebpf backend knows no network namespace",
        );
        refuse(
            "capture: { backend: af-packet, cgroup: /a }",
            "a.yaml: capture.cgroup: the af-packet backend knows no cgroup",
        );
        refuse(
            "capture: { interface: lo, cgroup: /a }",
            "a.yaml: capture: an interface or network namespace is for",
        );
        refuse(
            "capture: { interface: lo }\nkubernetes: {}",
            "a.yaml: capture.interface: the ebpf backend knows no interface",
        );
        for rule in [
            "ports: [80], sample: 0.5",
            "ports: [80], action: headers",
            "cgroup: /a",
            "sockets: [1]",
        ] {
            refuse(
                &format!("capture: {{ backend: af-packet }}\nrules: [{{ {rule} }}]"),
                "a.yaml: rules: cannot capture with af-packet: rules by cgroup or socket, samples",
            );
        }
        let ports: Vec<_> = (1..300).map(|port: u16| port.to_string()).collect();
        refuse(
            &format!(
                "capture: {{ backend: af-packet }}\nrules: [{{ ports: [{}] }}]",
                ports.join(", ")
            ),
            "a.yaml: rules: cannot capture with af-packet: 299 ports to capture",
        );
        refuse(
            "capture: { backend: ebpf, threads: 3 }",
            "a.yaml: capture.threads: the ebpf backend is read by 1, 2 or 4 threads, not by 3",
        );
        refuse("capture: { threads: 3 }", "1, 2 or 4 threads, not by 3");
        parse("archive: { folder: a }\ncapture: { backend: af-packet, threads: 3 }").unwrap();
        let wrong = if cfg!(feature = "libpcap") {
            "a.yaml: capture.filter: cannot capture with libpcap: libpcap does not take the filter \
             \"tcp prot 80\": "
        } else {
            "a.yaml: capture.backend: cannot capture with libpcap: this build has no libpcap"
        };
        refuse("capture: { filter: tcp prot 80 }", wrong);
        refuse("capture: { filter: tcp prot 80, interface: lo }", wrong);
        if cfg!(feature = "libpcap") {
            let wifi = "capture: { filter: wlan type mgt, interface: wlan0 }";
            parse(&format!("archive: {{ folder: a }}\n{wifi}")).unwrap();
            refuse(
                "capture: { filter: tcp, threads: 2 }",
                "the libpcap backend is read by one thread, not by 2",
            );
        }
    }

    #[test]
    fn the_schema_in_the_repository_is_that_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration/schema.json");
        let schema = format!("{:#}\n", Config::schema());
        if std::env::var_os("TAPEDECK_BLESS").is_some() {
            fs::write(&path, &schema).unwrap();
            return;
        }
        let kept = fs::read_to_string(&path).unwrap();
        assert!(kept == schema, "stale: run this test with TAPEDECK_BLESS=1");
    }

    #[test]
    fn the_documented_example_is_valid_and_shows_every_key() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration/tapedeckd.yaml");
        let text = fs::read_to_string(path).unwrap();
        let config = parse(&text).unwrap();
        let value = serde_json::to_value(&config).unwrap();
        let mut keys = Vec::new();
        collect_keys(&value, &mut keys);
        for key in keys {
            assert!(text.contains(&format!("{key}:")), "the example lacks {key}");
        }
    }

    fn collect_keys(value: &serde_json::Value, keys: &mut Vec<String>) {
        if let Some(object) = value.as_object() {
            for (key, value) in object {
                keys.push(key.clone());
                collect_keys(value, keys);
            }
        }
    }
}

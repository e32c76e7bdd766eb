//! What the daemon tells the programs while they run, and what they tell it beside packets.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use tapedeck_ebpf_abi::{self as abi, Counter, MAX_RULES, Settings, names};

use super::cgroup::cgroup_id;
use super::source::{program, take_map};
use crate::sources::{Action, Drops, Match, Owners, Policy, Queue, Rule, SourceError, Tap};
use crate::sys::RingGauge;

/// Sockets with a rule of their own: a quarter of what their map holds, as it forgets the one that was
/// not looked up for longest, and that only roughly.
const MAX_SOCKETS: usize = 1_024;

/// The maps of the programs, and the programs themselves, which live as long as this.
pub(super) struct EbpfTap {
    programs: Option<aya::Ebpf>,
    counters: PerCpuArray<MapData, u64>,
    settings: Array<MapData, [u32; Settings::WORDS]>,
    policies: Array<MapData, [u32; 2]>,
    ports: Array<MapData, u64>,
    cgroups: HashMap<MapData, u64, u32>,
    cookies: HashMap<MapData, u64, u32>,
    owners: Option<HashMap<MapData, u64, [u8; 24]>>,
    /// What the maps hold.
    ports_set: BTreeMap<u16, u8>,
    cgroups_set: BTreeMap<u64, u32>,
    cookies_set: BTreeMap<u64, u32>,
    now: Settings,
    /// The rules that are in force are in the second half of the numbers.
    in_second_half: bool,
    gauges: Vec<RingGauge>,
    /// The programs are on the root of all cgroups, and so see both ends of a loopback connection.
    sees_both_ends: bool,
}

impl EbpfTap {
    pub(super) fn new(programs: &mut aya::Ebpf, on_root: bool) -> Result<Self, SourceError> {
        let mut take = |name| take_map(programs, name);
        Ok(Self {
            counters: PerCpuArray::try_from(take(names::COUNTERS)?).map_err(SourceError::bpf)?,
            settings: Array::try_from(take(names::SETTINGS)?).map_err(SourceError::bpf)?,
            policies: Array::try_from(take(names::POLICIES)?).map_err(SourceError::bpf)?,
            ports: Array::try_from(take(names::PORTS)?).map_err(SourceError::bpf)?,
            cgroups: HashMap::try_from(take(names::CGROUPS)?).map_err(SourceError::bpf)?,
            cookies: HashMap::try_from(take(names::COOKIES)?).map_err(SourceError::bpf)?,
            owners: Some(HashMap::try_from(take(names::OWNERS)?).map_err(SourceError::bpf)?),
            programs: None,
            ports_set: BTreeMap::new(),
            cgroups_set: BTreeMap::new(),
            cookies_set: BTreeMap::new(),
            now: Settings::default(),
            in_second_half: true,
            gauges: Vec::new(),
            sees_both_ends: on_root,
        })
    }

    /// Keeps the programs loaded and attached.
    pub(super) fn keep(&mut self, programs: aya::Ebpf) {
        self.programs = Some(programs);
    }

    /// Tells from now on how full this ring is.
    pub(super) fn watch(&mut self, ring: &Map) -> Result<(), SourceError> {
        let Map::RingBuf(data) = ring else {
            return Err(SourceError::Unsupported("a ring buffer of that name"));
        };
        let size = u64::from(data.info().map_err(SourceError::bpf)?.max_entries());
        let gauge = RingGauge::new(data.fd().as_fd(), size)
            .map_err(SourceError::system("map the ring buffer's positions"))?;
        self.gauges.push(gauge);
        Ok(())
    }

    fn write_settings(&mut self) -> Result<(), SourceError> {
        // The programs set these two themselves, and nobody takes them back.
        let before: [u32; Settings::WORDS] = self.settings.get(&0, 0).map_err(SourceError::bpf)?;
        let [_, _, _, _, _, refused, _, _, translated] = before;
        self.now.refused |= refused;
        self.now.translated |= translated;
        self.settings
            .set(0, self.now.to_words(), 0)
            .map_err(SourceError::bpf)
    }

    fn write_ports(&mut self, wanted: BTreeMap<u16, u8>) -> Result<(), SourceError> {
        let before = std::mem::take(&mut self.ports_set);
        let changed: Vec<u16> = before
            .keys()
            .chain(wanted.keys())
            .copied()
            .filter(|port| before.get(port) != wanted.get(port))
            .collect();
        let mut entries: BTreeMap<u32, u64> = BTreeMap::new();
        for port in changed {
            let index = u32::from(port >> 3);
            let entry = match entries.entry(index) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(self.ports.get(&index, 0).map_err(SourceError::bpf)?)
                }
            };
            let shift = u32::from(port & 7) * 8;
            let rule = wanted.get(&port).copied().unwrap_or(0);
            *entry = *entry & !(0xff << shift) | u64::from(rule) << shift;
        }
        for (index, entry) in entries {
            self.ports.set(index, entry, 0).map_err(SourceError::bpf)?;
        }
        self.ports_set = wanted;
        Ok(())
    }

    fn counter(&self, counter: Counter) -> Result<u64, SourceError> {
        let per_cpu = self
            .counters
            .get(&(counter as u32), 0)
            .map_err(SourceError::bpf)?;
        Ok(per_cpu.iter().sum())
    }
}

/// Whether there is room for these rules, on any machine.
///
/// # Errors
///
/// When there is not.
pub fn check(policy: &Policy) -> Result<(), SourceError> {
    if policy.rules.len() > MAX_RULES {
        return Err(SourceError::TooManyRules {
            given: policy.rules.len(),
            most: MAX_RULES,
        });
    }
    let sockets = policy.rules.iter().map(|rule| match &rule.of {
        Match::Sockets(cookies) => cookies.len(),
        Match::Ports(_) | Match::Cgroup(_) | Match::Cgroups(_) => 0,
    });
    let sockets = sockets.sum();
    if sockets > MAX_SOCKETS {
        return Err(SourceError::TooManySockets {
            given: sockets,
            most: MAX_SOCKETS,
        });
    }
    Ok(())
}

impl Tap for EbpfTap {
    fn detach(&mut self) -> Result<(), SourceError> {
        let Some(programs) = &mut self.programs else {
            return Ok(());
        };
        for name in [names::EGRESS, names::INGRESS] {
            program(programs, name)?
                .unload()
                .map_err(SourceError::bpf)?;
        }
        self.programs = None;
        Ok(())
    }

    fn drops(&mut self) -> Result<Drops, SourceError> {
        let mut drops = Drops::default();
        for counter in [
            Counter::RingFull,
            Counter::Unreadable,
            Counter::TooLong,
            Counter::Malformed,
        ] {
            drops.add(counter.name(), self.counter(counter)?);
        }
        drops.payload_bytes = self.counter(Counter::RingFullBytes)?
            + self.counter(Counter::UnreadableBytes)?
            + self.counter(Counter::TooLongBytes)?;
        drops.connections_refused = self.counter(Counter::Refused)?;
        drops.left_out = self.counter(Counter::LeftOut)?;
        Ok(drops)
    }

    fn admit(&mut self, admit: bool) -> Result<bool, SourceError> {
        let refuse = u32::from(!admit);
        if self.now.refuse != refuse {
            self.now.refuse = refuse;
            self.write_settings()?;
        }
        Ok(true)
    }

    fn set_policy(&mut self, policy: &Policy) -> Result<Vec<String>, SourceError> {
        check(policy)?;
        // The numbers of the rules in force keep their meaning until no port and no cgroup has them
        // any more.
        let first = if self.in_second_half {
            1
        } else {
            MAX_RULES + 1
        };
        self.in_second_half = !self.in_second_half;
        let (mut ports, mut cgroups) = (BTreeMap::new(), BTreeMap::new());
        let mut cookies = BTreeMap::new();
        let mut complaints = Vec::new();
        for (index, rule) in policy.rules.iter().enumerate() {
            let number = (first + index) as u8;
            self.policies
                .set(u32::from(number), words(rule), 0)
                .map_err(SourceError::bpf)?;
            match &rule.of {
                Match::Ports(of) => {
                    for port in of {
                        ports.entry(*port).or_insert(number);
                    }
                }
                Match::Sockets(of) => {
                    for cookie in of {
                        cookies.entry(*cookie).or_insert_with(|| u32::from(number));
                    }
                }
                Match::Cgroups(ids) => {
                    for id in ids {
                        cgroups.entry(*id).or_insert_with(|| u32::from(number));
                    }
                }
                Match::Cgroup(path) => match cgroup_id(path) {
                    Ok(id) => {
                        cgroups.entry(id).or_insert_with(|| u32::from(number));
                    }
                    Err(error) => complaints.push(error.to_string()),
                },
            }
        }
        self.now.by_port = u32::from(!ports.is_empty());
        self.now.by_socket = u32::from(!cookies.is_empty());
        self.now.by_cgroup = u32::from(!cgroups.is_empty());
        self.now.loopback_once = u32::from(self.sees_both_ends && !policy.tells_ends_apart());
        self.now.generation = self.now.generation.wrapping_add(1);
        self.write_ports(ports)?;
        write(&mut self.cgroups, &mut self.cgroups_set, cgroups)?;
        write(&mut self.cookies, &mut self.cookies_set, cookies)?;
        let otherwise = Rule {
            of: Match::Ports(Vec::new()),
            action: policy.otherwise,
            sample: 1.0,
        };
        self.policies
            .set(0, words(&otherwise), 0)
            .map_err(SourceError::bpf)?;
        self.write_settings()?;
        Ok(complaints)
    }

    fn queues(&self) -> Vec<Queue> {
        let queue = |gauge: &RingGauge| Queue {
            used: gauge.waiting(),
            size: gauge.size(),
        };
        self.gauges.iter().map(queue).collect()
    }

    fn owners(&mut self) -> Option<Box<dyn Owners + Send>> {
        Some(Box::new(SocketOwners(self.owners.take()?)))
    }
}

/// Puts the numbers of rules into a map, and takes those out that are no more.
fn write(
    map: &mut HashMap<MapData, u64, u32>,
    set: &mut BTreeMap<u64, u32>,
    wanted: BTreeMap<u64, u32>,
) -> Result<(), SourceError> {
    for (key, rule) in &wanted {
        map.insert(key, rule, 0).map_err(SourceError::bpf)?;
    }
    for key in set.keys().filter(|key| !wanted.contains_key(key)) {
        match map.remove(key) {
            // The map of cookies forgets by itself what is not looked up for long.
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
            Err(error) => return Err(SourceError::bpf(error)),
        }
    }
    *set = wanted;
    Ok(())
}

/// The owners that the programs noted.
struct SocketOwners(HashMap<MapData, u64, [u8; 24]>);

impl Owners for SocketOwners {
    fn owner(&self, cookie: u64) -> Option<(u32, String)> {
        let owner = abi::Owner::read(&self.0.get(&cookie, 0).ok()?);
        let name = owner.name.split(|byte| *byte == 0).next()?;
        Some((owner.pid, String::from_utf8_lossy(name).into_owned()))
    }
}

fn words(rule: &Rule) -> [u32; 2] {
    let action = match rule.action {
        Action::Capture => abi::Policy::CAPTURE,
        Action::Headers => abi::Policy::HEADERS,
        Action::Ignore => abi::Policy::IGNORE,
    };
    let (action, sample) = if rule.sample >= 1.0 {
        (action, abi::Policy::EVERY)
    } else if rule.sample > 0.0 {
        (action, (rule.sample * f64::from(u32::MAX)) as u32)
    } else {
        (abi::Policy::IGNORE, 0)
    };
    abi::Policy { action, sample }.to_words()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_becomes_a_threshold() {
        let of = |action, sample| {
            words(&Rule {
                of: Match::Ports(vec![]),
                action,
                sample,
            })
        };
        assert_eq!(of(Action::Headers, 1.0), [abi::Policy::HEADERS, u32::MAX]);
        assert_eq!(
            of(Action::Capture, 0.5),
            [abi::Policy::CAPTURE, u32::MAX / 2]
        );
        assert_eq!(of(Action::Capture, 0.0)[0], abi::Policy::IGNORE);
    }
}

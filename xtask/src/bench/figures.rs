//! What was measured of a capture, and the bounds that hold for it.

use super::measure::Cost;
use super::wire::Kind;

/// What was run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    Tcpdump,
    Engine,
    Import,
    Zstd,
    Tcpflow,
    Tshark,
}

impl Peer {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcpdump => "`tcpdump -w /dev/null`",
            Self::Engine => "**engine alone**",
            Self::Import => "**`tapedeck import`**",
            Self::Zstd => "`zstd -3 -T1`",
            Self::Tcpflow => "`tcpflow`",
            Self::Tshark => "`tshark -Y … -T fields`",
        }
    }
}

/// What was measured of a capture.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) kind: Kind,
    pub(crate) capture_len: u64,
    pub(crate) costs: Vec<(Peer, Cost)>,
    /// The same for ten times the capture.
    pub(crate) long: Vec<(Peer, Cost)>,
    pub(crate) archive_len: u64,
    pub(crate) zstd_len: u64,
}

/// A figure beside its bound. Both say how many times something else it is.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) at_most: f64,
    pub(crate) aim: Option<f64>,
}

impl Figures {
    pub(crate) const fn new(kind: Kind, capture_len: u64) -> Self {
        Self {
            kind,
            capture_len,
            costs: Vec::new(),
            long: Vec::new(),
            archive_len: 0,
            zstd_len: 0,
        }
    }

    /// The bounds of issue 3, as far as they were measured.
    pub(crate) fn bounds(&self) -> Vec<Bound> {
        // (beside tcpdump: bound, aim), (beside zstd: bound, aim)
        let (tcpdump, zstd) = match self.kind.name {
            "calls" => ((6.0, Some(2.0)), (2.0, Some(0.7))),
            "bodies" => ((2.0, None), (1.0, Some(0.7))),
            _ => ((6.0, Some(2.0)), (2.0, Some(0.7))),
        };
        let mut bounds = Vec::new();
        let mut beside = |ours, theirs, (at_most, aim): (f64, Option<f64>)| {
            if let Some(measured) = self.ratio(ours, theirs) {
                bounds.push(Bound {
                    what: format!("{} / {}", ours.name(), theirs.name()),
                    measured,
                    at_most,
                    aim,
                });
            }
        };
        beside(Peer::Engine, Peer::Tcpdump, tcpdump);
        beside(Peer::Engine, Peer::Tcpflow, (1.0, None));
        beside(Peer::Engine, Peer::Tshark, (1.0 / 40.0, Some(0.01)));
        beside(Peer::Import, Peer::Zstd, zstd);
        bounds.push(Bound {
            what: "archive / `zstd` output".to_owned(),
            measured: self.archive_len as f64 / self.zstd_len.max(1) as f64,
            at_most: 1.0,
            aim: None,
        });
        for (suffix, costs) in [("", &self.costs), (", ten times as long", &self.long)] {
            for (peer, cost) in costs {
                if matches!(peer, Peer::Engine | Peer::Import) {
                    bounds.push(Bound {
                        what: format!("resident memory of {}{suffix} / 128 MiB", peer.name()),
                        measured: cost.resident_kib as f64 / (128 << 10) as f64,
                        at_most: 1.0,
                        aim: None,
                    });
                }
            }
        }
        bounds
    }

    fn ratio(&self, ours: Peer, theirs: Peer) -> Option<f64> {
        let of = |wanted| {
            let (_, cost) = self.costs.iter().find(|(peer, _)| *peer == wanted)?;
            Some(cost.cpu.as_secs_f64())
        };
        Some(of(ours)? / of(theirs)?.max(f64::MIN_POSITIVE))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::wire::KINDS;
    use super::*;

    #[test]
    fn a_bound_compares_what_it_names() {
        let mut figures = Figures::new(KINDS[0], 1 << 30);
        for (peer, seconds) in [(Peer::Tcpdump, 2), (Peer::Engine, 5), (Peer::Zstd, 9)] {
            let cost = Cost {
                cpu: Duration::from_secs(seconds),
                ..Cost::default()
            };
            figures.costs.push((peer, cost));
        }
        let bounds = figures.bounds();
        assert!((bounds[0].measured - 2.5).abs() < 1e-9);
        assert!((bounds[0].at_most - 6.0).abs() < 1e-9);
        // What was not run is not there: the import, tcpflow, tshark.
        assert_eq!(bounds.len(), 3);
    }
}

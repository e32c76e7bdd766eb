//! The golden captures under bad luck that the fuzzer chooses.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use tapedeck_model::{Ledger, Timestamp};
use tapedeck_testkit::Rng;

use crate::captures::{Case, NEAR, Packet, Said, Tape, cases, disordered, kept, read, unplaced};
use crate::packets::assert_laws;
use crate::program::Program;

/// A capture of real programs of which packets are lost, repeated and out of order, as the program
/// says. Whatever happened,
///
/// - what says that it is whole was said, to the last byte;
/// - what was over before the first loss is still whole;
/// - one lost segment makes one gap at most, no longer than itself;
/// - several threads find what one finds;
/// - the ledger adds up.
pub fn luck(bytes: &[u8]) {
    let mut program = Program::new(bytes);
    let golden = Golden::chosen(&mut program);
    // What a tunnel carries is read as what it is where nobody saw it opened.
    if golden.case.name.ends_with("-connect") {
        return;
    }
    let control = program.byte();
    let packets = &golden.case.packets;
    let before = if control & 4 == 0 {
        0
    } else {
        program.below(40)
    };
    let (luck, captured) = match control & 3 {
        0 | 1 => edited(packets, before, &mut program),
        2 => {
            let (seed, loss) = (program.word().into(), program.below(60) as u8);
            let luck = format!("(before, seed, loss) = ({before}, {seed}, {loss})");
            (luck, kept(packets, before, seed, loss))
        }
        _ => {
            let (seed, loss) = (program.word().into(), program.below(60) as u8);
            let mut rng = Rng::new(seed);
            let mut captured = disordered(packets, &mut rng);
            captured.retain(|_| !rng.chance(loss));
            (format!("out of order, {seed}, {loss}"), captured)
        }
    };
    let (tape, ledger) = golden.read(&captured, 1);
    let complain = |what: String| panic!("{}, {luck}: {what}", golden.case.name);
    assert_laws(&ledger);
    assert_eq!(ledger.exchanges, tape.exchanges.len() as u64);
    let checks = [
        golden.check_whole(&tape),
        golden.check_beginning(&captured, &tape),
        golden.check_gaps(&captured, &ledger),
    ];
    checks.into_iter().flatten().for_each(complain);
    if control & 0x80 != 0 {
        let (many, other) = golden.read(&captured, 3);
        let is_same = tape.exchanges == many.exchanges
            && tape.said == many.said
            && tape.unread == many.unread
            && ledger == other;
        assert!(is_same, "{}, {luck}: on three threads", golden.case.name);
    }
}

/// What happens to each packet, as the program says: so many are captured, then something happens.
fn edited(packets: &[Packet], before: usize, program: &mut Program<'_>) -> (String, Vec<Packet>) {
    let mut captured = packets.get(before..).unwrap_or_default().to_vec();
    let mut luck = format!("from {before} on");
    let mut place = 0;
    while !program.is_over() {
        place += usize::from(program.byte());
        if place >= captured.len() {
            break;
        }
        let control = program.byte();
        luck.push_str(&format!(", {control} at {place}"));
        match control & 7 {
            5 => {
                let end = captured.len().min(place + 2 + usize::from(control >> 3));
                captured.drain(place..end);
            }
            6 if captured[place].may_move() => {
                let again = captured[place].clone();
                captured.insert(place, again);
                place += 2;
            }
            7 if place + 1 < captured.len() => {
                if let [first, second] = &mut captured[place..place + 2]
                    && first.may_move()
                    && second.may_move()
                    && second.at.since(first.at) < NEAR
                {
                    std::mem::swap(first, second);
                    std::mem::swap(&mut first.at, &mut second.at);
                }
                place += 2;
            }
            _ => drop(captured.remove(place)),
        }
    }
    (luck, captured)
}

/// A golden capture, and what it says undisturbed.
struct Golden {
    case: Case,
    truth: BTreeSet<Said>,
    /// What was said on each whole exchange, and when it was known to be over: with its last byte, or
    /// with the close that ends it.
    ends: Vec<(Timestamp, Said)>,
    ledger: Ledger,
}

impl Golden {
    fn chosen(program: &mut Program<'_>) -> &'static Self {
        static CASES: OnceLock<Vec<(OnceLock<Golden>, Case)>> = OnceLock::new();
        let cases = CASES.get_or_init(|| {
            let unread = |case| (OnceLock::new(), case);
            cases().into_iter().map(unread).collect()
        });
        let (golden, case) = &cases[program.below(cases.len())];
        golden.get_or_init(|| Self::new(case.clone()))
    }

    fn new(case: Case) -> Self {
        let (tape, ledger) = read(&case.packets, case.keys.as_ref(), 1);
        let ends = tape.told.iter().zip(&tape.said);
        let ends = ends
            .filter(|(_, said)| said.missing.is_empty())
            .filter_map(|(at, said)| Some(((*at)?, said.without_place())))
            .collect();
        Self {
            truth: unplaced(tape),
            ends,
            ledger,
            case,
        }
    }

    fn read(&self, packets: &[Packet], threads: usize) -> (Tape, Ledger) {
        read(packets, self.case.keys.as_ref(), threads)
    }

    fn check_whole(&self, tape: &Tape) -> Option<String> {
        let mut whole = tape.said.iter().filter(|said| said.missing.is_empty());
        let wrong = whole.find(|said| !self.truth.contains(&said.without_place()));
        wrong.map(|said| format!("nobody said {}", brief(said)))
    }

    /// What was over before the first packet that is not as it was.
    fn check_beginning(&self, captured: &[Packet], tape: &Tape) -> Option<String> {
        let pairs = self.case.packets.iter().zip(captured);
        let same = pairs.take_while(|(a, b)| a.at == b.at && a.data == b.data);
        let behind = self.case.packets.get(same.count()..)?;
        // Where there are several interfaces, time steps back.
        let first = behind.iter().map(|packet| packet.at).min()?;
        let said: BTreeSet<Said> = tape.said.iter().map(Said::without_place).collect();
        let mut over = self.ends.iter().filter(|(at, _)| *at < first);
        let (_, missing) = over.find(|(_, over)| !said.contains(over))?;
        Some(format!("it was over before: {}", brief(missing)))
    }

    /// One segment is missing, and nothing else happened.
    fn check_gaps(&self, captured: &[Packet], ledger: &Ledger) -> Option<String> {
        let packets = &self.case.packets;
        if packets.len() != captured.len() + 1 {
            return None;
        }
        let pairs = packets.iter().zip(captured);
        let same = pairs.take_while(|(a, b)| a.at == b.at && a.data == b.data);
        let place = same.count();
        let lost = packets.get(place).filter(|lost| lost.may_move())?;
        let behind = packets.get(place + 1..)?.iter();
        let is_all = behind
            .zip(captured.get(place..)?)
            .all(|(a, b)| a.at == b.at && a.data == b.data);
        let gaps = ledger.gaps.saturating_sub(self.ledger.gaps);
        let bytes = ledger.gap_bytes.saturating_sub(self.ledger.gap_bytes);
        let holds = gaps <= 1 && bytes <= u64::from(lost.wire_len);
        (is_all && !holds).then(|| {
            let len = lost.wire_len;
            format!("{gaps} gaps of {bytes} bytes for one packet of {len}")
        })
    }
}

fn brief(said: &Said) -> String {
    let sides = [&said.request, &said.response].map(|spoken| match spoken {
        None => "nothing".to_owned(),
        Some(spoken) => {
            let head = spoken.head.get(..60).unwrap_or(&spoken.head);
            format!("{} + {} bytes", head.escape_ascii(), spoken.body.len())
        }
    });
    sides.join(" / ")
}

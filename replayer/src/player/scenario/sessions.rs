//! What iterations send: the recorded exchanges, by user, each behind what it waited for.

use std::collections::HashMap;
use std::time::Duration;

use tapedeck_model::Timestamp;

use crate::player::endpoints::EndpointId;
use crate::player::scenario::executor::Iteration;

/// One exchange that a scenario may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) at: Timestamp,
    /// How long it took.
    pub(crate) took: Duration,
    pub(crate) connection: u64,
    /// A hash of the user's key; `None`: the request does not tell.
    pub(crate) user: Option<u128>,
    pub(crate) endpoint: EndpointId,
    /// The index of the weight that counts for it.
    pub(crate) group: usize,
}

/// One exchange of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Step {
    pub(crate) id: u64,
    /// After the end of the step that it waits for; where there is none, after the session's start.
    pub(crate) delay: Duration,
    pub(crate) endpoint: EndpointId,
    /// The steps that wait for this one: the first, and from each the next.
    first_waiting: u32,
    next_waiting: u32,
}

/// The sessions of a recording, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    steps: Vec<Step>,
    /// Where each session begins in `steps`.
    starts: Vec<u32>,
    /// The weight that counts for each session.
    groups: Vec<u16>,
}

impl Sessions {
    const NONE: u32 = u32::MAX;

    /// Puts members together. Within a session an exchange waits for the one that was answered
    /// last before it began: what was sent one by one stays so, what was sent at once stays that,
    /// too. A request that does not tell its user belongs to the next one on its connection that
    /// does (a login comes before the token), else to the one before.
    pub(crate) fn new(mut members: Vec<Member>, iteration: Iteration) -> Self {
        members.sort_by_key(|member| (member.at, member.id));
        let mut all = Self::default();
        match iteration {
            Iteration::Exchange => {
                for member in &members {
                    all.add(std::slice::from_ref(member));
                }
            }
            Iteration::Session => {
                for session in by_user(members) {
                    all.add(&session);
                }
            }
        }
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// How many exchanges they hold together.
    pub(crate) fn exchanges(&self) -> usize {
        self.steps.len()
    }

    pub(crate) fn session(&self, index: usize) -> Session<'_> {
        let from = self.starts.get(index).map_or(0, |start| *start as usize);
        let until = self.starts.get(index + 1);
        let until = until.map_or(self.steps.len(), |start| *start as usize);
        Session(self.steps.get(from..until).unwrap_or_default())
    }

    fn add(&mut self, members: &[Member]) {
        let Some(first) = members.first() else { return };
        self.starts
            .push(u32::try_from(self.steps.len()).unwrap_or(u32::MAX));
        let group = members.iter().map(|member| member.group).min();
        self.groups
            .push(group.and_then(|g| u16::try_from(g).ok()).unwrap_or(0));
        let base = self.steps.len();
        let ends: Vec<Timestamp> = members
            .iter()
            .map(|m| m.at.saturating_add(m.took))
            .collect();
        // Those answered so far, the latest answer last; members come by their beginning.
        let mut answered: Vec<usize> = (0..members.len()).collect();
        answered.sort_by_key(|index| ends[*index]);
        let mut answered = answered.into_iter().peekable();
        let mut latest = None;
        for (index, member) in members.iter().enumerate() {
            // An exchange whose end is not known, or that took no time at all, waits for nobody
            // that began after it.
            while let Some(next) =
                answered.next_if(|next| ends[*next] <= member.at && *next < index)
            {
                latest = Some(next);
            }
            let since = latest.map_or(first.at, |latest| ends[latest]);
            self.steps.push(Step {
                id: member.id,
                delay: member.at.since(since),
                endpoint: member.endpoint,
                first_waiting: Self::NONE,
                next_waiting: Self::NONE,
            });
            if let Some(latest) = latest {
                self.wait_for(base, latest, index);
            }
        }
    }

    fn wait_for(&mut self, base: usize, earlier: usize, later: usize) {
        let Some((before, rest)) = self.steps.split_at_mut_checked(base + later) else {
            return;
        };
        if let (Some(earlier), Some(step)) = (before.get_mut(base + earlier), rest.first_mut()) {
            step.next_waiting = earlier.first_waiting;
            earlier.first_waiting = u32::try_from(later).unwrap_or(Self::NONE);
        }
    }
}

/// The steps of one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session<'a>(pub(crate) &'a [Step]);

impl<'a> Session<'a> {
    /// The steps that wait for nothing but the session's start, by their index.
    pub(crate) fn roots(&self) -> impl Iterator<Item = usize> + use<'a> {
        let steps = self.0;
        let mut waits = vec![false; steps.len()];
        for step in steps {
            let mut next = step.first_waiting;
            while let Some(wait) = waits.get_mut(next as usize) {
                *wait = true;
                next = steps
                    .get(next as usize)
                    .map_or(Sessions::NONE, |s| s.next_waiting);
            }
        }
        (0..steps.len()).filter(move |index| !waits.get(*index).copied().unwrap_or(true))
    }

    /// The steps that wait for this one.
    pub(crate) fn waiting_for(&self, index: usize) -> impl Iterator<Item = usize> + use<'a> {
        let steps = self.0;
        let first = steps.get(index).map(|step| step.first_waiting);
        std::iter::successors(first, move |next| {
            steps.get(*next as usize).map(|step| step.next_waiting)
        })
        .map(|index| index as usize)
        .take_while(move |index| *index < steps.len())
    }
}

fn by_user(members: Vec<Member>) -> Vec<Vec<Member>> {
    #[derive(Clone, Copy, Eq, Hash, PartialEq)]
    enum Owner {
        User(u128),
        Connection(u64),
    }

    let mut owners: Vec<Owner> = vec![Owner::Connection(0); members.len()];
    let mut next_on: HashMap<u64, Owner> = HashMap::new();
    for (member, owner) in members.iter().zip(&mut owners).rev() {
        let told = member.user.map(Owner::User);
        if let Some(told) = told {
            next_on.insert(member.connection, told);
        }
        let next = next_on.get(&member.connection);
        *owner = told
            .or_else(|| next.copied())
            .unwrap_or(Owner::Connection(member.connection));
    }
    // Those behind the last that tells.
    let mut last_on: HashMap<u64, Owner> = HashMap::new();
    for (member, owner) in members.iter().zip(&mut owners) {
        if let Owner::Connection(connection) = owner {
            *owner = last_on.get(connection).copied().unwrap_or(*owner);
        } else {
            last_on.insert(member.connection, *owner);
        }
    }

    let mut places: HashMap<Owner, usize> = HashMap::new();
    let mut sessions: Vec<Vec<Member>> = Vec::new();
    for (member, owner) in members.into_iter().zip(owners) {
        let place = *places.entry(owner).or_insert(sessions.len());
        if place == sessions.len() {
            sessions.push(Vec::new());
        }
        if let Some(session) = sessions.get_mut(place) {
            session.push(member);
        }
    }
    sessions
}

/// Which session each iteration gets: in recorded order, and from the beginning when all had their
/// turn; where there are weights, so that every stretch has about their shares.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    groups: Vec<Vec<u32>>,
    /// One period: the group of each turn, and how often that group had its turn in it before.
    period: Vec<(u16, u32)>,
    /// Turns of each group in a period.
    shares: Vec<u32>,
}

impl Mix {
    /// Entries of a period.
    pub(crate) const MAX_PERIOD: u32 = 100_000;

    /// Groups without sessions have no turn.
    pub(crate) fn new(sessions: &Sessions, weights: &[u32]) -> Self {
        let mut groups: Vec<Vec<u32>> = vec![Vec::new(); weights.len().max(1)];
        for (index, group) in (0..).zip(&sessions.groups) {
            if let Some(group) = groups.get_mut(usize::from(*group)) {
                group.push(index);
            }
        }
        let weight = |index: usize| weights.get(index).copied().unwrap_or(1);
        let shares: Vec<u32> = groups
            .iter()
            .enumerate()
            .map(|(index, group)| if group.is_empty() { 0 } else { weight(index) })
            .collect();
        let total: i64 = shares.iter().map(|share| i64::from(*share)).sum();
        // Everyone earns its share each turn; the richest has the turn, and pays all that was
        // earned.
        let mut credit = vec![0_i64; shares.len()];
        let mut turns = vec![0_u32; shares.len()];
        let mut period = Vec::new();
        for _ in 0..total {
            for (credit, share) in credit.iter_mut().zip(&shares) {
                *credit += i64::from(*share);
            }
            let richest = (0..credit.len()).max_by_key(|i| (credit[*i], std::cmp::Reverse(*i)));
            let Some(richest) = richest else { break };
            credit[richest] -= total;
            period.push((u16::try_from(richest).unwrap_or(0), turns[richest]));
            turns[richest] += 1;
        }
        Self {
            groups,
            period,
            shares,
        }
    }

    /// The sessions of so many iterations; `None`: of as many as there are. Each session at least once.
    pub(crate) fn sent(&self, iterations: Option<u64>) -> Vec<usize> {
        let shared = self
            .groups
            .iter()
            .zip(&self.shares)
            .filter(|(_, share)| **share > 0);
        let all = shared.flat_map(|(group, _)| group.iter().map(|session| *session as usize));
        let all: Vec<usize> = all.collect();
        match iterations.filter(|n| *n < all.len() as u64) {
            Some(few) => (0..few).filter_map(|n| self.session(n)).collect(),
            None => all,
        }
    }

    /// Iterations until each session has had its turn.
    pub(crate) fn round(&self) -> u64 {
        let groups = self.groups.iter().zip(&self.shares);
        let periods = groups.map(|(group, share)| group.len().div_ceil((*share).max(1) as usize));
        periods.max().unwrap_or(0) as u64 * self.period.len() as u64
    }

    /// The session of an iteration, counted from zero; `None` where there are no sessions.
    pub(crate) fn session(&self, iteration: u64) -> Option<usize> {
        let len = self.period.len() as u64;
        let (round, turn) = (iteration.checked_div(len)?, iteration.checked_rem(len)?);
        let (group, before) = *self.period.get(usize::try_from(turn).ok()?)?;
        let share = u64::from(*self.shares.get(usize::from(group))?);
        let group = self.groups.get(usize::from(group))?;
        let turn = round.wrapping_mul(share).wrapping_add(u64::from(before));
        let index = turn.checked_rem(group.len() as u64)?;
        group.get(usize::try_from(index).ok()?).map(|s| *s as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (id, at, took, connection, user), times in milliseconds.
    fn member((id, at, took, connection, user): (u64, u64, u64, u64, u128)) -> Member {
        Member {
            id,
            at: Timestamp::EPOCH.saturating_add(Duration::from_millis(at)),
            took: Duration::from_millis(took),
            connection,
            user: (user > 0).then_some(user),
            endpoint: EndpointId::default(),
            group: 0,
        }
    }

    fn sessions(members: &[(u64, u64, u64, u64, u128)]) -> Sessions {
        let members = members.iter().copied().map(member).collect();
        Sessions::new(members, Iteration::Session)
    }

    fn ids(sessions: &Sessions) -> Vec<Vec<u64>> {
        let ids = |index| {
            sessions
                .session(index)
                .0
                .iter()
                .map(|step| step.id)
                .collect()
        };
        (0..sessions.len()).map(ids).collect()
    }

    #[test]
    fn a_session_is_the_exchanges_of_one_user() {
        let found = sessions(&[
            // User 1 logs in on connection 1, and goes on over connection 2.
            (0, 0, 5, 1, 0),
            (1, 10, 5, 1, 1),
            (4, 40, 5, 2, 1),
            (5, 50, 5, 1, 0),
            // User 2 comes to connection 1 later; nobody tells of connection 3.
            (2, 100, 5, 1, 2),
            (3, 20, 5, 3, 0),
            (6, 120, 5, 1, 0),
        ]);
        // 5 stands before user 2's first request: a login looks like this.
        assert_eq!(ids(&found), [vec![0, 1, 4], vec![3], vec![5, 2, 6]]);
    }

    #[test]
    fn steps_wait_for_what_was_answered_before_them() {
        let found = sessions(&[
            (0, 0, 100, 1, 0),
            // Two at once behind the first, and one that waits for the slower of them.
            (1, 150, 50, 1, 0),
            (2, 160, 100, 1, 0),
            (3, 300, 10, 1, 0),
            // One that began before 3 was answered, so that it waited for 2 as well.
            (4, 305, 10, 1, 0),
        ]);
        let session = found.session(0);
        let millis: Vec<_> = session
            .0
            .iter()
            .map(|step| step.delay.as_millis())
            .collect();
        assert_eq!(millis, [0, 50, 60, 40, 45]);
        assert_eq!(session.roots().collect::<Vec<_>>(), [0]);
        let waiting = |index| {
            let mut waiting: Vec<_> = session.waiting_for(index).collect();
            waiting.sort_unstable();
            waiting
        };
        assert_eq!(waiting(0), [1, 2]);
        assert_eq!(waiting(1), [0_usize; 0]);
        assert_eq!(waiting(2), [3, 4]);
    }

    #[test]
    fn what_began_at_once_has_no_order() {
        let found = sessions(&[(0, 0, 50, 1, 0), (1, 10, 0, 1, 0), (2, 10, 0, 1, 0)]);
        let session = found.session(0);
        // The third was answered when the second was: it may wait for it, but never the reverse.
        assert_eq!(session.roots().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(session.waiting_for(1).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn single_exchanges_are_sessions_of_one() {
        let members = [(3, 5, 1, 1, 1), (1, 0, 1, 1, 1)].map(member).to_vec();
        let found = Sessions::new(members, Iteration::Exchange);
        assert_eq!(ids(&found), [[1], [3]]);
        assert_eq!(found.session(1).0[0].delay, Duration::ZERO);
    }

    #[test]
    fn sessions_take_turns_and_begin_again() {
        let found = sessions(&[(0, 0, 1, 1, 0), (1, 1, 1, 2, 0), (2, 2, 1, 3, 0)]);
        let mix = Mix::new(&found, &[]);
        let order: Vec<_> = (0..7).filter_map(|n| mix.session(n)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(Mix::new(&Sessions::default(), &[]).session(0), None);
    }

    #[test]
    fn weights_are_shares_of_every_stretch() {
        let members = (0..6).map(|n| Member {
            group: usize::from(n >= 4),
            ..member((n, n, 1, n, 0))
        });
        let found = Sessions::new(members.collect(), Iteration::Session);
        let mix = Mix::new(&found, &[1, 3]);
        let order: Vec<_> = (0..12).filter_map(|n| mix.session(n)).collect();
        assert_eq!(order, [4, 0, 5, 4, 5, 1, 4, 5, 4, 2, 5, 4]);
        // A group that nothing belongs to leaves its share to the others.
        let mix = Mix::new(&found, &[1, 3, 5]);
        assert_eq!(
            (0..4).filter_map(|n| mix.session(n)).collect::<Vec<_>>(),
            [4, 0, 5, 4]
        );
    }
}

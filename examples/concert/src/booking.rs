//! The rules of the booking service: who may reserve what, and who pays. No HTTP, no clock: the
//! caller says what time it is.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use thiserror::Error;

use crate::draw;

/// What a service is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seats of each date of each concert.
    pub seats: u32,
    /// Determines every id that is made up; see [`draw::name`].
    pub seed: u64,
    /// Users that are remembered. A crowd that invents users without end must not take all
    /// memory.
    pub max_users: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seats: 50,
            seed: 0,
            max_users: 1_000_000,
        }
    }
}

/// Why a call is refused.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub enum Refusal {
    /// The token is not one of ours, or has expired.
    #[error("the token is unknown or has expired")]
    UnknownToken,
    /// The user id is empty or too long.
    #[error("a user id has 1 to 64 bytes")]
    BadUserId,
    /// No more users fit.
    #[error("no more users can be taken in; try again later")]
    Full,
    /// There is no such concert.
    #[error("there is no concert {0}")]
    UnknownConcert(u32),
    /// The concert is not given on that date.
    #[error("concert {concert} is not given on {date}")]
    UnknownDate {
        /// The concert.
        concert: u32,
        /// The date that was asked for.
        date: String,
    },
    /// The hall has no such seat.
    #[error("there is no seat {0}")]
    UnknownSeat(u32),
    /// Somebody else holds or has bought the seat.
    #[error("seat {0} is taken")]
    SeatTaken(u32),
    /// The amount is not one that can be charged.
    #[error("an amount is from 1 to {MAX_CHARGE}")]
    BadAmount,
    /// There is no such reservation of this user.
    #[error("there is no reservation {0}")]
    UnknownReservation(String),
    /// The reservation was not paid in time.
    #[error("reservation {0} has expired")]
    Expired(String),
    /// The reservation is paid already.
    #[error("reservation {0} is paid already")]
    Paid(String),
    /// The balance is too low.
    #[error("the price is {price}, the balance {balance}")]
    TooFewPoints {
        /// What it costs.
        price: u64,
        /// What is there.
        balance: u64,
    },
}

/// A token and its times.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// What later calls carry.
    pub token: String,
    /// Whose it is.
    pub user_id: String,
    /// When it was given.
    #[serde(serialize_with = "rfc3339")]
    pub issued_at: Timestamp,
    /// For how many seconds it is good.
    pub expires_in: i64,
}

/// A date on which a concert is given.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct DateOffer {
    /// The date, as `YYYY-MM-DD`.
    pub date: &'static str,
    /// Seats that are free.
    pub remaining: usize,
}

/// The dates of a concert.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dates {
    /// The concert.
    pub concert_id: u32,
    /// Its title.
    pub title: &'static str,
    /// Dates with free seats, and those sold out.
    pub dates: Vec<DateOffer>,
}

/// A free seat.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeatOffer {
    /// Its number, from 1.
    pub seat_number: u32,
    /// Its grade.
    pub grade: &'static str,
    /// Its price in points.
    pub price: u64,
}

/// The free seats of a date.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seats {
    /// The concert.
    pub concert_id: u32,
    /// The date.
    pub date: &'static str,
    /// The seats, by number.
    pub seats: Vec<SeatOffer>,
}

/// A reservation as its owner sees it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reserved {
    /// Its id.
    pub reservation_id: String,
    /// The concert.
    pub concert_id: u32,
    /// The date.
    pub date: &'static str,
    /// The seat.
    #[serde(flatten)]
    pub seat: SeatOffer,
    /// `PENDING` until it is paid.
    pub status: &'static str,
    /// Until when the seat is held.
    #[serde(serialize_with = "rfc3339")]
    pub expires_at: Timestamp,
}

/// A user's points.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// The user.
    pub user_id: String,
    /// The points.
    pub balance: u64,
}

/// A payment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Paid {
    /// Its id.
    pub payment_id: String,
    /// What was paid for.
    pub reservation_id: String,
    /// How much it cost.
    pub paid: u64,
    /// What is left.
    pub balance: u64,
    /// `CONFIRMED`.
    pub status: &'static str,
    /// When.
    #[serde(serialize_with = "rfc3339")]
    pub paid_at: Timestamp,
}

/// The state of the service.
#[derive(Debug)]
pub struct Booking {
    options: Options,
    users: HashMap<String, User>,
    /// Token to user id. A user has one token: a new one replaces it.
    tokens: HashMap<String, String>,
    reservations: HashMap<String, Reservation>,
    /// Seat to the reservation that holds or has bought it.
    held: BTreeMap<Seat, String>,
}

impl Booking {
    /// A service without users, all seats free.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            users: HashMap::new(),
            tokens: HashMap::new(),
            reservations: HashMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// Gives a user a token; the first one makes the user.
    ///
    /// # Errors
    /// A user id that is not one, or no room for a new user.
    pub fn token(&mut self, user_id: &str, now: Timestamp) -> Result<Token, Refusal> {
        if user_id.is_empty() || user_id.len() > 64 {
            return Err(Refusal::BadUserId);
        }
        if !self.users.contains_key(user_id) && self.users.len() >= self.options.max_users {
            return Err(Refusal::Full);
        }
        let user = self.users.entry(user_id.to_owned()).or_default();
        let token = format!("{:032x}", user.name(self.options.seed, "token", user_id));
        if let Some(old) = user.token.replace((token.clone(), now + TOKEN_LIFE)) {
            self.tokens.remove(&old.0);
        }
        self.tokens.insert(token.clone(), user_id.to_owned());
        Ok(Token {
            token,
            user_id: user_id.to_owned(),
            issued_at: now,
            expires_in: TOKEN_LIFE.as_secs(),
        })
    }

    /// The user that a token belongs to.
    ///
    /// # Errors
    /// A token that was never given, was replaced, or has expired.
    pub fn user(&self, token: &str, now: Timestamp) -> Result<String, Refusal> {
        let user_id = self.tokens.get(token).ok_or(Refusal::UnknownToken)?;
        let valid_until = self.users.get(user_id).and_then(|user| user.token.as_ref());
        if valid_until.is_none_or(|(_, until)| *until <= now) {
            return Err(Refusal::UnknownToken);
        }
        Ok(user_id.clone())
    }

    /// The dates of a concert.
    ///
    /// # Errors
    /// An unknown concert.
    pub fn dates(&self, concert_id: u32, now: Timestamp) -> Result<Dates, Refusal> {
        let concert = concert(concert_id)?;
        let dates = concert.dates.iter().map(|&date| DateOffer {
            date,
            remaining: self.free(concert, date, now).len(),
        });
        Ok(Dates {
            concert_id,
            title: concert.title,
            dates: dates.collect(),
        })
    }

    /// The free seats of a date.
    ///
    /// # Errors
    /// An unknown concert or date.
    pub fn seats(&self, concert_id: u32, date: &str, now: Timestamp) -> Result<Seats, Refusal> {
        let concert = concert(concert_id)?;
        let date = concert.date(date)?;
        Ok(Seats {
            concert_id,
            date,
            seats: self.free(concert, date, now),
        })
    }

    /// Holds a seat for a user until it is paid or the hold expires.
    ///
    /// # Errors
    /// An unknown concert, date or seat, or a seat that is taken.
    pub fn reserve(
        &mut self,
        user_id: &str,
        concert_id: u32,
        date: &str,
        number: u32,
        now: Timestamp,
    ) -> Result<Reserved, Refusal> {
        let date = concert(concert_id)?.date(date)?;
        if number == 0 || number > self.options.seats {
            return Err(Refusal::UnknownSeat(number));
        }
        let seat = Seat {
            concert_id,
            date,
            number,
        };
        if !self.is_free(seat, now) {
            return Err(Refusal::SeatTaken(number));
        }
        let Some(user) = self.users.get_mut(user_id) else {
            return Err(Refusal::UnknownToken);
        };
        let id = uuid(user.name(self.options.seed, "reservation", user_id));
        let offer = offer(number, self.options.seats);
        let expires = now + HOLD;
        self.reservations.insert(
            id.clone(),
            Reservation {
                user_id: user_id.to_owned(),
                price: offer.price,
                state: State::Pending(expires),
            },
        );
        self.held.insert(seat, id.clone());
        Ok(Reserved {
            reservation_id: id,
            concert_id,
            date,
            seat: offer,
            status: "PENDING",
            expires_at: expires,
        })
    }

    /// Adds points.
    ///
    /// # Errors
    /// An amount that is zero or too large.
    pub fn charge(&mut self, user_id: &str, amount: u64) -> Result<Balance, Refusal> {
        if amount == 0 || amount > MAX_CHARGE {
            return Err(Refusal::BadAmount);
        }
        let user = self.users.get_mut(user_id).ok_or(Refusal::UnknownToken)?;
        user.balance = user.balance.saturating_add(amount);
        Ok(Balance {
            user_id: user_id.to_owned(),
            balance: user.balance,
        })
    }

    /// A user's points.
    ///
    /// # Errors
    /// An unknown user.
    pub fn balance(&self, user_id: &str) -> Result<Balance, Refusal> {
        let user = self.users.get(user_id).ok_or(Refusal::UnknownToken)?;
        Ok(Balance {
            user_id: user_id.to_owned(),
            balance: user.balance,
        })
    }

    /// Pays a reservation with the points of its owner.
    ///
    /// # Errors
    /// A reservation that is not there, not the user's, expired or paid already; too few points.
    pub fn pay(&mut self, user_id: &str, id: &str, now: Timestamp) -> Result<Paid, Refusal> {
        let reservation = self
            .reservations
            .get_mut(id)
            // Somebody else's reservation is answered like none: ids must not be probed.
            .filter(|reservation| reservation.user_id == user_id)
            .ok_or_else(|| Refusal::UnknownReservation(id.to_owned()))?;
        match reservation.state {
            State::Paid => return Err(Refusal::Paid(id.to_owned())),
            State::Pending(until) if until <= now => return Err(Refusal::Expired(id.to_owned())),
            State::Pending(_) => {}
        }
        let user = self.users.get_mut(user_id).ok_or(Refusal::UnknownToken)?;
        let price = reservation.price;
        let Some(left) = user.balance.checked_sub(price) else {
            return Err(Refusal::TooFewPoints {
                price,
                balance: user.balance,
            });
        };
        user.balance = left;
        reservation.state = State::Paid;
        Ok(Paid {
            payment_id: uuid(user.name(self.options.seed, "payment", user_id)),
            reservation_id: id.to_owned(),
            paid: price,
            balance: left,
            status: "CONFIRMED",
            paid_at: now,
        })
    }

    fn free(&self, concert: &Concert, date: &'static str, now: Timestamp) -> Vec<SeatOffer> {
        (1..=self.options.seats)
            .filter(|&number| {
                self.is_free(
                    Seat {
                        concert_id: concert.id,
                        date,
                        number,
                    },
                    now,
                )
            })
            .map(|number| offer(number, self.options.seats))
            .collect()
    }

    /// Whether nobody holds a seat, or the hold has expired.
    fn is_free(&self, seat: Seat, now: Timestamp) -> bool {
        self.held
            .get(&seat)
            .and_then(|id| self.reservations.get(id))
            .is_none_or(
                |reservation| matches!(reservation.state, State::Pending(until) if until <= now),
            )
    }
}

#[derive(Debug)]
struct User {
    balance: u64,
    token: Option<(String, Timestamp)>,
    /// How many names this user was given.
    n_names: u64,
}

impl User {
    fn name(&mut self, seed: u64, kind: &str, user_id: &str) -> u128 {
        self.n_names += 1;
        draw::name(seed, kind, user_id, self.n_names)
    }
}

impl Default for User {
    fn default() -> Self {
        Self {
            balance: WELCOME_POINTS,
            token: None,
            n_names: 0,
        }
    }
}

#[derive(Debug)]
struct Reservation {
    user_id: String,
    price: u64,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Pending(Timestamp),
    Paid,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Seat {
    concert_id: u32,
    date: &'static str,
    number: u32,
}

struct Concert {
    id: u32,
    title: &'static str,
    dates: &'static [&'static str],
}

impl Concert {
    fn date(&self, date: &str) -> Result<&'static str, Refusal> {
        self.dates
            .iter()
            .copied()
            .find(|known| *known == date)
            .ok_or_else(|| Refusal::UnknownDate {
                concert: self.id,
                date: date.to_owned(),
            })
    }
}

fn concert(id: u32) -> Result<&'static Concert, Refusal> {
    CONCERTS
        .iter()
        .find(|concert| concert.id == id)
        .ok_or(Refusal::UnknownConcert(id))
}

/// A tenth of the hall is dear, half of it cheap enough for the points that everyone starts with.
fn offer(number: u32, seats: u32) -> SeatOffer {
    let (grade, price) = match number.saturating_mul(10).div_ceil(seats.max(1)) {
        ..=1 => ("VIP", 150_000),
        2..=5 => ("R", 110_000),
        _ => ("S", 80_000),
    };
    SeatOffer {
        seat_number: number,
        grade,
        price,
    }
}

/// `name` in the form of a UUID, version 8 (RFC 9562 section 5.8: the bits are the application's).
fn uuid(name: u128) -> String {
    let name = (name & !(0xf << 76) & !(0x3 << 62)) | (0x8 << 76) | (0x2 << 62);
    let hex = format!("{name:032x}");
    let (a, rest) = hex.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

fn rfc3339<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    struct Millis<'a>(&'a Timestamp);
    impl Display for Millis<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{:.3}", self.0)
        }
    }
    serializer.collect_str(&Millis(at))
}

/// The most that is charged at once.
const MAX_CHARGE: u64 = 1_000_000;
/// Points of a new user: enough for a cheap seat only.
const WELCOME_POINTS: u64 = 100_000;
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);
const HOLD: SignedDuration = SignedDuration::from_mins(5);

/// A crowded concert and a quiet one.
const CONCERTS: &[Concert] = &[
    Concert {
        id: 1,
        title: "Han River Winter Gala",
        dates: &[
            "2026-12-23",
            "2026-12-24",
            "2026-12-25",
            "2026-12-30",
            "2026-12-31",
        ],
    },
    Concert {
        id: 2,
        title: "Chamber Evening",
        dates: &["2026-12-28", "2026-12-29"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "2026-12-24";

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn booking(seats: u32) -> Booking {
        Booking::new(Options {
            seats,
            seed: 5,
            max_users: 3,
        })
    }

    fn with_users(seats: u32) -> Booking {
        let mut booking = booking(seats);
        for user in ["ann", "bob"] {
            booking.token(user, now()).unwrap();
        }
        booking
    }

    #[test]
    fn tokens_name_their_user_until_replaced_or_expired() {
        let mut booking = booking(1);
        let first = booking.token("ann", now()).unwrap().token;
        assert_eq!(booking.user(&first, now()), Ok("ann".to_owned()));
        assert_eq!(
            booking.user(&first, now() + TOKEN_LIFE),
            Err(Refusal::UnknownToken)
        );
        let second = booking.token("ann", now()).unwrap().token;
        assert_ne!(first, second);
        assert_eq!(booking.user(&first, now()), Err(Refusal::UnknownToken));
        assert_eq!(booking.user(&second, now()), Ok("ann".to_owned()));
    }

    #[test]
    fn users_are_limited_and_their_ids_checked() {
        let mut booking = booking(1);
        for bad in ["", &"x".repeat(65)] {
            assert_eq!(booking.token(bad, now()).unwrap_err(), Refusal::BadUserId);
        }
        for user in ["a", "b", "c"] {
            booking.token(user, now()).unwrap();
        }
        assert_eq!(booking.token("d", now()).unwrap_err(), Refusal::Full);
        // Those who are in stay in.
        booking.token("a", now()).unwrap();
    }

    #[test]
    fn a_seat_goes_to_one_user_until_the_hold_expires() {
        let mut booking = with_users(2);
        let held = booking.reserve("ann", 1, DATE, 1, now()).unwrap();
        assert_eq!(
            booking.reserve("bob", 1, DATE, 1, now()).unwrap_err(),
            Refusal::SeatTaken(1)
        );
        let seats = booking.seats(1, DATE, now()).unwrap().seats;
        assert_eq!(seats.len(), 1);
        let later = now() + HOLD;
        assert_eq!(
            booking.pay("ann", &held.reservation_id, later).unwrap_err(),
            Refusal::Expired(held.reservation_id.clone())
        );
        assert_eq!(booking.dates(1, later).unwrap().dates[1].remaining, 2);
        booking.reserve("bob", 1, DATE, 1, later).unwrap();
    }

    #[test]
    fn a_paid_seat_stays_taken() {
        let mut booking = with_users(1);
        let id = booking.reserve("ann", 1, DATE, 1, now()).unwrap();
        // The only seat of a hall of one is of the cheapest grade.
        assert_eq!(id.seat.price, 80_000);
        let paid = booking.pay("ann", &id.reservation_id, now()).unwrap();
        assert_eq!(paid.balance, 20_000);
        assert_eq!(
            booking.pay("ann", &id.reservation_id, now()).unwrap_err(),
            Refusal::Paid(id.reservation_id)
        );
        let much_later = now() + HOLD + HOLD;
        assert!(booking.seats(1, DATE, much_later).unwrap().seats.is_empty());
    }

    #[test]
    fn a_dear_seat_needs_a_charge() {
        let mut booking = with_users(10);
        let id = booking.reserve("ann", 1, DATE, 1, now()).unwrap();
        let id = id.reservation_id;
        assert_eq!(
            booking.pay("ann", &id, now()).unwrap_err(),
            Refusal::TooFewPoints {
                price: 150_000,
                balance: 100_000
            }
        );
        assert_eq!(booking.charge("ann", 60_000).unwrap().balance, 160_000);
        assert_eq!(booking.pay("ann", &id, now()).unwrap().balance, 10_000);
        assert_eq!(booking.balance("ann").unwrap().balance, 10_000);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let mut booking = with_users(3);
        assert_eq!(
            booking.dates(9, now()).unwrap_err(),
            Refusal::UnknownConcert(9)
        );
        assert!(matches!(
            booking.seats(1, "2026-01-01", now()).unwrap_err(),
            Refusal::UnknownDate { concert: 1, .. }
        ));
        for seat in [0, 4] {
            assert_eq!(
                booking.reserve("ann", 1, DATE, seat, now()).unwrap_err(),
                Refusal::UnknownSeat(seat)
            );
        }
        for amount in [0, MAX_CHARGE + 1] {
            assert_eq!(
                booking.charge("ann", amount).unwrap_err(),
                Refusal::BadAmount
            );
        }
        let id = booking.reserve("ann", 1, DATE, 1, now()).unwrap();
        assert_eq!(
            booking.pay("bob", &id.reservation_id, now()).unwrap_err(),
            Refusal::UnknownReservation(id.reservation_id)
        );
    }

    #[test]
    fn the_seed_and_the_users_own_order_determine_the_ids() {
        let mut first = with_users(3);
        let mut second = with_users(3);
        let ann = first.reserve("ann", 1, DATE, 1, now()).unwrap();
        first.reserve("bob", 1, DATE, 2, now()).unwrap();
        second.reserve("bob", 1, DATE, 2, now()).unwrap();
        let again = second.reserve("ann", 1, DATE, 1, now()).unwrap();
        assert_eq!(ann.reservation_id, again.reservation_id);
    }

    #[test]
    fn ids_have_the_form_of_a_uuid() {
        assert_eq!(uuid(0), "00000000-0000-8000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-8fff-bfff-ffffffffffff");
    }
}

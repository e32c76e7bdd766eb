//! What a user does, answer by answer.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::client::Client;
use super::plan::{Path, Plan};
use super::report::Report;
use super::{Target, Version};

/// Visits the service once and says what was seen.
pub(super) async fn run(
    plan: Plan,
    target: &Target,
    version: Version,
    patience: Duration,
) -> Report {
    let client = match Client::connect(target, version, patience).await {
        Ok(client) => client,
        Err(failure) => {
            let mut report = Report::default();
            report.failed(failure);
            return report;
        }
    };
    let mut visit = Visit { plan, client };
    // `None` is a visit that ended early: an answer failed to come, or left nothing to do. What
    // was seen until then counts all the same.
    let _: Option<()> = visit.all().await;
    visit.client.close().await
}

struct Visit {
    plan: Plan,
    client: Client,
}

impl Visit {
    async fn all(&mut self) -> Option<()> {
        let dates = format!(
            "/reservations/available/dates?concertId={}",
            self.plan.concert_id
        );
        if self.plan.forgets_token {
            self.client.get(&dates).await?;
            self.pause().await;
        }
        let login = json!({ "userId": self.plan.user_id });
        let answer = self.client.post("/auth/token", &login).await?;
        self.client.token = Some(answer.body["token"].as_str()?.to_owned());
        self.pause().await;
        let reservation_id = if self.plan.path == Path::Race {
            // The seat in the middle of the front row, on the first evening.
            self.reserve("2026-12-23", 1).await??
        } else {
            self.find_seat(&dates).await?
        };
        self.pause().await;
        if self.plan.path == Path::WithCharge {
            self.charge(self.plan.charge).await?;
        }
        self.client.get("/points/balance").await?;
        self.pause().await;
        self.pay(&reservation_id).await
    }

    /// Looks at dates and seats until a seat is held; people give up after a few.
    async fn find_seat(&mut self, dates: &str) -> Option<String> {
        let answer = self.client.get(dates).await?;
        let open: Vec<&str> = answer.body["dates"]
            .as_array()?
            .iter()
            .filter(|date| date["remaining"].as_u64().is_some_and(|left| left > 0))
            .filter_map(|date| date["date"].as_str())
            .collect();
        let chosen = self.plan.choose(open.len());
        let date = (*open.get(chosen)?).to_owned();
        for _ in 0..ATTEMPTS {
            self.pause().await;
            let concert = self.plan.concert_id;
            let seats = format!("/reservations/available/seat?date={date}&concertId={concert}");
            let answer = self.client.get(&seats).await?;
            let free = answer.body["seats"].as_array()?;
            let chosen = self.plan.choose(free.len());
            let number = free.get(chosen)?["seatNumber"].as_u64()?;
            self.pause().await;
            if let Some(id) = self.reserve(&date, number).await? {
                return Some(id);
            }
        }
        None
    }

    /// Asks for a seat; the inner `None` says that somebody else has it.
    async fn reserve(&mut self, date: &str, number: u64) -> Option<Option<String>> {
        let body = json!({
            "concertId": self.plan.concert_id,
            "date": date,
            "seatNumber": number,
        });
        let answer = self.client.post("/reservations", &body).await?;
        Some(answer.body["reservationId"].as_str().map(str::to_owned))
    }

    async fn charge(&mut self, amount: u64) -> Option<()> {
        let body = json!({ "amount": amount });
        self.client.post("/points/charge", &body).await?;
        self.pause().await;
        Some(())
    }

    /// Pays; with too few points, charges and tries once more.
    async fn pay(&mut self, reservation_id: &str) -> Option<()> {
        let body = json!({ "reservationId": reservation_id });
        let answer = self.client.post("/reservations/pay", &body).await?;
        if answer.status == 402 {
            self.pause().await;
            self.charge(TOP_UP).await?;
            self.client.post("/reservations/pay", &body).await?;
        }
        Some(())
    }

    async fn pause(&mut self) {
        sleep(self.plan.pause()).await;
    }
}

/// How many seats a user tries before giving up.
const ATTEMPTS: u32 = 3;
/// Enough for any seat.
const TOP_UP: u64 = 200_000;

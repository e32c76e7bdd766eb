//! The booking service over HTTP/1.1 and, with prior knowledge, HTTP/2 on one port.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequestParts, Query, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, LOCATION, SERVER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::booking::{Balance, Booking, Dates, Options, Paid, Refusal, Seats, Token};
use crate::draw;

/// Serves until `stop` is ready, then lets the calls that are under way end.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Small answers must not wait for the acknowledgement of the one before. Where the option
    // cannot be set the peer is gone already, and serving it will say so.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router(options))
        .with_graceful_shutdown(stop)
        .await
}

/// The routes of the service.
pub fn router(options: Options) -> Router {
    let app = Arc::new(App {
        seed: options.seed,
        n_answers: AtomicU64::new(0),
        booking: Mutex::new(Booking::new(options)),
    });
    Router::new()
        .route("/auth/token", post(token))
        .route("/reservations/available/dates", get(dates))
        .route("/reservations/available/seat", get(seats))
        .route("/reservations", post(reserve))
        .route("/reservations/pay", post(pay))
        .route("/points/charge", post(charge))
        .route("/points/balance", get(balance))
        .fallback(unknown)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(map_response_with_state(Arc::clone(&app), mark))
        .with_state(app)
}

struct App {
    seed: u64,
    n_answers: AtomicU64,
    booking: Mutex<Booking>,
}

impl App {
    /// The rules leave the state whole even where they panic: nothing is half done at that point.
    fn booking(&self) -> MutexGuard<'_, Booking> {
        self.booking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Shared = State<Arc<App>>;
type Body<T> = Result<Json<T>, JsonRejection>;
type Params<T> = Result<Query<T>, QueryRejection>;
type Answer<T> = Result<Json<T>, Refused>;

/// The user whom the bearer token of a request names.
struct User(String);

impl FromRequestParts<Arc<App>> for User {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refused> {
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or(Refused::NoToken)?;
        Ok(Self(app.booking().user(token, Timestamp::now())?))
    }
}

/// A call that is answered with an error.
enum Refused {
    /// By the rules.
    ByRule(Refusal),
    /// It carries no token.
    NoToken,
    /// It cannot be understood.
    Malformed(StatusCode, String),
    /// There is nothing at that path, or not with that method.
    NoSuchCall(StatusCode),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::ByRule(refusal)
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self::Malformed(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::Malformed(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::ByRule(refusal) => {
                let (status, code) = status_of(&refusal);
                (status, code, refusal.to_string())
            }
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "TOKEN_MISSING",
                "this call needs a bearer token".to_owned(),
            ),
            Self::Malformed(status, text) => (status, "MALFORMED", text),
            Self::NoSuchCall(status) => (
                status,
                "NO_SUCH_CALL",
                "there is nothing here for that method".to_owned(),
            ),
        };
        let body = Json(ErrorBody {
            error: ErrorText { code, message },
        });
        let mut response = (status, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"concert\""),
            );
        }
        response
    }
}

fn status_of(refusal: &Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::UnknownToken => (StatusCode::UNAUTHORIZED, "TOKEN_UNKNOWN"),
        Refusal::BadUserId => (StatusCode::UNPROCESSABLE_ENTITY, "BAD_USER_ID"),
        Refusal::Full => (StatusCode::SERVICE_UNAVAILABLE, "FULL"),
        Refusal::UnknownConcert(_) => (StatusCode::NOT_FOUND, "UNKNOWN_CONCERT"),
        Refusal::UnknownDate { .. } => (StatusCode::NOT_FOUND, "UNKNOWN_DATE"),
        Refusal::UnknownSeat(_) => (StatusCode::NOT_FOUND, "UNKNOWN_SEAT"),
        Refusal::SeatTaken(_) => (StatusCode::CONFLICT, "SEAT_TAKEN"),
        Refusal::BadAmount => (StatusCode::UNPROCESSABLE_ENTITY, "BAD_AMOUNT"),
        Refusal::UnknownReservation(_) => (StatusCode::NOT_FOUND, "UNKNOWN_RESERVATION"),
        Refusal::Expired(_) => (StatusCode::GONE, "RESERVATION_EXPIRED"),
        Refusal::Paid(_) => (StatusCode::CONFLICT, "ALREADY_PAID"),
        Refusal::TooFewPoints { .. } => (StatusCode::PAYMENT_REQUIRED, "TOO_FEW_POINTS"),
    }
}

#[derive(Serialize)]
struct ErrorBody {
    error: ErrorText,
}

#[derive(Serialize)]
struct ErrorText {
    code: &'static str,
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenBody {
    user_id: String,
}

async fn token(State(app): Shared, body: Body<TokenBody>) -> Answer<Token> {
    let Json(body) = body?;
    Ok(Json(app.booking().token(&body.user_id, Timestamp::now())?))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DatesParams {
    concert_id: u32,
}

async fn dates(State(app): Shared, _: User, params: Params<DatesParams>) -> Answer<Dates> {
    let Query(params) = params?;
    Ok(Json(
        app.booking().dates(params.concert_id, Timestamp::now())?,
    ))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeatsParams {
    date: String,
    concert_id: Option<u32>,
}

async fn seats(State(app): Shared, _: User, params: Params<SeatsParams>) -> Answer<Seats> {
    let Query(params) = params?;
    let concert_id = params.concert_id.unwrap_or(1);
    Ok(Json(app.booking().seats(
        concert_id,
        &params.date,
        Timestamp::now(),
    )?))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReserveBody {
    concert_id: u32,
    date: String,
    seat_number: u32,
}

async fn reserve(
    State(app): Shared,
    User(user): User,
    body: Body<ReserveBody>,
) -> Result<Response, Refused> {
    let Json(body) = body?;
    let reserved = app.booking().reserve(
        &user,
        body.concert_id,
        &body.date,
        body.seat_number,
        Timestamp::now(),
    )?;
    let location = [(
        LOCATION,
        format!("/reservations/{}", reserved.reservation_id),
    )];
    Ok((StatusCode::CREATED, location, Json(reserved)).into_response())
}

#[derive(Deserialize)]
struct ChargeBody {
    amount: u64,
}

async fn charge(State(app): Shared, User(user): User, body: Body<ChargeBody>) -> Answer<Balance> {
    let Json(body) = body?;
    Ok(Json(app.booking().charge(&user, body.amount)?))
}

async fn balance(State(app): Shared, User(user): User) -> Answer<Balance> {
    Ok(Json(app.booking().balance(&user)?))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PayBody {
    reservation_id: String,
}

async fn pay(State(app): Shared, User(user): User, body: Body<PayBody>) -> Answer<Paid> {
    let Json(body) = body?;
    Ok(Json(app.booking().pay(
        &user,
        &body.reservation_id,
        Timestamp::now(),
    )?))
}

async fn unknown() -> Refused {
    Refused::NoSuchCall(StatusCode::NOT_FOUND)
}

async fn method_not_allowed() -> Refused {
    Refused::NoSuchCall(StatusCode::METHOD_NOT_ALLOWED)
}

/// The fields that every answer has.
async fn mark(State(app): Shared, mut response: Response) -> Response {
    let nth = app.n_answers.fetch_add(1, Ordering::Relaxed);
    let id = format!("{:032x}", draw::name(app.seed, "request", "", nth));
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(SERVER, HeaderValue::from_static("concert"));
    response
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

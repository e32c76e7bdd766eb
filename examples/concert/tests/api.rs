//! The answers of the service, byte for byte where it matters.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

use concert::api::router;
use concert::booking::Options;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

struct Api {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Api {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router(Options::default())).await });
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    async fn call(
        &mut self,
        method: &str,
        target: &str,
        token: Option<&str>,
        body: &str,
    ) -> (StatusCode, HeaderMap, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "concert.test")
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.to_owned().into())).unwrap();
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap();
        (parts.status, parts.headers, body)
    }
}

#[tokio::test]
async fn a_booking_from_token_to_payment() {
    let mut api = Api::start().await;
    let (status, headers, body) = api
        .call("POST", "/auth/token", None, r#"{"userId":"ann"}"#)
        .await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["x-request-id"].len(), 32);
    let token = body["token"].as_str().unwrap().to_owned();
    let token = Some(token.as_str());

    let dates = "/reservations/available/dates?concertId=1";
    let (_, _, body) = api.call("GET", dates, token, "").await;
    let date = body["dates"][0]["date"].as_str().unwrap().to_owned();
    let seats = format!("/reservations/available/seat?date={date}");
    let (_, _, body) = api.call("GET", &seats, token, "").await;
    assert_eq!(body["seats"].as_array().unwrap().len(), 50);

    let wanted = format!(r#"{{"concertId":1,"date":"{date}","seatNumber":50}}"#);
    let (status, headers, body) = api.call("POST", "/reservations", token, &wanted).await;
    assert_eq!(status, 201);
    let id = body["reservationId"].as_str().unwrap().to_owned();
    assert_eq!(headers["location"], format!("/reservations/{id}").as_str());
    assert_eq!(body["price"], 80_000);
    assert_eq!(body["status"], "PENDING");
    let (status, _, body) = api.call("POST", "/reservations", token, &wanted).await;
    assert_eq!(status, 409);
    assert_eq!(body["error"]["code"], "SEAT_TAKEN");

    let pay = format!(r#"{{"reservationId":"{id}"}}"#);
    let (status, _, body) = api.call("POST", "/reservations/pay", token, &pay).await;
    assert_eq!(status, 200);
    assert_eq!(body["balance"], 20_000);
    let (_, _, body) = api.call("GET", "/points/balance", token, "").await;
    assert_eq!(body["balance"], 20_000);
}

#[tokio::test]
async fn every_error_is_json_with_a_code() {
    let mut api = Api::start().await;
    let (_, _, body) = api
        .call("POST", "/auth/token", None, r#"{"userId":"ann"}"#)
        .await;
    let token = body["token"].as_str().unwrap().to_owned();
    let token = Some(token.as_str());
    let dates = "/reservations/available/dates";
    let cases = [
        ("GET", "/points/balance", None, "", 401, "TOKEN_MISSING"),
        (
            "GET",
            "/points/balance",
            Some("x"),
            "",
            401,
            "TOKEN_UNKNOWN",
        ),
        ("POST", "/auth/token", None, "{", 400, "MALFORMED"),
        ("POST", "/auth/token", None, "{}", 422, "MALFORMED"),
        (
            "POST",
            "/auth/token",
            None,
            r#"{"userId":""}"#,
            422,
            "BAD_USER_ID",
        ),
        ("GET", dates, token, "", 400, "MALFORMED"),
        (
            "GET",
            "/reservations/available/dates?concertId=9",
            token,
            "",
            404,
            "UNKNOWN_CONCERT",
        ),
        (
            "POST",
            "/points/charge",
            token,
            r#"{"amount":0}"#,
            422,
            "BAD_AMOUNT",
        ),
        (
            "POST",
            "/reservations/pay",
            token,
            r#"{"reservationId":"x"}"#,
            404,
            "UNKNOWN_RESERVATION",
        ),
        ("GET", "/nowhere", token, "", 404, "NO_SUCH_CALL"),
        ("PUT", "/auth/token", None, "", 405, "NO_SUCH_CALL"),
    ];
    for (method, target, token, body, expected, code) in cases {
        let (status, headers, body) = api.call(method, target, token, body).await;
        assert_eq!(status, expected, "{method} {target}: {body}");
        assert_eq!(body["error"]["code"], code, "{method} {target}: {body}");
        assert_eq!(headers.contains_key("www-authenticate"), status == 401);
    }
}

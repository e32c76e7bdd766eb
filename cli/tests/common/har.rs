//! Whether a document is HAR 1.2, as the specification and `har-validator`'s schemas say.

use serde_json::Value;

#[track_caller]
pub(crate) fn assert_valid(har: &Value) {
    let log = object(har, "log");
    assert_eq!(log["version"], "1.2");
    let creator = object(log, "creator");
    strings(creator, &["name", "version"]);
    for entry in array(log, "entries") {
        strings(entry, &["startedDateTime", "serverIPAddress", "connection"]);
        let time = number(entry, "time");
        assert!(time >= 0.0);
        object(entry, "cache");
        request(object(entry, "request"));
        response(object(entry, "response"));
        let timings = object(entry, "timings");
        let sum: f64 = ["blocked", "dns", "connect", "send", "wait", "receive"]
            .iter()
            .map(|key| number(timings, key))
            .filter(|millis| *millis >= 0.0)
            .sum();
        assert!(
            (sum - time).abs() < 1e-6,
            "the timings add up: {sum} {time}"
        );
        for key in ["send", "wait", "receive"] {
            assert!(number(timings, key) >= 0.0, "{key} is there");
        }
    }
}

fn request(request: &Value) {
    strings(request, &["method", "url", "httpVersion"]);
    let url = request["url"].as_str().unwrap_or_default();
    assert!(url.contains("://"), "an absolute URL: {url}");
    assert!(
        url.bytes().all(|byte| byte.is_ascii_graphic()),
        "a URI: {url}"
    );
    pairs(request, "headers");
    pairs(request, "cookies");
    pairs(request, "queryString");
    number(request, "headersSize");
    number(request, "bodySize");
    if let Some(data) = request.get("postData") {
        strings(data, &["mimeType", "text"]);
    }
}

fn response(response: &Value) {
    strings(response, &["statusText", "httpVersion", "redirectURL"]);
    number(response, "status");
    pairs(response, "headers");
    pairs(response, "cookies");
    number(response, "headersSize");
    number(response, "bodySize");
    let content = object(response, "content");
    strings(content, &["mimeType"]);
    number(content, "size");
    if let Some(encoding) = content.get("encoding") {
        assert_eq!(encoding, "base64");
    }
}

fn pairs(value: &Value, key: &str) {
    for pair in array(value, key) {
        strings(pair, &["name", "value"]);
    }
}

fn strings(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value[*key].is_string(), "{key} is text in {value}");
    }
}

fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} is a number in {value}"))
}

fn object<'a>(value: &'a Value, key: &str) -> &'a Value {
    assert!(value[key].is_object(), "{key} is an object in {value}");
    &value[key]
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key} is an array in {value}"))
}

//! What the calls say: JSON with the entropy of life.

use tapedeck_testkit::Rng;

const WORDS: [&str; 32] = [
    "orchestra",
    "balcony",
    "evening",
    "matinee",
    "confirmed",
    "pending",
    "voucher",
    "student",
    "concert",
    "quartet",
    "parterre",
    "gallery",
    "refund",
    "delivery",
    "standing",
    "reduced",
    "violin",
    "winter",
    "summer",
    "festival",
    "artist",
    "programme",
    "interval",
    "cloakroom",
    "ticket",
    "seat",
    "row",
    "hall",
    "north",
    "south",
    "main",
    "studio",
];

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub(crate) fn word(rng: &mut Rng) -> &'static str {
    WORDS[rng.below(WORDS.len())]
}

/// A random token in base64url: 6 bits a character, as in a signature.
pub(crate) fn token(rng: &mut Rng, len: usize) -> String {
    let mut token = String::with_capacity(len);
    let mut bits = 0;
    for n in 0..len {
        if n % 10 == 0 {
            bits = rng.next_u64();
        }
        token.push(char::from(ALPHABET[(bits & 63) as usize]));
        bits >>= 6;
    }
    token
}

/// A random UUID.
pub(crate) fn uuid(rng: &mut Rng) -> String {
    let (high, low) = (rng.next_u64(), rng.next_u64());
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

/// A booking, about 300 bytes and five items long.
pub(crate) fn booking(rng: &mut Rng, out: &mut String) {
    let id = uuid(rng);
    out.push_str(&format!(
        r#"{{"id":"{id}","status":"{}","customer":{{"id":{},"name":"{} {}"}},"items":["#,
        word(rng),
        rng.below(10_000_000),
        word(rng),
        word(rng)
    ));
    for n in 0..1 + rng.below(4) {
        out.push_str(&format!(
            r#"{}{{"event":"{}","hall":"{}","seat":"{}-{}","price":{}.{:02}}}"#,
            if n == 0 { "" } else { "," },
            word(rng),
            word(rng),
            word(rng),
            rng.below(500),
            rng.below(200),
            rng.below(100)
        ));
    }
    out.push_str(&format!(
        r#"],"total":{},"currency":"EUR"}}"#,
        rng.below(100_000)
    ));
}

/// A list of bookings of at least `len` bytes.
pub(crate) fn bookings(rng: &mut Rng, len: usize) -> String {
    let mut out = String::with_capacity(len + 1024);
    out.push('[');
    while out.len() < len {
        if out.len() > 1 {
            out.push_str(",\n");
        }
        booking(rng, &mut out);
    }
    out.push(']');
    out
}

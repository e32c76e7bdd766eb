use super::decoder::Outcome;
use super::{Decoder, Section};

const LIMIT: usize = 64 << 10;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    let octet = |pair: &[u32]| (pair[0] * 16 + pair[1]) as u8;
    digits.chunks(2).map(octet).collect()
}

/// The fields as text, `?` for what is unknown.
fn text(section: &Section) -> Vec<String> {
    let part = |span: tapedeck_model::Span, unknown| match unknown {
        true => "?".into(),
        false => String::from_utf8_lossy(span.of(&section.raw)).into_owned(),
    };
    let line = |field: &tapedeck_model::Field| {
        format!(
            "{}: {}",
            part(field.name, field.name_unknown),
            part(field.value, field.value_unknown)
        )
    };
    section.fields.iter().map(line).collect()
}

fn decode(decoder: &mut Decoder, hex: &str) -> (Vec<String>, Outcome) {
    let mut section = Section::new(LIMIT, 0);
    let outcome = decoder.decode(&bytes(hex), &mut section);
    (text(&section), outcome)
}

#[track_caller]
fn check(decoder: &mut Decoder, hex: &str, expect: &[&str]) {
    let (fields, outcome) = decode(decoder, hex);
    assert_eq!(fields, expect);
    assert_eq!((outcome.error, outcome.unknown), (false, false));
}

#[test]
fn representations_of_appendix_c2() {
    let mut decoder = Decoder::fresh(LIMIT);
    check(
        &mut decoder,
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        &["custom-key: custom-header"],
    );
    check(
        &mut decoder,
        "040c 2f73 616d 706c 652f 7061 7468",
        &[":path: /sample/path"],
    );
    check(
        &mut decoder,
        "1008 7061 7373 776f 7264 0673 6563 7265 74",
        &["password: secret"],
    );
    check(&mut decoder, "82", &[":method: GET"]);
    check(&mut decoder, "be", &["custom-key: custom-header"]);
}

const REQUESTS: [&[&str]; 3] = [
    &[
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
    ],
    &[
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
        "cache-control: no-cache",
    ],
    &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ],
];

#[test]
fn requests_of_appendix_c3_and_c4() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::fresh(LIMIT);
        for (block, expect) in blocks.iter().zip(REQUESTS) {
            check(&mut decoder, block, expect);
        }
    }
}

#[test]
fn responses_of_appendix_c5_and_c6_with_eviction() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 \
         303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 \
         5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 \
         5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b \
         ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad \
         94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 \
         65c0 03ed 4ee5 b106 3d50 07",
    ];
    let first = [
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:21 GMT",
        "location: https://www.example.com",
    ];
    let last = [
        ":status: 200",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        "location: https://www.example.com",
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::fresh(LIMIT);
        decode(&mut decoder, "3fe1 01");
        assert_eq!(decoder.table_size(), Some(256));
        check(
            &mut decoder,
            blocks[0],
            &[&[":status: 302"][..], &first].concat(),
        );
        check(
            &mut decoder,
            blocks[1],
            &[&[":status: 307"][..], &first].concat(),
        );
        check(&mut decoder, blocks[2], &last);
        // Three entries of 215 octets are left; the fourth is gone for certain.
        let (fields, outcome) = decode(&mut decoder, "c1");
        assert_eq!(fields, ["?: ?"]);
        assert!(outcome.error && !outcome.broken);
    }
}

#[test]
fn a_late_start_learns_and_never_guesses() {
    let mut decoder = Decoder::unknown(LIMIT);
    // The second request of C.3 alone: :authority came before.
    let (fields, outcome) = decode(&mut decoder, "8286 84be 5808 6e6f 2d63 6163 6865");
    assert_eq!(
        fields,
        [
            ":method: GET",
            ":scheme: http",
            ":path: /",
            "?: ?",
            "cache-control: no-cache"
        ]
    );
    assert!(outcome.unknown && !outcome.error);
    // What it inserted is known now, and so is what comes.
    let third = "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65";
    let (fields, _) = decode(&mut decoder, third);
    assert_eq!(fields[3..], ["?: ?", "custom-key: custom-value"]);
    check(
        &mut decoder,
        "be bf",
        &["custom-key: custom-value", "cache-control: no-cache"],
    );
    // A new entry with a name from an unknown one: name unknown, value known.
    let (fields, _) = decode(&mut decoder, "7f05 0178 be");
    assert_eq!(fields, ["?: x", "?: x"]);
    decoder.desynchronise();
    assert_eq!(decode(&mut decoder, "be").0, ["?: ?"]);
}

#[test]
fn errors_end_the_block_or_leave_one_field_unknown() {
    let broken = [
        "ff",
        "7f",
        "40",
        "4001",
        "400161",
        "40016105",
        "3f",
        "0f",
        "82ff8080808080",
    ];
    for block in broken {
        let mut decoder = Decoder::fresh(LIMIT);
        let (_, outcome) = decode(&mut decoder, block);
        assert!(outcome.error && outcome.broken, "{block}");
        assert_eq!(decoder.table_size(), None, "{block}");
    }
    let mut decoder = Decoder::fresh(LIMIT);
    // Index 0; a bad Huffman string; an update that is not at the beginning.
    for (block, expect) in [
        ("80 82", vec!["?: ?", ":method: GET"]),
        ("4181 18 82", vec![":authority: ?", ":method: GET"]),
        ("82 20", vec![":method: GET"]),
    ] {
        let (fields, outcome) = decode(&mut decoder, block);
        assert_eq!(fields, expect);
        assert!(outcome.error && !outcome.broken, "{block}");
    }
}

#[test]
fn a_torn_block_keeps_the_fields_before_the_tear() {
    let block = bytes("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d");
    for len in 0..block.len() {
        let mut decoder = Decoder::fresh(LIMIT);
        let mut section = Section::new(LIMIT, 0);
        let outcome = decoder.decode_torn(&block[..len], &mut section);
        assert_eq!(text(&section), REQUESTS[0][..len.min(3)]);
        assert!(outcome.broken && !outcome.error);
    }
}

#[test]
fn a_bomb_of_indices_stays_small_and_the_table_stays_right() {
    let mut decoder = Decoder::fresh(LIMIT);
    let mut block = bytes("4001 61 7fb10f");
    block.extend(vec![b'x'; 2096]);
    block.extend(vec![0xbe; 100_000]);
    block.extend(bytes("4001 62 0179"));
    let mut section = Section::new(LIMIT, block.len());
    let outcome = decoder.decode(&block, &mut section);
    assert!(section.overflowed && !outcome.error);
    assert!(section.raw.len() <= LIMIT && section.raw.capacity() <= 2 * LIMIT);
    let (fields, _) = decode(&mut decoder, "be");
    assert_eq!(fields, ["b: y"]);
}

#[test]
fn any_two_octets_and_any_tail_are_read_without_a_panic() {
    for a in 0..=255 {
        for b in 0..=255 {
            for tail in [&[][..], &[0xff; 7], &[0; 7], &[0x81, 0x7f, 0x40]] {
                let block = [&[a, b][..], tail].concat();
                let mut section = Section::new(LIMIT, block.len());
                Decoder::unknown(LIMIT).decode(&block, &mut section);
                Decoder::fresh(40).decode(&block, &mut section);
            }
        }
    }
}

//! HAR files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use tapedeck_archive::{Archive, Provenance, WriteError, Writer, WriterOptions, verify};
use tapedeck_interchange::har::{self as hars, Imported, Importer, Input, Item, Limits};
use tapedeck_model::{Exchange, Ledger, Role};

use crate::packets::assert_laws;
use crate::scratch;

/// Entries of which the archive is read again: some hundred bytes of gzip can stand for thousands.
const MOST: u64 = 500;

/// A HAR, plain or compressed, into an archive. What became an exchange is in it, and is written as
/// a HAR again that gives as many.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub fn har(bytes: &[u8]) {
    let folder = scratch::folder();
    let path = folder.path().join("a.tape");
    let imported = import(bytes, &path);
    if imported.exchanges == 0 || imported.exchanges > MOST {
        return;
    }
    assert!(verify(&path).expect("an archive").is_whole());
    let archive = Archive::open(&path).expect("an archive");
    assert_eq!(archive.len(), imported.exchanges);
    let mut again = Vec::new();
    let exported = hars::export(&archive, archive.rows(), "0", &mut again).expect("a HAR");
    let not_asked = exported.without_request + exported.unreadable;
    assert_eq!((exported.entries, not_asked), (imported.exchanges, 0));
    let back = import(&again, &folder.path().join("b.tape"));
    assert_eq!(
        (back.exchanges, back.unusable),
        (imported.exchanges, 0),
        "{:?}",
        back.first_unusable
    );
}

#[expect(clippy::expect_used, reason = "a full disk is no finding")]
fn import(bytes: &[u8], path: &Path) -> Imported {
    let limits = Limits {
        entry: 1 << 20,
        part: 1 << 12,
    };
    let mut importer = Importer::new(limits);
    let options = WriterOptions::new(Provenance::default());
    let mut writer = Writer::create(path, options).expect("a file for an archive");
    let mut taken = Taken::default();
    match hars::detect(bytes) {
        Ok(Input::Json(input)) => {
            // Compressed, a few bytes can stand for gigabytes, which would only be slow.
            let input = input.take(8 << 20);
            let read = importer.read(input, &mut |item| taken.item(&item, &mut writer));
            if let Err(error) = read {
                assert!(!error.to_string().is_empty());
            }
        }
        Ok(Input::Other(_)) | Err(_) => {}
    }
    let (ledger, mut imported) = importer.finish();
    assert_eq!(taken.exchanges, imported.exchanges);
    assert_eq!(imported.unusable > 0, imported.first_unusable.is_some());
    assert!(taken.parts.is_empty(), "parts without an exchange");
    assert_laws(&ledger);
    assert_eq!(ledger.exchanges, taken.exchanges);
    imported.exchanges -= taken.too_large;
    writer
        .seal(&Ledger::default())
        .expect("space for an archive");
    imported
}

#[derive(Default)]
struct Taken {
    exchanges: u64,
    /// Of these: no archive takes them.
    too_large: u64,
    parts: BTreeMap<(u64, Role), u64>,
}

impl Taken {
    #[expect(clippy::expect_used, reason = "a full disk is no finding")]
    fn item(&mut self, item: &Item<'_>, writer: &mut Writer) {
        match item {
            Item::Part(part) => {
                *self.parts.entry((part.key, part.role)).or_default() += part.data.len() as u64;
                writer.body_part(part).expect("space for an archive");
            }
            Item::Exchange(exchange) => {
                self.check_bodies(exchange);
                self.exchanges += 1;
                match writer.exchange(exchange) {
                    Ok(()) => {}
                    Err(WriteError::ExchangeTooLarge { .. }) => self.too_large += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn check_bodies(&mut self, exchange: &Exchange) {
        let sides = [
            (Role::Request, &exchange.request),
            (Role::Response, &exchange.response),
        ];
        for (role, message) in sides {
            let before = self.parts.remove(&(exchange.key, role)).unwrap_or(0);
            if let Some(message) = message {
                assert_eq!(before + message.body.tail.len() as u64, message.body.len);
            }
        }
    }
}

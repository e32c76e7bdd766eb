use std::fs::{self, File};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use tapedeck_archive::{Identities, Provenance, WriteError, Writer};
use tapedeck_exchange::{Limits, Pipeline, Recorder};
use tapedeck_filter::Filter;
use tapedeck_interchange::har;
use tapedeck_model::{BodyPart, Exchange, Ledger, UnreadConnection};
use tapedeck_packet::CaptureReader;

use super::cut::cut;
use super::{connections, keylog, keys};
use crate::args;
use crate::output;

/// Captures are read in pieces of this size.
const READ_BUFFER: usize = 1 << 20;

pub(crate) fn run(args: &args::Import) -> Result<ExitCode> {
    let mut import = Import {
        wire: Pipeline::new(Limits::default(), args.threads.unwrap_or_else(cores))
            .context("failed to start threads; --threads 1 needs none")?,
        recording: None,
        har: None,
        options: args,
        failures: 0,
    };
    for keylog in &args.keylogs {
        keylog::read(keylog, |text| import.wire.secrets(text))?;
    }
    for input in &args.inputs {
        import.read(input)?;
    }
    import.finish()
}

/// As many threads as there are cores. One thread decodes, merges and writes for the others, which
/// more than a few of them would only wait for.
fn cores() -> NonZeroUsize {
    const MOST: NonZeroUsize = NonZeroUsize::new(8).unwrap();
    thread::available_parallelism().map_or(NonZeroUsize::MIN, |cores| cores.min(MOST))
}

struct Import<'a> {
    wire: Pipeline,
    /// Begun when the first capture has shown that it is one, so that a mistake leaves nothing
    /// behind.
    recording: Option<Recording>,
    /// Where HARs are read, and no captures.
    har: Option<har::Importer>,
    options: &'a args::Import,
    failures: u32,
}

/// Connections of a HAR and of captures have nothing by which they could be told apart.
const MIXED: &str = "a HAR and a capture cannot go into one archive at once; import each by itself, \
                     then `tapedeck merge`";

/// What an archive says of itself if it comes from a HAR, because a HAR cannot say everything.
const FROM_HAR: &[(&str, &str)] = &[
    ("heads", "put together from the fields of a HAR"),
    ("bodies", "as a HAR has them: without content coding"),
    (
        "clock",
        "that of a HAR: its precision is often a millisecond",
    ),
];

impl Import<'_> {
    /// Reads one capture. What is wrong with it is said, and does not stop the others; only an
    /// archive that cannot be written does.
    fn read(&mut self, path: &Path) -> Result<()> {
        let name = name(path);
        if let Err(error) = self.try_read(path) {
            if error.downcast_ref::<WriteError>().is_some() {
                return Err(error);
            }
            self.failures += 1;
            output::error(&error.context(name));
        }
        Ok(())
    }

    fn try_read(&mut self, path: &Path) -> Result<()> {
        let (input, len) = open(path)?;
        let progress = output::byte_progress(len);
        let input = match har::detect(progress.wrap_read(input)).context("failed to read")? {
            har::Input::Json(json) => {
                let read = self.read_har(json);
                progress.finish_and_clear();
                return read;
            }
            har::Input::Other(input) => input,
        };
        let input = io::BufReader::with_capacity(READ_BUFFER, input);
        let mut capture = CaptureReader::open(input)?;
        if self.har.is_some() {
            bail!(MIXED);
        }
        let recording = match &mut self.recording {
            Some(recording) => recording,
            none => none.insert(Recording::begin(self.options, &[])?),
        };
        let mut packets = 0_u64;
        let mut secrets = Secrets::default();
        loop {
            secrets.take(&capture, &mut self.wire);
            match capture.next_packet() {
                Ok(Some(packet)) => self.wire.packet(&packet, recording),
                Ok(None) => break,
                Err(error) => {
                    secrets.say(path);
                    return Err(error)
                        .context(format!("stopped after {packets} packets, which are kept"));
                }
            }
            packets += 1;
            recording.check()?;
        }
        secrets.take(&capture, &mut self.wire);
        progress.finish_and_clear();
        secrets.say(path);
        if packets == 0 {
            bail!("the capture holds no packets");
        }
        Ok(())
    }

    /// Reads one HAR.
    fn read_har(&mut self, json: Box<dyn Read + '_>) -> Result<()> {
        if self.har.is_none() && self.recording.is_some() {
            bail!(MIXED);
        }
        let har = self.har.get_or_insert_default();
        let recording = match &mut self.recording {
            Some(recording) => recording,
            none => none.insert(Recording::begin(self.options, FROM_HAR)?),
        };
        let read = har.read(json, &mut |item| match item {
            har::Item::Part(part) => recording.body_part(part),
            har::Item::Exchange(exchange) => recording.exchange(exchange),
        });
        recording.check()?;
        read.context("stopped; the entries before that are kept")
    }

    fn finish(mut self) -> Result<ExitCode> {
        let Some(mut recording) = self.recording else {
            return Ok(ExitCode::from(crate::FAILED));
        };
        let mut ledger = self.wire.finish(&mut recording);
        if let Some(har) = self.har {
            let (read, imported) = har.finish();
            ledger.merge(&read);
            self.failures += report_har(&imported);
        }
        recording.check()?;
        let sealed = recording.seal(&ledger)?;
        report(self.options, &ledger, &sealed);
        if ledger.exchanges == 0 {
            output::warn(nothing_found(&ledger));
            self.failures += 1;
        }
        Ok(if self.failures == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(crate::FAILED)
        })
    }
}

/// The TLS secrets within a capture, as far as they were used.
#[derive(Default)]
struct Secrets {
    len: usize,
    sessions: u64,
}

impl Secrets {
    /// Gives those that came since the last call to the engine.
    fn take(&mut self, capture: &CaptureReader<impl Read>, wire: &mut Pipeline) {
        let text = capture.tls_key_log();
        if let Some(new) = text.get(self.len..)
            && !new.is_empty()
        {
            self.sessions += wire.secrets(new).sessions;
            self.len = text.len();
        }
    }

    fn say(&self, path: &Path) {
        if self.len > 0 {
            output::say(format_args!(
                "{}: TLS is read with the secrets of {} sessions in the file",
                name(path),
                self.sessions
            ));
        }
    }
}

/// Puts what the engine finds into an archive. Keeps the first error, because the engine cannot
/// stop for it.
struct Recording {
    writer: Writer,
    error: Option<WriteError>,
    /// Exchanges that no block can hold.
    too_large: u64,
    chosen: Option<Chosen>,
}

/// Where an import has a filter: `Recording::writer` writes a temporary archive of everything,
/// because a filter looks at an archive, and this one gets what the filter chooses.
struct Chosen {
    filter: Filter,
    writer: Writer,
    everything: Temporary,
    /// Opens it.
    identity: Identities,
}

/// What an import came to.
struct Sealed {
    exchanges: u64,
    file_len: u64,
    too_large: u64,
}

impl Recording {
    fn begin(options: &args::Import, notes: &[(&str, &str)]) -> Result<Self> {
        let sources: Vec<String> = options.inputs.iter().map(|path| name(path)).collect();
        let provenance = Provenance {
            source: sources.join(", "),
            extra: notes
                .iter()
                .map(|(name, note)| ((*name).to_owned(), (*note).to_owned()))
                .collect(),
            ..super::provenance()
        };
        let to = keys::recipients(&options.encryption)?;
        let is_encrypted = to.is_some();
        let mut writer = super::create(&options.output, provenance.clone(), options.force, to)?;
        let mut chosen = None;
        if let Some(filter) = options.filter.clone() {
            let everything = Temporary::beside(&options.output);
            // For us alone: what is left out of an encrypted archive must not lie beside it.
            let identity = match is_encrypted {
                true => Identities::generate()?,
                false => Identities::none(),
            };
            let to = is_encrypted.then(|| identity.recipients()).transpose()?;
            let whole = super::create(&everything.path, provenance, true, to)?;
            let writer = std::mem::replace(&mut writer, whole);
            chosen = Some(Chosen {
                filter,
                writer,
                everything,
                identity,
            });
        }
        Ok(Self {
            writer,
            error: None,
            too_large: 0,
            chosen,
        })
    }

    fn check(&mut self) -> Result<()> {
        match self.error.take() {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    }

    fn seal(self, ledger: &Ledger) -> Result<Sealed> {
        let Self {
            writer,
            error: _,
            too_large,
            chosen,
        } = self;
        let whole = writer.seal(ledger)?;
        let (mut exchanges, mut file_len) = (whole.exchanges, whole.file_len);
        if let Some(Chosen {
            filter,
            writer,
            everything,
            identity,
        }) = chosen
        {
            let archive = super::open_with(&[&everything.path], &identity)?;
            let cut = cut(&archive, &filter, writer)?;
            (exchanges, file_len) = (cut.kept, cut.file_len);
        }
        Ok(Sealed {
            exchanges,
            file_len,
            too_large,
        })
    }
}

/// A file that is gone when this is.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// A hidden file in the same folder, where there is room for the output, too.
    fn beside(output: &Path) -> Self {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        Self {
            path: output.with_file_name(format!(".{name}.unfiltered")),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may never have been sealed, and so have another name.
        drop(fs::remove_file(&self.path));
        if let Ok(partial) = tapedeck_archive::partial_path(&self.path) {
            drop(fs::remove_file(partial));
        }
    }
}

impl Recorder for Recording {
    fn body_part(&mut self, part: &BodyPart) {
        if self.error.is_none() {
            self.error = self.writer.body_part(part).err();
        }
    }

    fn exchange(&mut self, exchange: &Exchange) {
        if self.error.is_some() {
            return;
        }
        match self.writer.exchange(exchange) {
            Ok(()) => {}
            // One monster among the exchanges is no reason to lose the others.
            Err(WriteError::ExchangeTooLarge { .. }) => self.too_large += 1,
            Err(error) => self.error = Some(error),
        }
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        if self.error.is_none() {
            self.error = self.writer.unread(connection).err();
        }
    }
}

/// Opens an input, and says how long it is (0: unknown).
fn open(path: &Path) -> Result<(Box<dyn Read>, u64)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), 0));
    }
    let file = File::open(path).context("failed to open")?;
    let meta = file.metadata().context("failed to read its metadata")?;
    if meta.is_dir() {
        bail!("is a folder; name the captures in it");
    }
    Ok((Box::new(file), meta.len()))
}

fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Says what HARs did not say; gives how many of these things make an import a failure.
fn report_har(imported: &har::Imported) -> u32 {
    let har::Imported {
        exchanges: _,
        unusable,
        first_unusable,
        without_body,
        http3,
    } = imported;
    if *without_body > 0 {
        output::warn(format_args!(
            "of {without_body} exchanges the HAR gives the length of a body, and no body; they are \
             marked as not whole"
        ));
    }
    if *http3 > 0 {
        output::warn(format_args!(
            "{http3} exchanges were HTTP/3, and are kept as HTTP/2"
        ));
    }
    if let Some(first) = first_unusable {
        output::warn(match unusable {
            1 => format!("1 entry was left out: {first}"),
            _ => format!("{unusable} entries were left out; the first is {first}"),
        });
    }
    u32::from(*unusable > 0)
}

fn report(options: &args::Import, ledger: &Ledger, sealed: &Sealed) {
    let packets = match ledger.packets_seen {
        0 => String::new(),
        packets => format!(" from {packets} packets"),
    };
    output::say(format_args!(
        "{}: {} exchanges on {} connections{packets}, {}",
        options.output.display(),
        sealed.exchanges,
        ledger.connections,
        output::bytes(sealed.file_len),
    ));
    for loss in output::losses(ledger) {
        output::warn(loss);
    }
    if sealed.too_large > 0 {
        output::warn(format_args!(
            "{} exchanges were too large for the archive",
            sealed.too_large
        ));
    }
    if let Some(unread) = connections::unread(ledger) {
        let advice = match (ledger.tls_no_keys, options.keylogs.is_empty()) {
            (0, _) => "",
            (_, true) => "; --keylog FILE gives the keys (docs/tls.md)",
            (_, false) => "; the key logs lack the secrets of those without keys",
        };
        output::warn(format_args!("{unread}{advice}"));
    }
}

/// Why an archive is empty, as far as the ledger can tell.
fn nothing_found(ledger: &Ledger) -> String {
    let mut text = "no HTTP exchange was found".to_owned();
    let mut because = |count: u64, what: &str| {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    };
    because(ledger.connections_tls, "connections were TLS");
    because(ledger.connections_not_http, "connections were not HTTP");
    because(ledger.connections_empty, "connections carried no data");
    because(ledger.packets_not_tcp, "packets were not TCP");
    because(ledger.packets_undecodable, "packets could not be decoded");
    text
}

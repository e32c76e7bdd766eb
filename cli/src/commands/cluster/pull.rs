//! `pull`: gets a snapshot as a local archive.
//!
//! It comes through the API server's proxy to the controller, so that a kubeconfig is all it needs. What
//! came of an earlier try stays beside the archive, under a name that has the sum of the whole: it is gone on
//! with, and nothing else is taken for a part of it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::{CONTENT_RANGE, IF_MATCH, RANGE};
use indicatif::ProgressBar;
use kube::client::Body;
use tapedeck_cluster::Location;

use super::args::Pull;
use super::session::Session;
use super::snapshot;
use crate::output;

/// How often a transfer that brought nothing new is tried again, with a longer pause each time.
const FRUITLESS: u32 = 5;

/// The first pause.
const PAUSE: Duration = Duration::from_millis(500);

/// A transfer on which nothing comes for so long is cut, and begun anew where it was.
const SILENCE: Duration = Duration::from_secs(60);

/// How much of an error's text is read.
const MOST_ERROR: usize = 4096;

pub(super) async fn pull(session: &Session, args: &Pull) -> Result<ExitCode> {
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}.tape", args.name)));
    ensure!(
        args.force || !path.exists(),
        "{} exists; --force replaces it",
        path.display()
    );
    let status = snapshot::ready(session, &args.name).await?;
    let location = status
        .location
        .clone()
        .context("the snapshot does not say where it lies")?;
    let partial = partial(&path, &location)?;
    let mut file = Partial::open(&partial, &location)?;
    let bar = output::byte_progress(location.bytes);
    bar.set_position(file.have);
    if file.have > 0 {
        output::say(format_args!("going on behind {}", output::bytes(file.have)));
    }
    let request = Request {
        session,
        uri: uri(session, &args.name).await,
        location: &location,
    };
    let got = get(&request, &mut file, &bar).await;
    bar.finish_and_clear();
    got.with_context(|| {
        format!(
            "what came is kept in {}; pull again to go on",
            partial.display()
        )
    })?;
    let sum = file.sum.finalize().to_hex();
    if sum.as_str() != location.blake3 {
        fs::remove_file(&partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
        bail!(
            "what came is not the snapshot {}: its BLAKE3 is {sum}, and not {}; it was not kept",
            args.name,
            location.blake3
        );
    }
    file.file
        .sync_all()
        .with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))?;
    snapshot::tell(&path.display().to_string(), &status);
    Ok(ExitCode::SUCCESS)
}

/// Beside the archive, hidden, named after what it is a part of.
fn partial(path: &Path, location: &Location) -> Result<PathBuf> {
    let is_sum =
        location.blake3.len() == 64 && location.blake3.bytes().all(|b| b.is_ascii_hexdigit());
    ensure!(
        is_sum,
        "the snapshot has no sum to be checked with: {:?}",
        location.blake3
    );
    let name = path
        .file_name()
        .context("the archive has no name")?
        .to_string_lossy();
    let sum = location.blake3.get(..16).unwrap_or_default();
    Ok(path.with_file_name(format!(".{name}.{sum}.pull")))
}

/// The service's port by name, and by TLS: the only one for which the role `tapedeck-admin` gives the right.
async fn uri(session: &Session, name: &str) -> String {
    format!(
        "/api/v1/namespaces/{}/services/https:tapedeck-controller:https/proxy/snapshots/{}/{name}",
        session.system().await,
        session.namespace
    )
}

/// What there is of a snapshot already.
struct Partial {
    file: File,
    have: u64,
    sum: blake3::Hasher,
}

impl Partial {
    fn open(path: &Path, location: &Location) -> Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .with_context(failed)?;
        let mut partial = Self {
            file,
            have: 0,
            sum: blake3::Hasher::new(),
        };
        if partial.file.metadata().with_context(failed)?.len() > location.bytes {
            partial.restart().with_context(failed)?;
        }
        let mut reader = BufReader::with_capacity(1 << 20, &partial.file);
        let mut block = vec![0; 1 << 20];
        loop {
            let got = reader.read(&mut block).with_context(failed)?;
            let Some(bytes) = block.get(..got).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            partial.sum.update(bytes);
            partial.have += got as u64;
        }
        partial
            .file
            .seek(SeekFrom::Start(partial.have))
            .with_context(failed)?;
        Ok(partial)
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.have = 0;
        self.sum = blake3::Hasher::new();
        Ok(())
    }
}

struct Request<'a> {
    session: &'a Session,
    uri: String,
    location: &'a Location,
}

/// How an attempt ended.
enum Ended {
    /// The connection was cut, or somebody was busy: try again.
    Cut(anyhow::Error),
    /// Trying again would give the same.
    Refused(anyhow::Error),
}

/// Gets what is missing, over as many connections as it takes.
async fn get(request: &Request<'_>, file: &mut Partial, bar: &ProgressBar) -> Result<()> {
    let mut fruitless = 0;
    while file.have < request.location.bytes {
        let before = file.have;
        match attempt(request, file, bar).await {
            Ok(()) => {}
            Err(Ended::Refused(error)) => return Err(error),
            Err(Ended::Cut(error)) => {
                fruitless = if file.have > before { 0 } else { fruitless + 1 };
                if fruitless >= FRUITLESS {
                    return Err(error.context("the transfer was cut again and again"));
                }
                tokio::time::sleep(PAUSE * 2_u32.pow(fruitless)).await;
            }
        }
    }
    Ok(())
}

async fn attempt(
    request: &Request<'_>,
    file: &mut Partial,
    bar: &ProgressBar,
) -> Result<(), Ended> {
    let Location { bytes, blake3, .. } = request.location;
    let asked = hyper::Request::get(&request.uri)
        .header(IF_MATCH, format!("\"{blake3}\""))
        .header(RANGE, format!("bytes={}-", file.have))
        .body(Body::empty())
        .map_err(|error| Ended::Refused(error.into()))?;
    let answer = request.session.transfers.send(asked).await;
    let answer = answer.map_err(|error| Ended::Cut(request.session.explain(error)))?;
    let (head, mut body) = answer.into_parts();
    match head.status {
        StatusCode::PARTIAL_CONTENT => {
            let range = head
                .headers
                .get(CONTENT_RANGE)
                .and_then(|range| range.to_str().ok());
            let expected = format!("bytes {}-{}/{bytes}", file.have, bytes.saturating_sub(1));
            if range != Some(&expected) {
                return Err(Ended::Refused(anyhow!(
                    "the controller sends {}, and not {expected}",
                    range.unwrap_or("an unknown part")
                )));
            }
        }
        // Whoever stands between knows no ranges: all of it, from the beginning.
        StatusCode::OK => {
            file.restart()
                .map_err(|error| Ended::Refused(error.into()))?;
            bar.set_position(0);
        }
        status => return Err(refused(request, status, body).await),
    }
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let frame = match frame {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(Ended::Cut(request.session.explain(error))),
            Err(_) => {
                return Err(Ended::Cut(anyhow!(
                    "nothing came for {}",
                    output::duration(SILENCE)
                )));
            }
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if file.have + data.len() as u64 > *bytes {
            return Err(Ended::Refused(anyhow!("more than {bytes} bytes come")));
        }
        let written = file.file.write_all(&data);
        written
            .map_err(|error| Ended::Refused(anyhow!(error).context("cannot write the archive")))?;
        file.sum.update(&data);
        file.have += data.len() as u64;
        bar.set_position(file.have);
    }
    if file.have < *bytes {
        return Err(Ended::Cut(anyhow!(
            "the transfer ended after {} of {bytes} bytes",
            file.have
        )));
    }
    Ok(())
}

/// What an answer without the snapshot says.
async fn refused(request: &Request<'_>, status: StatusCode, body: Body) -> Ended {
    let text = http_body_util::Limited::new(body, MOST_ERROR)
        .collect()
        .await;
    let text = text.map(|text| text.to_bytes()).unwrap_or_default();
    let error = match serde_json::from_slice::<kube::core::Status>(&text) {
        Ok(said) if !said.message.is_empty() => request
            .session
            .explain(kube::Error::Api(said.with_code(status.as_u16()).boxed())),
        Ok(_) | Err(_) => {
            let text = String::from_utf8_lossy(&text);
            anyhow!("{status}: {}", output::visible(text.trim()))
        }
    };
    match status {
        StatusCode::PRECONDITION_FAILED | StatusCode::NOT_FOUND => Ended::Refused(
            error.context("the controller has no such snapshot any more; was it taken again?"),
        ),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            Ended::Cut(error.context("the controller does not answer"))
        }
        _ => Ended::Refused(error),
    }
}

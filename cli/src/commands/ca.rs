use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use tapedeck_replayer::mock::CertificateAuthority;

use crate::args::{Ca, CaCommand, CaInit};
use crate::output;

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

pub(crate) fn run(args: &Ca) -> Result<ExitCode> {
    match &args.command {
        CaCommand::Init(args) => init(args)?,
        CaCommand::Trust(args) => {
            let folder = folder(args.dir.as_deref())?;
            load(&folder)?;
            output::print(trust(&folder.join(CERTIFICATE)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn init(args: &CaInit) -> Result<()> {
    let folder = folder(args.dir.as_deref())?;
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    if !args.force && (certificate.exists() || key.exists()) {
        bail!(
            "{} has a certificate authority already; `tapedeck ca trust` shows how to use it, --force \
             replaces it",
            folder.display()
        );
    }
    let files = CertificateAuthority::generate(&args.name, SystemTime::now())?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    write(&key, &files.key, 0o600)?;
    write(&certificate, &files.certificate, 0o644)?;
    output::say(format_args!(
        "wrote {} and {}",
        certificate.display(),
        key.display()
    ));
    output::print(trust(&certificate))?;
    Ok(())
}

/// Writes a file beside, then puts it into place: the key is never readable by others, and a full
/// disk leaves what was there.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut partial = OsString::from(path);
    partial.push(".partial");
    let written = || -> io::Result<()> {
        // A leftover could have another mode or owner.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    written().with_context(|| format!("failed to write {}", path.display()))
}

/// The authority that a mock uses: that of the folder which was named, or the one in the usual
/// folder if there is one.
pub(crate) fn authority(dir: Option<&Path>) -> Result<Option<CertificateAuthority>> {
    match dir {
        Some(dir) => load(dir).map(Some),
        None => match folder(None) {
            Ok(usual) if usual.join(CERTIFICATE).exists() => load(&usual).map(Some),
            // Without a home there is no usual folder, and TLS was not asked for.
            Ok(_) | Err(_) => Ok(None),
        },
    }
}

fn load(folder: &Path) -> Result<CertificateAuthority> {
    let read = |name: &str| {
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(error).with_context(|| {
                    format!(
                        "{} holds no certificate authority; `tapedeck ca init` makes one",
                        folder.display()
                    )
                })
            }
            text => text.with_context(|| format!("failed to read {}", path.display())),
        }
    };
    CertificateAuthority::load(&read(CERTIFICATE)?, &read(KEY)?).with_context(|| {
        format!(
            "failed to use the certificate authority in {}",
            folder.display()
        )
    })
}

/// The folder that was named, or the usual one (XDG Base Directory Specification).
fn folder(dir: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = dir {
        return Ok(dir.to_owned());
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let data = match (variable("XDG_DATA_HOME"), variable("HOME")) {
        (Some(data), _) => PathBuf::from(data),
        (None, Some(home)) => PathBuf::from(home).join(".local/share"),
        (None, None) => bail!("neither XDG_DATA_HOME nor HOME is set: name a folder with --dir"),
    };
    Ok(data.join("tapedeck/ca"))
}

fn trust(certificate: &Path) -> String {
    let path = certificate.display();
    format!(
        "\
To have a program trust this authority, for tests only:
  curl      curl --cacert {path} ...           or CURL_CA_BUNDLE={path}
  Node      NODE_EXTRA_CA_CERTS={path}
  Python    REQUESTS_CA_BUNDLE={path}   (requests); SSL_CERT_FILE={path}   (httpx, ssl)
  gRPC      GRPC_DEFAULT_SSL_ROOTS_FILE_PATH={path}
  Go        SSL_CERT_FILE={path}
  Java      keytool -importcert -noprompt -alias tapedeck -file {path} -keystore trust.p12 -storepass changeit
            java -Djavax.net.ssl.trustStore=trust.p12 -Djavax.net.ssl.trustStorePassword=changeit ...
  Debian    cp {path} /usr/local/share/ca-certificates/tapedeck.crt && update-ca-certificates
Then send the program to the mock: by its address, or as a proxy (HTTP_PROXY and HTTPS_PROXY).
Who has the key beside the certificate can pretend to be any server to these programs.
"
    )
}

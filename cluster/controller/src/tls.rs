//! The certificate of the controller's port.
//!
//! There always is one: until another is at hand, one that was made in memory. From a Secret, which the manifests make
//! empty: who of several controllers finds nothing in it fills it in, and renews it, so that all show the same. From
//! files, which cert-manager or people look after: they are read again when they change.
//!
//! The API server's proxy does not check the certificates of services, so that it protects what is pulled from those who
//! listen; Prometheus checks it, by the authority that lies beside it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

use crate::forbidden::{code, explained};
use crate::run::Settings;

/// Where the certificate of the port comes from.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// The port speaks plain HTTP.
    None,
    /// From a Secret of that name in Tapedeck's namespace: the controller fills it in.
    Secret(String),
    /// From files in PEM: the certificate with those above it, and its key.
    Files {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// How long a certificate of our own is valid, in days. Nobody has to be told of a new one: who checks it reads the
/// authority from the same Secret.
const DAYS: u32 = 365;

/// A new one is made so long before: whoever holds the old authority has that time to read the new one.
const RENEW_BEFORE_DAYS: u32 = 90;

/// Clocks of nodes differ.
const SKEW: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How often the Secret is looked at, in durations of the lease: one request a minute.
const LOOK_EVERY_LEASES: u32 = 2;

/// Controllers that fill the Secret in at the same time, and are each ahead of this one once.
const MOST_WRITERS: usize = 8;

/// How soon after a failure.
const AGAIN: Duration = Duration::from_secs(20);

/// How often files are looked at: two small reads.
const FILES_EVERY: Duration = Duration::from_secs(5);

/// The keys of the Secret, those that cert-manager fills in, too.
const CRT: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";

/// Our own: from when on a new one is made. What lacks it was put there by somebody else, and stays.
const RENEW: &str = "renew-after";

/// What the port shows now.
#[derive(Debug)]
pub(crate) struct Shown(RwLock<Option<Arc<ServerConfig>>>);

impl Shown {
    /// Nothing: plain HTTP.
    pub(crate) const fn nothing() -> Self {
        Self(RwLock::new(None))
    }

    /// What a connection that comes now is shown; `None`: it is plain HTTP.
    pub(crate) fn now(&self) -> Option<Arc<ServerConfig>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn show(&self, pem: &Pem) -> Result<()> {
        let config = pem.config()?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
        Ok(())
    }
}

/// A certificate with its key.
#[derive(Clone, Eq, PartialEq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// One that we made.
struct Own {
    pem: Pem,
    authority: String,
    renew_after: Timestamp,
}

impl Pem {
    fn config(&self) -> Result<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| anyhow!("{CRT} is no certificate in PEM: {error}"))?;
        if chain.is_empty() {
            return Err(anyhow!("{CRT} has no certificate"));
        }
        // Its text stays out of every log.
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| anyhow!("{KEY} is no private key in PEM"))?;
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .context("the certificate and its key do not go together")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// A certificate of our own, by an authority whose key is forgotten at once.
fn make(namespace: &str, now: Timestamp) -> Result<Own> {
    let service = "tapedeck-controller";
    let names = [
        service.to_owned(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ];
    let epoch = date_time_ymd(1970, 1, 1);
    let now_from_epoch =
        Duration::from_secs(u64::try_from(now.as_second()).context("the clock is before 1970")?);
    let from = epoch + now_from_epoch.saturating_sub(SKEW);
    let until = epoch + now_from_epoch + DAY * DAYS;

    let mut authority = CertificateParams::default();
    authority
        .distinguished_name
        .push(DnType::CommonName, "tapedeck-controller's own authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (authority.not_before, authority.not_after) = (from, until);
    let key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);

    let mut leaf = CertificateParams::new(names.to_vec())?;
    leaf.distinguished_name
        .push(DnType::CommonName, format!("{service}.{namespace}.svc"));
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = (from, until);
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &issuer)?.pem();
    Ok(Own {
        pem: Pem {
            certificate: certificate.into_bytes(),
            key: key.serialize_pem().into_bytes(),
        },
        authority: authority_pem,
        renew_after: now + DAY * (DAYS - RENEW_BEFORE_DAYS),
    })
}

/// What is in the Secret.
#[derive(Eq, PartialEq)]
enum Found {
    /// Nothing, or ours and old.
    Due,
    /// What is to be shown.
    Good(Pem),
}

fn found(secret: &Secret, now: Timestamp) -> Result<Found> {
    let get = |name: &str| {
        let value = secret.data.as_ref()?.get(name)?;
        (!value.0.is_empty()).then(|| value.0.clone())
    };
    let (Some(certificate), Some(key)) = (get(CRT), get(KEY)) else {
        return Ok(Found::Due);
    };
    let pem = Pem { certificate, key };
    let Some(renew) = get(RENEW) else {
        // Somebody's own: shown, or said to be wrong, and never replaced.
        pem.config()?;
        return Ok(Found::Good(pem));
    };
    let renew_after = String::from_utf8(renew)
        .ok()
        .and_then(|text| text.parse::<Timestamp>().ok());
    let is_young = renew_after.is_some_and(|at| now < at);
    // What we made and cannot read any more is as good as old.
    Ok(if is_young && pem.config().is_ok() {
        Found::Good(pem)
    } else {
        Found::Due
    })
}

/// Keeps showing what is right.
pub(crate) struct Keeper {
    shown: Arc<Shown>,
    from: Certificate,
    client: Client,
    namespace: String,
    look_every: Duration,
}

impl Keeper {
    /// Shows one of our own at once.
    ///
    /// # Errors
    ///
    /// When none can be made, or the files are wrong.
    pub(crate) fn new(client: &Client, settings: &Settings) -> Result<Self> {
        let Settings {
            namespace,
            certificate: from,
            timing,
            ..
        } = settings;
        let shown = Arc::new(Shown::nothing());
        match from {
            Certificate::None => {}
            Certificate::Secret(_) => {
                let own = make(namespace, Timestamp::now()).context("cannot make a certificate")?;
                shown.show(&own.pem)?;
            }
            Certificate::Files { .. } => shown.show(&read(from)?)?,
        }
        Ok(Self {
            shown,
            from: from.clone(),
            client: client.clone(),
            namespace: namespace.clone(),
            look_every: timing.lease.saturating_mul(LOOK_EVERY_LEASES),
        })
    }

    /// What the port shows.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown)
    }

    /// Until it is dropped.
    pub(crate) async fn run(self) {
        let mut last = None;
        let mut said = String::new();
        loop {
            let (pem, pause) = match &self.from {
                Certificate::None => return,
                Certificate::Secret(name) => (self.of_secret(name).await, self.look_every),
                Certificate::Files { .. } => (read(&self.from), FILES_EVERY),
            };
            let shown = pem.and_then(|pem| {
                if last.as_ref() != Some(&pem) {
                    self.shown.show(&pem)?;
                    info!("the port shows another certificate");
                    last = Some(pem);
                }
                Ok(())
            });
            let pause = match shown {
                Ok(()) => {
                    said.clear();
                    pause
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    // The same trouble is not told three times a minute.
                    if said != error {
                        warn!(error, "the certificate of the port stays what it was");
                    }
                    said = error;
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// What is in the Secret, which is filled in where there is nothing.
    async fn of_secret(&self, name: &str) -> Result<Pem> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        for _ in 0..MOST_WRITERS {
            let secret = api.get(name).await.map_err(|error| match code(&error) {
                404 => anyhow!(
                    "the Secret {name} is not there any more: it comes with the manifests, install them again"
                ),
                _ => anyhow!(explained(&error)),
            })?;
            let now = Timestamp::now();
            match found(&secret, now).with_context(|| format!("the Secret {name}"))? {
                Found::Good(pem) => return Ok(pem),
                Found::Due => {}
            }
            let own = make(&self.namespace, now).context("cannot make a certificate")?;
            // Over what was seen, by its resource version: of two controllers one is refused, and reads what
            // the other wrote.
            let written = filled(secret, &own);
            match api.replace(name, &PostParams::default(), &written).await {
                Ok(_) => {
                    info!(secret = name, until = %own.renew_after, "made a certificate for the port");
                    return Ok(own.pem);
                }
                Err(error) if code(&error) == 409 => {}
                Err(error) => return Err(anyhow!(explained(&error))),
            }
        }
        Err(anyhow!("others write the Secret {name} all the time"))
    }
}

fn filled(mut secret: Secret, own: &Own) -> Secret {
    let data = secret.data.get_or_insert_default();
    for (name, value) in [
        (CRT, own.pem.certificate.clone()),
        (KEY, own.pem.key.clone()),
        (CA, own.authority.clone().into_bytes()),
        (RENEW, own.renew_after.to_string().into_bytes()),
    ] {
        data.insert(name.to_owned(), ByteString(value));
    }
    secret
}

fn read(from: &Certificate) -> Result<Pem> {
    let Certificate::Files { certificate, key } = from else {
        return Err(anyhow!("there are no files"));
    };
    let read = |path: &PathBuf| {
        std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))
    };
    let pem = Pem {
        certificate: read(certificate)?,
        key: read(key)?,
    };
    pem.config()
        .with_context(|| format!("{} or {}", certificate.display(), key.display()))?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(entries: &[(&str, &[u8])]) -> Secret {
        let data = entries
            .iter()
            .map(|(name, value)| ((*name).to_owned(), ByteString(value.to_vec())))
            .collect();
        Secret {
            data: Some(data),
            ..Secret::default()
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_empty_or_old_is_filled_in_and_somebody_elses_stays() {
        let now = at("2026-11-21T12:00:00Z");
        let own = make("tapedeck-system", now).unwrap();
        assert!(found(&Secret::default(), now).unwrap() == Found::Due);
        assert!(found(&secret(&[(CRT, b""), (KEY, b"")]), now).unwrap() == Found::Due);
        let ours = filled(Secret::default(), &own);
        let good = Found::Good(own.pem.clone());
        assert!(found(&ours, now).unwrap() == good);
        assert!(found(&ours, own.renew_after - SKEW).unwrap() == good);
        assert!(found(&ours, own.renew_after).unwrap() == Found::Due);
        let theirs = secret(&[(CRT, &own.pem.certificate), (KEY, &own.pem.key)]);
        assert!(found(&theirs, at("2126-01-01T00:00:00Z")).unwrap() == good);
        // Theirs and wrong is said, and not replaced; ours is.
        let other = make("tapedeck-system", now).unwrap();
        let mixed = secret(&[(CRT, &own.pem.certificate), (KEY, &other.pem.key)]);
        let error = found(&mixed, now).err().unwrap();
        assert!(
            format!("{error:#}").contains("do not go together"),
            "{error:#}"
        );
        let mut broken = ours;
        let data = broken.data.as_mut().unwrap();
        data.insert(KEY.to_owned(), ByteString(b"nothing".to_vec()));
        assert!(found(&broken, now).unwrap() == Found::Due);
    }

    #[test]
    fn a_key_is_in_no_error() {
        let pem = Pem {
            certificate: make("a", Timestamp::now()).unwrap().pem.certificate,
            key: b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n".to_vec(),
        };
        let error = format!("{:#?}", pem.config().unwrap_err());
        assert!(
            !error.contains("secret") && !error.contains("c2VjcmV0"),
            "{error}"
        );
    }
}

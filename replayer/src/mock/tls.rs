//! TLS for the mock: a certificate authority of one's own, and a certificate for whatever name a
//! client asks for.
//!
//! The service under test has to trust the authority; nobody else should. Its key lies in a file
//! that only its owner may read.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
};

/// A certificate authority: signs the certificates that a mock shows.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A new authority as the two files that it is kept in.
#[derive(Debug)]
pub struct AuthorityFiles {
    /// The certificate, PEM: what clients have to trust.
    pub certificate: String,
    /// The private key, PEM: who has it can pretend to be any server to those clients.
    pub key: String,
}

/// Why a certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The certificate file is none.
    #[error("this is no certificate in PEM: {0}")]
    Certificate(String),
    /// The certificate may not sign others.
    #[error("this certificate is not that of a certificate authority")]
    NoAuthority,
    /// The key file is none.
    #[error("this is no private key in PEM: {0}")]
    Key(String),
    /// They do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// Something could not be signed.
    #[error("cannot make a certificate: {0}")]
    Sign(String),
}

impl CertificateAuthority {
    /// Makes a new authority of that name, valid for ten years from now on.
    ///
    /// # Errors
    ///
    /// When the system gives no random numbers.
    pub fn generate(name: &str, now: SystemTime) -> Result<AuthorityFiles, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now, AUTHORITY_LIFETIME);
        let key = KeyPair::generate().map_err(sign)?;
        let certificate = params.self_signed(&key).map_err(sign)?;
        Ok(AuthorityFiles {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Takes an authority from its files: PEM, the key as PKCS #8.
    ///
    /// # Errors
    ///
    /// When they are not what they should be, or do not belong together.
    pub fn load(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        let pair =
            KeyPair::from_pem(key).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| AuthorityError::Key(error.to_string()))?;
        let signer = aws_lc_rs::sign::any_supported_type(&private)
            .map_err(|error| AuthorityError::Key(error.to_string()))?;
        match CertifiedKey::new(vec![der.clone()], signer).keys_match() {
            Ok(()) => {}
            Err(TlsError::InconsistentKeys(_)) => return Err(AuthorityError::Mismatch),
            Err(error) => return Err(AuthorityError::Certificate(error.to_string())),
        }
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(|error| match error {
            rcgen::Error::CouldNotParseCertificate => {
                AuthorityError::Certificate(error.to_string())
            }
            other => AuthorityError::Sign(other.to_string()),
        })?;
        if !is_authority(&issuer) {
            return Err(AuthorityError::NoAuthority);
        }
        Ok(Self {
            issuer,
            certificate: der,
        })
    }

    /// A certificate for that name or address, with a key of its own.
    fn mint(&self, name: &str, now: SystemTime) -> Result<CertifiedKey, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into().map_err(sign)?),
        }];
        if name == LOCALHOST {
            // Who connects to an address sends no name (RFC 6066 section 3).
            for address in ["127.0.0.1", "::1"] {
                params
                    .subject_alt_names
                    .extend(address.parse().map(SanType::IpAddress));
            }
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, LEAF_LIFETIME);
        let key = KeyPair::generate().map_err(sign)?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(sign)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = aws_lc_rs::sign::any_supported_type(&private)
            .map_err(|error| AuthorityError::Sign(error.to_string()))?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        Ok(CertifiedKey::new(chain, signer))
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of every log.
        f.debug_struct("CertificateAuthority")
            .finish_non_exhaustive()
    }
}

fn is_authority(issuer: &Issuer<'_, KeyPair>) -> bool {
    issuer.key_usages().is_empty() || issuer.key_usages().contains(&KeyUsagePurpose::KeyCertSign)
}

fn sign(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Sign(error.to_string())
}

fn validity(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = epoch + now.duration_since(UNIX_EPOCH).unwrap_or_default();
    // A container's clock may be behind.
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + lifetime;
}

/// How the mock speaks TLS.
#[derive(Debug)]
pub(crate) struct Tls {
    config: Arc<ServerConfig>,
    mint: Arc<Mint>,
}

impl Tls {
    pub(crate) fn new(authority: Arc<CertificateAuthority>) -> Result<Self, TlsError> {
        let mint = Arc::new(Mint {
            authority,
            minted: Mutex::default(),
        });
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AnyClient { provider }))
            .with_cert_resolver(Arc::new(Resolver {
                unnamed: LOCALHOST.to_owned(),
                expired: false,
                mint: Arc::clone(&mint),
            }));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        let config = Arc::new(config);
        Ok(Self { config, mint })
    }

    /// For one connection. `unnamed` is for a client that sends no server name: one that connects to
    /// an address does not (RFC 6066 section 3).
    pub(crate) fn config(&self, unnamed: &str, expired: bool) -> Arc<ServerConfig> {
        let is_local =
            |name: &str| name == LOCALHOST || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if is_local(unnamed) && !expired {
            return Arc::clone(&self.config);
        }
        let unnamed = if is_local(unnamed) {
            LOCALHOST
        } else {
            unnamed
        };
        let mut config = ServerConfig::clone(&self.config);
        if expired {
            // A resumed session shows no certificate.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.cert_resolver = Arc::new(Resolver {
            unnamed: unnamed.to_owned(),
            expired,
            mint: Arc::clone(&self.mint),
        });
        Arc::new(config)
    }
}

/// Finds the certificate that a client wants to see.
#[derive(Debug)]
struct Resolver {
    unnamed: String,
    expired: bool,
    mint: Arc<Mint>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or(&self.unnamed);
        if self.expired {
            return self.mint.expired(name);
        }
        self.mint.of(name)
    }
}

/// Makes certificates as names are asked for, and keeps them.
#[derive(Debug)]
struct Mint {
    authority: Arc<CertificateAuthority>,
    minted: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl Mint {
    fn expired(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let long_ago = SystemTime::now().checked_sub(LEAF_LIFETIME + DAY)?;
        Some(Arc::new(self.authority.mint(name, long_ago).ok()?))
    }

    fn of(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let minted = || self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = minted().get(name) {
            return Some(Arc::clone(known));
        }
        let certified = Arc::new(self.authority.mint(name, SystemTime::now()).ok()?);
        let mut minted = minted();
        if minted.len() < MAX_MINTED {
            minted.insert(name.to_owned(), Arc::clone(&certified));
        }
        Some(certified)
    }
}

/// Asks for a client certificate and takes any, or none: a mock checks nobody, but a client that
/// insists on showing one must be able to.
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The name for clients that send none.
const LOCALHOST: &str = "localhost";
/// Certificates that are kept. A test talks to a handful of names; who asks for more than this pays
/// a signature each time.
const MAX_MINTED: usize = 1024;
const DAY: Duration = Duration::from_secs(86_400);
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
/// Apple's platforms refuse certificates that are valid for longer than 398 days.
const LEAF_LIFETIME: Duration = Duration::from_secs(397 * 86_400);
const CLOCK_SKEW: Duration = DAY;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_asks_for_many_names_gets_them_but_they_are_not_kept() {
        let files = CertificateAuthority::generate("test", SystemTime::now()).unwrap();
        let authority = CertificateAuthority::load(&files.certificate, &files.key).unwrap();
        let mint = Mint {
            authority: Arc::new(authority),
            minted: Mutex::default(),
        };
        let first = mint.of("host0.test").unwrap();
        for n in 1..MAX_MINTED {
            assert!(mint.of(&format!("host{n}.test")).is_some());
        }
        let beyond = mint.of("beyond.test").unwrap();
        assert_eq!(mint.minted.lock().unwrap().len(), MAX_MINTED);
        assert!(!Arc::ptr_eq(&beyond, &mint.of("beyond.test").unwrap()));
        assert!(Arc::ptr_eq(&first, &mint.of("host0.test").unwrap()));
    }
}

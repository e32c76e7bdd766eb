//! TLS to targets.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::player::target::TargetProtocol;

/// How targets by `https` are believed, and what they are shown.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Whom to believe, instead of the authorities of the system: PEM.
    pub authorities: Option<Vec<u8>>,
    /// The certificates of the player itself, and their key: PEM both.
    pub identity: Option<Identity>,
    /// Believe anybody. Whoever stands between then reads and changes everything.
    pub insecure: bool,
    /// Speak HTTP/1.1, also with targets that would speak HTTP/2.
    pub http1_only: bool,
}

/// The certificates of the player, and their key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate and those that lead to its authority, PEM.
    pub certificates: Vec<u8>,
    /// The private key, PEM.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    /// A private key is nobody's to read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// Why TLS cannot be used as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// No authority in the file.
    #[error("the authorities hold no certificate in PEM")]
    NoAuthority,
    /// The system has none.
    #[error("this system knows no certificate authorities; name one (--cacert)")]
    NoSystemAuthority,
    /// A certificate that is none.
    #[error("a certificate cannot be read: {0}")]
    Certificate(String),
    /// A key that is none.
    #[error("the private key cannot be read: {0}")]
    Key(String),
    /// They do not belong together.
    #[error("the certificate and its key cannot be used: {0}")]
    Identity(rustls::Error),
    /// A name that cannot be asked for.
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
}

impl TlsOptions {
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Identity)?;
        let builder = if self.insecure {
            let anybody = Arc::new(Anybody(provider));
            builder
                .dangerous()
                .with_custom_certificate_verifier(anybody)
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.certificates)?;
                let key = PrivateKeyDer::from_pem_slice(&identity.key)
                    .map_err(|error| TlsError::Key(error.to_string()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(TlsError::Identity)?
            }
        };
        config.alpn_protocols = if self.http1_only {
            vec![b"http/1.1".to_vec()]
        } else {
            vec![b"h2".to_vec(), b"http/1.1".to_vec()]
        };
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => {
                let (added, _) = roots.add_parsable_certificates(certificates(pem)?);
                if added == 0 {
                    return Err(TlsError::NoAuthority);
                }
            }
            None => {
                let system = rustls_native_certs::load_native_certs();
                let (added, _) = roots.add_parsable_certificates(system.certs);
                if added == 0 {
                    return Err(TlsError::NoSystemAuthority);
                }
            }
        }
        Ok(roots)
    }
}

/// The name that a target is asked for (SNI), and that its certificate must have.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

/// What a connection settled on; a target that does not say speaks HTTP/1.1.
pub(crate) fn negotiated(alpn: Option<&[u8]>) -> TargetProtocol {
    match alpn {
        Some(b"h2") => TargetProtocol::Http2,
        Some(_) | None => TargetProtocol::Http1,
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Certificate(error.to_string()))
}

/// Believes every certificate, but still checks that the peer has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

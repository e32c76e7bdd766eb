//! Which stores an installation has.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;
use url::Url;

use crate::store::{RETRIED_FOR, Store};

/// The most stores of an installation. Names are looked up one by one.
const MOST_STORES: usize = 64;

/// Options that are secrets, or say whose they are. What is configured stands in a ConfigMap, which many may read.
const SECRETS: [&str; 12] = [
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_sse_customer_key_base64",
    "google_bearer_token",
    "google_service_account_key",
    "azure_fabric_session_token",
    "azure_storage_account_key",
    "azure_storage_client_secret",
    "azure_storage_encryption_key",
    "azure_storage_sas_key",
    "azure_storage_token",
];

/// The stores of an installation. The first is the one that is meant where none is named.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stores(Vec<StoreConfig>);

/// A store, as it is configured.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StoreConfig {
    /// Its name, as resources have it: letters, digits and `-`, at most 63.
    pub name: String,
    /// Where it is: `file:///FOLDER`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`.
    pub url: String,
    /// What its kind needs beside that, by the names that `object_store` has for it: `region`, `endpoint`,
    /// `allow_http`, `account_name`, ... No secrets: those come as environment variables.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// The `Secret` that the chart gives to the pods as environment variables, see
    /// [`credentials_prefix`]. Not read here.
    #[serde(default)]
    pub secret: Option<String>,
}

/// What is wrong with the configuration of the stores.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no YAML, or has other fields.
    #[error("the list of stores: {0}")]
    Syntax(String),
    /// A name that no resource can have.
    #[error("store {0:?}: a name has small letters, digits and '-' within, and at most 63 of them")]
    Name(String),
    /// Two stores have one name.
    #[error("two stores are called {0}")]
    Twice(String),
    /// There are too many.
    #[error("{0} stores: at most {MOST_STORES} are possible")]
    TooMany(usize),
    /// No store has this name.
    #[error("there is no store {name:?}; there {}", match .known.as_slice() {
        [] => "are none".to_owned(),
        known => format!("are: {}", known.join(", ")),
    })]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// None is configured, and so none is the default.
    #[error("no store is configured, so that snapshots have no place to go to")]
    None,
    /// An address that is none of a store.
    #[error(
        "store {store}: {url:?} is not of the form file:///FOLDER, s3://BUCKET/PREFIX, \
         gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
    )]
    Url {
        /// The store.
        store: String,
        /// The address.
        url: String,
    },
    /// An option that this kind of store does not have.
    #[error("store {store}: {option:?} is no option of such a store")]
    Option {
        /// The store.
        store: String,
        /// The option.
        option: String,
    },
    /// A secret in the configuration.
    #[error(
        "store {store}: {option:?} is a secret, and has no place among the options: give it as the \
         environment variable {variable}"
    )]
    Secret {
        /// The store.
        store: String,
        /// The option.
        option: String,
        /// What to set instead.
        variable: String,
    },
    /// The store cannot be opened with that.
    #[error("store {store}")]
    Open {
        /// The store.
        store: String,
        /// Why.
        source: object_store::Error,
    },
}

/// With what the environment variables begin that only one store sees:
/// `TAPEDECK_STORE_ARCHIVE_AWS_SECRET_ACCESS_KEY` is `AWS_SECRET_ACCESS_KEY` for the store `archive`.
#[must_use]
pub fn credentials_prefix(store: &str) -> String {
    let name = store.to_ascii_uppercase().replace('-', "_");
    format!("TAPEDECK_STORE_{name}_")
}

impl Stores {
    /// Reads a list of stores, in YAML.
    ///
    /// # Errors
    ///
    /// When it is no list of stores, or one of them makes no sense.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let stores: Option<Vec<StoreConfig>> =
            serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let stores = stores.unwrap_or_default();
        if stores.len() > MOST_STORES {
            return Err(ConfigError::TooMany(stores.len()));
        }
        for (at, store) in stores.iter().enumerate() {
            if !is_name(&store.name) {
                return Err(ConfigError::Name(store.name.clone()));
            }
            if stores.iter().take(at).any(|other| other.name == store.name) {
                return Err(ConfigError::Twice(store.name.clone()));
            }
            store.target()?.check(store)?;
        }
        Ok(Self(stores))
    }

    /// The store of that name, or the first.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn get(&self, name: Option<&str>) -> Result<&StoreConfig, ConfigError> {
        match name {
            None => self.0.first().ok_or(ConfigError::None),
            Some(name) => {
                let found = self.0.iter().find(|store| store.name == name);
                found.ok_or_else(|| ConfigError::Unknown {
                    name: name.to_owned(),
                    known: self.0.iter().map(|store| store.name.clone()).collect(),
                })
            }
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[StoreConfig] {
        &self.0
    }
}

/// Gives a builder the settings that it knows; the others are of something else in the environment.
fn configured<B, K: FromStr>(
    builder: B,
    settings: Vec<(String, String)>,
    with: impl Fn(B, K, String) -> B,
) -> B {
    settings
        .into_iter()
        .fold(builder, |builder, (key, value)| match key.parse() {
            Ok(key) => with(builder, key, value),
            Err(_) => builder,
        })
}

/// RFC 1123's labels, as names of resources are.
fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

enum Target {
    Folder(PathBuf),
    S3,
    Google,
    Azure,
}

impl Target {
    /// Whether such a store has an option of this name.
    fn knows(&self, option: &str) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::S3 => option.parse::<AmazonS3ConfigKey>().is_ok(),
            Self::Google => option.parse::<GoogleConfigKey>().is_ok(),
            Self::Azure => option.parse::<AzureConfigKey>().is_ok(),
        }
    }

    /// With what the variables of the cloud's own tools begin.
    fn variables(&self) -> &'static str {
        match self {
            Self::Folder(_) => "-",
            Self::S3 => "AWS_",
            Self::Google => "GOOGLE_",
            Self::Azure => "AZURE_",
        }
    }

    /// The one name of an option that has several.
    fn whole_name(&self, option: &str) -> String {
        fn of<K: FromStr + AsRef<str>>(option: &str) -> Option<String> {
            option.parse().ok().map(|key: K| key.as_ref().to_owned())
        }
        let name = match self {
            Self::Folder(_) => None,
            Self::S3 => of::<AmazonS3ConfigKey>(option),
            Self::Google => of::<GoogleConfigKey>(option),
            Self::Azure => of::<AzureConfigKey>(option),
        };
        name.unwrap_or_else(|| option.to_owned())
    }

    fn check(&self, store: &StoreConfig) -> Result<(), ConfigError> {
        for option in store.options.keys() {
            if !self.knows(option) {
                return Err(ConfigError::Option {
                    store: store.name.clone(),
                    option: option.clone(),
                });
            }
            let name = self.whole_name(option);
            if SECRETS.contains(&name.as_str()) {
                return Err(ConfigError::Secret {
                    store: store.name.clone(),
                    option: option.clone(),
                    variable: credentials_prefix(&store.name) + &name.to_ascii_uppercase(),
                });
            }
        }
        Ok(())
    }
}

impl StoreConfig {
    fn target(&self) -> Result<Target, ConfigError> {
        let wrong = || ConfigError::Url {
            store: self.name.clone(),
            url: self.url.clone(),
        };
        let url = Url::parse(&self.url).map_err(|_| wrong())?;
        // A password in an address would be printed wherever the address is.
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong());
        }
        match (
            url.scheme(),
            url.host_str().is_some_and(|host| !host.is_empty()),
        ) {
            ("file", false) => Ok(Target::Folder(url.to_file_path().map_err(|()| wrong())?)),
            ("s3", true) => Ok(Target::S3),
            ("gs", true) => Ok(Target::Google),
            ("az", true) => Ok(Target::Azure),
            _ => Err(wrong()),
        }
    }

    /// Opens the store. Nothing is asked of it yet, but that a folder be there.
    ///
    /// The cloud's own variables (`AWS_REGION`, `AWS_ROLE_ARN`, as workload identities set them) come first, then the
    /// options, then the variables of this store alone, see [`credentials_prefix`].
    ///
    /// # Errors
    ///
    /// When the configuration makes no sense.
    pub fn open(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Store, ConfigError> {
        let target = self.target()?;
        target.check(self)?;
        let settings = self.settings(&target, environment);
        let open = |source| ConfigError::Open {
            store: self.name.clone(),
            source,
        };
        let retry = RetryConfig {
            retry_timeout: RETRIED_FOR,
            ..RetryConfig::default()
        };
        // A large part takes as long as it takes: what is bounded is the silence of the other side.
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(std::time::Duration::from_secs(30));
        let mut volume = None;
        let (inner, prefix): (Box<dyn ObjectStore>, _) = match target {
            Target::Folder(folder) => {
                volume = Some(folder.clone());
                let files = LocalFileSystem::new_with_prefix(folder).map_err(open)?;
                let files = files.with_fsync(true).with_automatic_cleanup(true);
                (Box::new(files), String::new())
            }
            Target::S3 => {
                let builder = AmazonS3Builder::new()
                    .with_client_options(client)
                    .with_retry(retry)
                    .with_url(self.bucket())
                    .with_checksum_algorithm(Checksum::SHA256);
                let builder = configured(builder, settings, AmazonS3Builder::with_config);
                (Box::new(builder.build().map_err(open)?), self.prefix())
            }
            Target::Google => {
                let builder = GoogleCloudStorageBuilder::new()
                    .with_client_options(client)
                    .with_retry(retry)
                    .with_url(self.bucket());
                let builder = configured(builder, settings, GoogleCloudStorageBuilder::with_config);
                (Box::new(builder.build().map_err(open)?), self.prefix())
            }
            Target::Azure => {
                let builder = MicrosoftAzureBuilder::new()
                    .with_client_options(client)
                    .with_retry(retry)
                    .with_url(self.bucket());
                let builder = configured(builder, settings, MicrosoftAzureBuilder::with_config);
                (Box::new(builder.build().map_err(open)?), self.prefix())
            }
        };
        Ok(Store::new(
            self.name.clone(),
            self.url.trim_end_matches('/').to_owned(),
            prefix,
            inner,
            volume,
        ))
    }

    /// `s3://BUCKET`.
    fn bucket(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let bucket = rest.split('/').next().unwrap_or_default();
        format!("{scheme}://{bucket}")
    }

    /// What comes behind the bucket.
    fn prefix(&self) -> String {
        let (_, rest) = self.url.split_once("://").unwrap_or_default();
        let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix);
        prefix.trim_matches('/').to_owned()
    }

    /// The weakest first.
    fn settings(
        &self,
        target: &Target,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Vec<(String, String)> {
        let mine = credentials_prefix(&self.name);
        let (mut clouds, mut own) = (Vec::new(), Vec::new());
        for (name, value) in environment {
            if let Some(name) = name.strip_prefix(&mine) {
                own.push((name.to_ascii_lowercase(), value));
            } else if name.starts_with(target.variables()) {
                clouds.push((name.to_ascii_lowercase(), value));
            }
        }
        clouds.extend(self.options.clone());
        clouds.extend(own);
        clouds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Stores::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_list_is_read_and_its_first_is_the_default() {
        let stores = Stores::parse(
            "- {name: volume, url: 'file:///snapshots'}\n\
             - {name: cloud, url: 's3://bucket/a/b', options: {region: eu-west-1}, secret: s3}\n",
        )
        .unwrap();
        assert_eq!(stores.get(None).unwrap().name, "volume");
        let cloud = stores.get(Some("cloud")).unwrap();
        assert_eq!(
            (cloud.bucket(), cloud.prefix()),
            ("s3://bucket".to_owned(), "a/b".to_owned())
        );
        let unknown = stores.get(Some("clod")).unwrap_err().to_string();
        assert_eq!(
            unknown,
            "there is no store \"clod\"; there are: volume, cloud"
        );
        for empty in ["", "[]"] {
            let stores = Stores::parse(empty).unwrap();
            assert!(matches!(stores.get(None), Err(ConfigError::None)));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("- {name: a, url: 'file:///a', kind: s3}", "kind"),
            ("- {name: A, url: 'file:///a'}", "\"A\""),
            (
                "- {name: a, url: 'file:///a'}\n- {name: a, url: 'file:///b'}",
                "two stores are called a",
            ),
            (
                "- {name: a, url: '/a'}",
                "store a: \"/a\" is not of the form",
            ),
            ("- {name: a, url: 'ftp://a/b'}", "is not of the form"),
            ("- {name: a, url: 's3://'}", "is not of the form"),
            (
                "- {name: a, url: 's3://me:secret@bucket'}",
                "is not of the form",
            ),
            (
                "- {name: a, url: 'file:///a', options: {region: b}}",
                "\"region\" is no option",
            ),
            (
                "- {name: a, url: 's3://b', options: {colour: red}}",
                "\"colour\" is no option",
            ),
            (
                "- {name: my-store, url: 's3://b', options: {secret_access_key: x}}",
                "environment variable TAPEDECK_STORE_MY_STORE_AWS_SECRET_ACCESS_KEY",
            ),
            (
                "- {name: b, url: 'gs://b', options: {service_account_key: x}}",
                "environment variable TAPEDECK_STORE_B_GOOGLE_SERVICE_ACCOUNT_KEY",
            ),
            (
                "- {name: b, url: 'az://b', options: {account_key: x}}",
                "environment variable TAPEDECK_STORE_B_AZURE_STORAGE_ACCOUNT_KEY",
            ),
            (
                "- {name: b, url: 'az://b', options: {sas_token: x}}",
                "environment variable TAPEDECK_STORE_B_AZURE_STORAGE_SAS_KEY",
            ),
        ] {
            let error = error(text);
            assert!(error.contains(said), "{text}: {error}");
        }
        let many: String = (0..=MOST_STORES)
            .map(|n| format!("- {{name: a{n}, url: 'file:///a'}}\n"))
            .collect();
        assert!(error(&many).starts_with("65 stores"));
    }

    /// The chart refuses them before they stand in a ConfigMap, and names the variable.
    #[test]
    fn the_chart_knows_the_secrets() {
        let table = include_str!("../../../deploy/helm/tapedeck/files/secret-options.json");
        let table: BTreeMap<String, String> = serde_saphyr::from_str(table).unwrap();
        let mut named = Vec::new();
        for (option, says) in &table {
            for scheme in ["s3", "gs", "az"] {
                let refused = error(&format!(
                    "- {{name: a, url: '{scheme}://b', options: {{{option}: x}}}}"
                ));
                let Some((_, variable)) = refused.split_once("variable TAPEDECK_STORE_A_") else {
                    assert!(refused.contains("is no option"), "{refused}");
                    continue;
                };
                assert!(says.contains(variable), "{option} of {scheme}: {variable}");
                named.push(variable.to_ascii_lowercase());
            }
        }
        for secret in SECRETS.iter().filter(|secret| !secret.contains("fabric")) {
            assert!(named.iter().any(|name| name == secret), "{secret}");
        }
    }

    #[test]
    fn the_weakest_setting_comes_first() {
        let stores =
            Stores::parse("- {name: a, url: 's3://b', options: {region: option}}").unwrap();
        let config = stores.get(None).unwrap();
        let environment = [
            ("TAPEDECK_STORE_A_AWS_REGION", "own"),
            ("TAPEDECK_STORE_B_AWS_REGION", "of another"),
            ("AWS_REGION", "cloud"),
            ("HOME", "/"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = config.settings(&Target::S3, environment);
        let values: Vec<&str> = settings.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["cloud", "option", "own"]);
    }
}

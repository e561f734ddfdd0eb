//! What guarded servers and their clients need: keys and a certificate, made for one run.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use super::Edge;
use crate::cli::bench::compare::Variant as _;
use crate::cli::bench::load::Client;
use crate::cli::bench::process::{Server, Setup};
use crate::config::settings::{self, Setting};
use crate::event::DEFAULT_STREAM;
use crate::ingress::auth::file::Entry;
use crate::ingress::auth::{KeyHash, disk, secret};

/// How many keys there are; each connection has one of them.
const KEYS: usize = 8;
/// The page that all clients say they are on, with keys or without.
const ORIGIN: &str = "https://shop.example";

/// Limits that no load comes near: each is asked, and none refuses.
const UNREACHED: [(&str, &str); 4] = [
    ("--key-events-per-second", "500000000"),
    ("--key-bytes-per-second", "512GiB"),
    ("--address-events-per-second", "500000000"),
    ("--address-bytes-per-second", "512GiB"),
];

/// All clients have one address here, which is to be in nobody's way.
const ONE_ADDRESS: [&str; 2] = [
    "--max-address-connections=1000000",
    "--max-address-in-flight-bytes=1TiB",
];

/// What the environment must not say about any of these servers.
static SETTINGS: [&Setting; 13] = [
    &settings::WRITE_KEYS_FILE,
    &settings::ALLOW_ANONYMOUS,
    &settings::KEY_EVENTS_PER_SECOND,
    &settings::KEY_BYTES_PER_SECOND,
    &settings::ADDRESS_EVENTS_PER_SECOND,
    &settings::ADDRESS_BYTES_PER_SECOND,
    &settings::MAX_KEY_IN_FLIGHT_BYTES,
    &settings::MAX_ADDRESS_CONNECTIONS,
    &settings::MAX_ADDRESS_IN_FLIGHT_BYTES,
    &settings::TLS_CERT_FILE,
    &settings::TLS_KEY_FILE,
    &settings::TLS_CLIENT_CA_FILE,
    &settings::TLS_CLIENT_AUTH,
];

/// See the module's page.
#[derive(Debug)]
pub(super) struct Premises {
    keys_file: PathBuf,
    authorizations: Vec<HeaderValue>,
    certificate: PathBuf,
    private_key: PathBuf,
    trust: Arc<ClientConfig>,
}

impl Premises {
    /// Makes all of it in the run's directory, which goes with it at the end.
    pub(super) fn make(dir: &Path) -> io::Result<Self> {
        let keys_file = dir.join("keys.json");
        let authorizations = make_keys(&keys_file)?;
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .map_err(io::Error::other)?;
        let (certificate, private_key) = (dir.join("certificate.pem"), dir.join("private.pem"));
        std::fs::write(&certificate, made.cert.pem())?;
        std::fs::write(&private_key, made.signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots
            .add(made.cert.der().clone())
            .map_err(io::Error::other)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            keys_file,
            authorizations,
            certificate,
            private_key,
            trust: Arc::new(trust),
        })
    }

    /// How a server is started.
    pub(super) fn setup(&self, what: Edge) -> Setup {
        let mut setup = bare(Server::Full);
        setup.name = what.name();
        let path = |path: &Path| path.display().to_string();
        let flags = match what {
            Edge::Open | Edge::Gzip => Vec::new(),
            Edge::Guarded => {
                let mut flags = vec![("--write-keys-file", path(&self.keys_file))];
                flags.extend(UNREACHED.map(|(flag, limit)| (flag, limit.to_owned())));
                flags
            }
            Edge::Tls => {
                // Who asks whether it is ready speaks no TLS.
                setup.has_doors = false;
                vec![
                    ("--tls-cert-file", path(&self.certificate)),
                    ("--tls-key-file", path(&self.private_key)),
                ]
            }
        };
        let flags = flags.into_iter();
        setup
            .flags
            .extend(flags.flat_map(|(flag, value)| [flag.to_owned(), value]));
        setup
    }

    /// Who loads it.
    pub(super) fn client(&self, what: Edge) -> Client {
        Client {
            origin: Some(HeaderValue::from_static(ORIGIN)),
            authorizations: match what {
                Edge::Guarded => self.authorizations.clone(),
                Edge::Open | Edge::Tls | Edge::Gzip => Vec::new(),
            },
            tls: (what == Edge::Tls).then(|| Arc::clone(&self.trust)),
            packed: what == Edge::Gzip,
        }
    }
}

/// A server to Parquet that nobody guards, whatever the environment says.
pub(super) fn bare(server: Server) -> Setup {
    let mut setup = Setup::of(server, &["--warehouse-enabled=false"]);
    setup.flags.extend(ONE_ADDRESS.map(str::to_owned));
    let unset = SETTINGS
        .iter()
        .map(|setting| (setting.env.to_owned(), None));
    setup.variables = unset.collect();
    setup
}

/// Makes the file of keys; what its holders authorize themselves with.
fn make_keys(path: &Path) -> io::Result<Vec<HeaderValue>> {
    let keys: Vec<String> = (0..KEYS).map(|_| secret::new_key()).collect();
    let entries = keys.iter().enumerate().filter_map(|(number, key)| {
        Some(Entry {
            id: secret::new_id(),
            source: format!("source-{number}"),
            sha256: KeyHash::of(key.as_bytes())?,
            streams: Some(["orders", DEFAULT_STREAM].map(str::to_owned).into()),
            origins: Some(["https://*.example.org", ORIGIN].map(str::to_owned).into()),
            events_per_second: None,
            bytes_per_second: None,
            created: None,
            revoked: None,
        })
    });
    disk::update(path, |file| {
        file.keys.extend(entries);
        Some(())
    })
    .map_err(io::Error::other)?;
    let basic = keys
        .iter()
        .map(|key| HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{key}:")))));
    basic.collect::<Result<_, _>>().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TlsConfig;
    use crate::ingress::Tls;

    #[test]
    fn servers_differ_in_one_thing_and_the_environment_changes_none_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let premises = Premises::make(dir.path()).unwrap();
        let open = premises.setup(Edge::Open);
        for what in [Edge::Open, Edge::Guarded, Edge::Tls, Edge::Gzip] {
            let (setup, client) = (premises.setup(what), premises.client(what));
            assert!(setup.flags.starts_with(&open.flags), "{what:?}");
            let unset = |name: &str| setup.variables.contains(&(name.to_owned(), None));
            assert!(unset("EVENTKIT_WRITE_KEYS_FILE") && unset("EVENTKIT_TLS_CERT_FILE"));
            assert_eq!(
                setup.flags.len() > open.flags.len(),
                !matches!(what, Edge::Open | Edge::Gzip)
            );
            assert_eq!(
                client.authorizations.len(),
                if what == Edge::Guarded { KEYS } else { 0 }
            );
            assert_eq!(client.tls.is_some(), what == Edge::Tls);
            assert_eq!(client.packed, what == Edge::Gzip);
            assert!(client.origin.is_some());
        }
    }

    #[test]
    fn keys_and_certificate_are_good_and_the_keys_are_not_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let premises = Premises::make(dir.path()).unwrap();
        let file = disk::read(&premises.keys_file).unwrap();
        assert_eq!(file.keys.len(), KEYS);
        for (entry, authorization) in file.keys.iter().zip(&premises.authorizations) {
            let encoded = &authorization.as_bytes()["Basic ".len()..];
            let key = STANDARD.decode(encoded).unwrap();
            let key = key.strip_suffix(b":").unwrap();
            assert_eq!(KeyHash::of(key), Some(entry.sha256));
        }
        let files = TlsConfig {
            certificates: premises.certificate,
            key: premises.private_key,
            client_roots: None,
            clients_optional: false,
        };
        assert!(Tls::load(&files).is_ok());
    }
}

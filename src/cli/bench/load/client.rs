//! How the connections of a load present themselves: in clear or over TLS, with keys or without, with packed bodies or plain ones.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};
use http::header::{AUTHORIZATION, ORIGIN};
use http::{HeaderMap, HeaderValue};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Whom the certificates of a run are for.
const SERVER: &str = "localhost";

/// A connection, whatever it is made of.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// See the module's page. By default nothing of it.
#[derive(Debug, Clone, Default)]
pub(in crate::cli::bench) struct Client {
    /// Whom it trusts; `None`: in clear.
    pub(in crate::cli::bench) tls: Option<Arc<ClientConfig>>,
    /// What it authorizes itself with: each connection has one of them, in turn.
    pub(in crate::cli::bench) authorizations: Vec<HeaderValue>,
    /// Which site's page it is.
    pub(in crate::cli::bench) origin: Option<HeaderValue>,
    /// Whether bodies and messages are packed with gzip.
    pub(in crate::cli::bench) packed: bool,
}

impl Client {
    pub(super) async fn connect(&self, addr: SocketAddr) -> io::Result<Box<dyn Wire>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(SERVER).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    /// What the requests of one of its connections say beyond others.
    pub(super) fn headers(&self, connection: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut keys = self.authorizations.iter().cycle();
        if let Some(key) = keys.nth(connection % self.authorizations.len().max(1)) {
            headers.insert(AUTHORIZATION, key.clone());
        }
        if let Some(origin) = &self.origin {
            headers.insert(ORIGIN, origin.clone());
        }
        headers
    }

    pub(super) fn is_packed(&self) -> bool {
        self.packed
    }

    pub(super) fn packer(&self) -> Option<Packer> {
        self.packed.then(Packer::new)
    }
}

/// Packs one body after the other. `GzEncoder` would set up its tables anew for each.
#[derive(Debug)]
pub(super) struct Packer(Compress);

/// A gzip member's head: deflate, no flags, no time, from an unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

impl Packer {
    fn new() -> Self {
        // What unpacks does not notice the level, and the generator shares the machine with it.
        Self(Compress::new(Compression::fast(), false))
    }

    pub(super) fn gzip(&mut self, body: &[u8]) -> Bytes {
        // Deflate adds five bytes for each of its blocks, where nothing can be saved.
        let mut packed = Vec::with_capacity(HEAD.len() + body.len() + body.len() / 64 + 128);
        packed.extend_from_slice(&HEAD);
        self.0.reset();
        self.0
            .compress_vec(body, &mut packed, FlushCompress::Finish)
            .expect("packing has no errors, and there is room");
        let mut sum = Crc::new();
        sum.update(body);
        packed.extend_from_slice(&sum.sum().to_le_bytes());
        packed.extend_from_slice(&sum.amount().to_le_bytes());
        packed.into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn packed_bodies_are_what_they_were() {
        let mut packer = Packer::new();
        let noise: Vec<u8> = (0..100_000u64)
            .flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        for body in [&b"{}"[..], b"", &b"abc".repeat(10_000), &noise] {
            let packed = packer.gzip(body);
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&*packed)
                .read_to_end(&mut plain)
                .unwrap();
            assert!(plain == body, "{} bytes", body.len());
        }
    }

    #[test]
    fn connections_have_the_keys_in_turn() {
        let none = Client::default().headers(3);
        assert!(none.is_empty());
        let client = Client {
            authorizations: ["a", "b"].map(HeaderValue::from_static).into(),
            origin: Some(HeaderValue::from_static("https://shop.example")),
            ..Client::default()
        };
        let keys: Vec<_> = (0..3)
            .map(|at| client.headers(at).remove(AUTHORIZATION).unwrap())
            .collect();
        assert_eq!(keys, ["a", "b", "a"]);
        assert!(client.headers(0).contains_key(ORIGIN));
    }
}

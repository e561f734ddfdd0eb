//! Gzipped bodies, unpacked as they come and never further than the limit.
//!
//! A body that ends before its last checksum is refused like any other that is broken: half a batch is no batch.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;

use super::outcome::RequestError;
use crate::status::Code;

/// A body on its way out of its packing.
#[derive(Debug)]
pub(super) struct Gunzip(MultiGzDecoder<Bounded>);

impl Gunzip {
    /// Takes no more than so many unpacked bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(MultiGzDecoder::new(Bounded {
            bytes: Vec::new(),
            bytes_max,
            is_over: false,
        }))
    }

    /// Takes in packed bytes; how many there are unpacked by now.
    ///
    /// # Errors
    ///
    /// They are not gzip, or too many.
    pub(super) fn add(&mut self, packed: &[u8]) -> Result<usize, RequestError> {
        let taken = self.0.write_all(packed);
        self.checked(taken)?;
        Ok(self.0.get_ref().bytes.len())
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// It ends too early, is not what its checksum says, or too large.
    pub(super) fn finish(mut self) -> Result<Bytes, RequestError> {
        let finished = self.0.try_finish();
        self.checked(finished)?;
        Ok(std::mem::take(&mut self.0.get_mut().bytes).into())
    }

    fn checked(&self, done: io::Result<()>) -> Result<(), RequestError> {
        let Bounded {
            is_over, bytes_max, ..
        } = self.0.get_ref();
        match done {
            _ if *is_over => Err(RequestError::body_too_large(*bytes_max)),
            Ok(()) => Ok(()),
            Err(_broken) => Err(Code::InvalidEncoding.into()),
        }
    }
}

/// Bytes that cannot become too many.
#[derive(Debug)]
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_over: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.bytes_max - self.bytes.len() {
            self.is_over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// Unpacked from pieces of this size.
    fn unpack(packed: &[u8], size: usize) -> Result<Bytes, Code> {
        let mut gunzip = Gunzip::new(100);
        for piece in packed.chunks(size) {
            gunzip.add(piece).map_err(|error| error.code)?;
        }
        gunzip.finish().map_err(|error| error.code)
    }

    #[test]
    fn every_cut_and_every_flipped_checksum_is_noticed_however_it_comes() {
        let packed = gzip(b"{\"type\":\"x\"}");
        for size in [1, 7, 1_000] {
            assert_eq!(unpack(&packed, size).unwrap(), "{\"type\":\"x\"}");
            for length in 0..packed.len() {
                let cut = unpack(&packed[..length], size);
                assert_eq!(cut.unwrap_err(), Code::InvalidEncoding, "{length}");
            }
            for at in packed.len() - 8..packed.len() {
                let mut flipped = packed.clone();
                flipped[at] ^= 1;
                let broken = unpack(&flipped, size);
                assert_eq!(broken.unwrap_err(), Code::InvalidEncoding, "{at}");
            }
            let more = [packed.as_slice(), b"rest"].concat();
            assert_eq!(unpack(&more, size).unwrap_err(), Code::InvalidEncoding);
            let twice = [gzip(b"[{}"), gzip(b",{}]")].concat();
            assert_eq!(unpack(&twice, size).unwrap(), "[{},{}]");
        }
    }

    #[test]
    fn nothing_is_unpacked_beyond_the_limit() {
        assert_eq!(unpack(&gzip(&[b' '; 100]), 1_000).unwrap().len(), 100);
        for bytes in [101, 100_000, 50_000_000] {
            let bomb = gzip(&vec![b' '; bytes]);
            assert_eq!(unpack(&bomb, 1_000_000).unwrap_err(), Code::BodyTooLarge);
        }
    }
}

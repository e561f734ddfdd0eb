//! Packed bodies, unpacked as they come and never further than the limit.
//!
//! A body that ends before its coder says that this is all, or that goes on after that, is refused like any other that is
//! broken: half a batch is no batch. Several members of gzip and several frames of zstd in a row are one body, as their
//! formats have it.

use std::io::{self, Write};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::outcome::RequestError;
use crate::status::Code;

/// What is unpacked at a time: how far a body can go over the limit before it is noticed.
const CHUNK_BYTES: usize = 8 * 1024;

/// The largest window of zstd as a content encoding, 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body can be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    /// In zlib's frame, as HTTP has it, or without, as some clients have it.
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// The names, as `Accept-Encoding` lists them.
    pub(crate) const NAMES: &str = "gzip, deflate, br, zstd";

    /// How a request's body is packed, if it is.
    ///
    /// # Errors
    ///
    /// Any other content encoding, several at once included.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, RequestError> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(name) = values.next() else {
            return Ok(None);
        };
        let name = name.as_bytes().trim_ascii().to_ascii_lowercase();
        match (name.as_slice(), values.next()) {
            (b"" | b"identity", None) => Ok(None),
            (b"gzip" | b"x-gzip", None) => Ok(Some(Self::Gzip)),
            (b"deflate", None) => Ok(Some(Self::Deflate)),
            (b"br", None) => Ok(Some(Self::Brotli)),
            (b"zstd", None) => Ok(Some(Self::Zstd)),
            _ => Err(Code::UnsupportedEncoding.into()),
        }
    }

    /// Bytes that a coder takes beside what it unpacks, about: tables, and input that it has not used.
    const fn overhead(self) -> usize {
        match self {
            Self::Gzip | Self::Deflate => 64 * 1024,
            Self::Zstd => 256 * 1024,
            Self::Brotli => 512 * 1024,
        }
    }
}

/// A body on its way out of its packing.
pub(super) struct Unpack {
    encoding: Encoding,
    coder: Coder,
}

enum Coder {
    Gzip(Box<MultiGzDecoder<Bounded>>),
    Stepwise(Box<Stepwise>),
}

impl Unpack {
    /// Takes no more than so many unpacked bytes.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub(super) fn new(encoding: Encoding, bytes_max: usize) -> Result<Self, RequestError> {
        let out = Bounded {
            bytes: Vec::new(),
            bytes_max,
            is_over: false,
        };
        let stepwise = |steps| Coder::Stepwise(Box::new(Stepwise::new(steps, out.clone())));
        let coder = match encoding {
            Encoding::Gzip => Coder::Gzip(Box::new(MultiGzDecoder::new(out))),
            Encoding::Deflate => stepwise(Steps::Deflate(None)),
            Encoding::Brotli => {
                let memory = StandardAlloc::default;
                let state = BrotliState::new_strict(memory(), memory(), memory());
                stepwise(Steps::Brotli(Box::new(state)))
            }
            Encoding::Zstd => {
                let decoder = zstd_decoder().map_err(|_no_memory| Code::Overloaded)?;
                stepwise(Steps::Zstd(decoder))
            }
        };
        Ok(Self { encoding, coder })
    }

    /// Takes in packed bytes; how much memory all of it takes by now.
    ///
    /// # Errors
    ///
    /// They are not what the encoding says, or too many.
    pub(super) fn add(&mut self, packed: &[u8]) -> Result<usize, RequestError> {
        let (unpacked, window) = match &mut self.coder {
            Coder::Gzip(decoder) => {
                let taken = decoder.write_all(packed).is_ok();
                (decoder.get_ref().checked(taken)?, 0)
            }
            Coder::Stepwise(stepwise) => {
                let taken = stepwise.add(packed);
                let unpacked = stepwise.out.checked(taken)?;
                // The window of these two holds it all a second time.
                let window = match self.encoding {
                    Encoding::Brotli | Encoding::Zstd => unpacked,
                    Encoding::Gzip | Encoding::Deflate => 0,
                };
                (unpacked, window)
            }
        };
        Ok(unpacked + window + self.encoding.overhead())
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// It ends too early, is not what its checksum says, or too large.
    pub(super) fn finish(self) -> Result<Bytes, RequestError> {
        let out = match self.coder {
            Coder::Gzip(mut decoder) => {
                let finished = decoder.try_finish().is_ok();
                decoder.get_ref().checked(finished)?;
                std::mem::take(decoder.get_mut())
            }
            Coder::Stepwise(stepwise) => {
                stepwise.out.checked(stepwise.has_ended)?;
                stepwise.out
            }
        };
        Ok(out.bytes.into())
    }
}

fn zstd_decoder() -> io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
    Ok(decoder)
}

/// A coder that is asked for one chunk after the other.
struct Stepwise {
    steps: Steps,
    chunk: Vec<u8>,
    out: Bounded,
    /// Whether what came so far is a whole.
    has_ended: bool,
}

enum Steps {
    /// Nothing until the first byte says whether there is a frame.
    Deflate(Option<Decompress>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(Decoder<'static>),
}

/// What one step did.
struct Step {
    read: usize,
    written: usize,
    has_ended: bool,
}

impl Stepwise {
    fn new(steps: Steps, out: Bounded) -> Self {
        Self {
            steps,
            chunk: vec![0; CHUNK_BYTES],
            out,
            has_ended: false,
        }
    }

    /// Takes in packed bytes; false: they are broken or too many.
    fn add(&mut self, mut packed: &[u8]) -> bool {
        loop {
            if packed.is_empty() && self.has_ended {
                return true;
            }
            if self.has_ended && !matches!(self.steps, Steps::Zstd(_)) {
                return false;
            }
            let Some(step) = self.steps.step(packed, &mut self.chunk) else {
                return false;
            };
            let unpacked = self.chunk.get(..step.written).unwrap_or_default();
            if self.out.write_all(unpacked).is_err() {
                return false;
            }
            packed = packed.get(step.read..).unwrap_or_default();
            self.has_ended = step.has_ended;
            // With room left in the chunk it has given all that it can.
            if packed.is_empty() && step.written < self.chunk.len() {
                return true;
            }
            if step.read == 0 && step.written == 0 && !step.has_ended {
                return false;
            }
        }
    }
}

impl Steps {
    /// Unpacks into one chunk; `None`: the bytes are broken.
    fn step(&mut self, packed: &[u8], chunk: &mut [u8]) -> Option<Step> {
        match self {
            Self::Deflate(inflate) => {
                if inflate.is_none() {
                    let Some(first) = packed.first() else {
                        return Some(Step {
                            read: 0,
                            written: 0,
                            has_ended: false,
                        });
                    };
                    *inflate = Some(Decompress::new(begins_zlib(*first)));
                }
                let inflate = inflate.as_mut()?;
                let (read, written) = (inflate.total_in(), inflate.total_out());
                let status = inflate
                    .decompress(packed, chunk, FlushDecompress::None)
                    .ok()?;
                Some(Step {
                    read: usize::try_from(inflate.total_in() - read).ok()?,
                    written: usize::try_from(inflate.total_out() - written).ok()?,
                    has_ended: matches!(status, Status::StreamEnd),
                })
            }
            Self::Brotli(state) => {
                let (mut left, mut read) = (packed.len(), 0);
                let (mut room, mut written) = (chunk.len(), 0);
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut read,
                    packed,
                    &mut room,
                    &mut written,
                    chunk,
                    &mut 0,
                    state,
                );
                Some(Step {
                    read,
                    written,
                    has_ended: match result {
                        BrotliResult::ResultSuccess => true,
                        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => false,
                        BrotliResult::ResultFailure => return None,
                    },
                })
            }
            Self::Zstd(decoder) => {
                let status = decoder.run_on_buffers(packed, chunk).ok()?;
                Some(Step {
                    read: status.bytes_read,
                    written: status.bytes_written,
                    has_ended: status.remaining == 0,
                })
            }
        }
    }
}

/// Whether a deflated body has zlib's frame around it: its first byte names the method 8 and a window of at most 32 KiB.
/// As a bare stream that would be a stored block with padding that no encoder writes.
fn begins_zlib(first: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7
}

/// Bytes that cannot become too many.
#[derive(Debug, Clone, Default)]
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_over: bool,
}

impl Bounded {
    /// How many there are, once a coder was content with what it got.
    fn checked(&self, is_content: bool) -> Result<usize, RequestError> {
        if self.is_over {
            Err(RequestError::body_too_large(self.bytes_max))
        } else if is_content {
            Ok(self.bytes.len())
        } else {
            Err(Code::InvalidEncoding.into())
        }
    }
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
mod tests;

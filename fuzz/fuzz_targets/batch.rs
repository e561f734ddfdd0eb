//! What a worker reads from Pub/Sub: as it comes, and with checksums and hash that hold, so that what lies behind them is reached.
#![no_main]

use bytes::Bytes;
use eventkit::proto::queue::{Batch, BatchMessage};
use eventkit::queue::{batch, input_hash};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    read(Bytes::copy_from_slice(data));
    read(message(data.to_vec()));
    if let Ok(mut inner) = Batch::decode(data) {
        let records = inner.records.iter().cloned();
        let records: Vec<_> = records.map(|record| (0, record)).collect();
        inner.input_hash = input_hash(&records);
        read(message(lz4_flex::compress_prepend_size(
            &inner.encode_to_vec(),
        )));
    }
});

fn message(body: Vec<u8>) -> Bytes {
    let message = BatchMessage {
        format: batch::FORMAT,
        crc32c: crc32c::crc32c(&body),
        body: body.into(),
    };
    message.encode_to_vec().into()
}

/// What can be read is written as what it is.
fn read(message: Bytes) {
    let Ok((read, node)) = batch::decode(message) else {
        return;
    };
    let again = batch::decode(batch::encode(&read, &node)).unwrap();
    assert_eq!(again.1, node);
    assert_eq!(again.0.id, read.id);
    assert_eq!(again.0.day, read.day);
    assert_eq!(again.0.records, read.records);
    assert!(read.records.is_sorted_by(|one, next| one.0 < next.0));
}

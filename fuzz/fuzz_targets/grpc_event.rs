//! The bytes of one event in a gRPC request: judged at the edge, followed to the worker. prost says what an event is.
#![no_main]

use bytes::Bytes;
use eventkit::ingress::admit::{self, Shared};
use eventkit::ingress::decode::protobuf;
use eventkit::proto::v1;
use eventkit_fuzz::{LIMITS, follow};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let theirs = v1::Event::decode(bytes.clone());
    let ours = protobuf::event(&bytes);
    assert_eq!(ours.is_ok(), theirs.is_ok());
    if let (Ok(ours), Ok(theirs)) = (&ours, theirs) {
        // By their encoding: a number that is none is not equal to itself.
        assert_eq!(ours.event.encode_to_vec(), theirs.encode_to_vec());
    }
    if let Ok(admitted) = admit::event(&bytes, &LIMITS) {
        assert!(ours.is_ok_and(|measured| measured.fault.is_none()));
        follow(&admitted, &Shared::default());
    }
});

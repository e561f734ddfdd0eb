//! Compiles `proto/` without `protoc`.
//!
//! Three things come out: the public API as it is (for clients and for people who read it), the descriptor set (for
//! reflection), and the *server's* view of the same API, in which `repeated Event` is read as `repeated bytes`. An
//! embedded message and a byte string have the same wire form, so the server gets each event as a slice of the
//! request, can refuse one that does not decode without refusing its neighbours, and writes the client's own
//! bytes to the log.

use std::path::PathBuf;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script its folder by environment"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files([
            "eventkit/v1/ingest_service.proto",
            "eventkit/v1/event.proto",
            "eventkit/log/v1/record.proto",
            "eventkit/queue/v1/batch.proto",
        ])?;
    std::fs::write(
        out.join("descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    let public = FileDescriptorSet::decode(compiler.encode_file_descriptor_set().as_slice())?;

    let api = out.join("api");
    std::fs::create_dir_all(&api)?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_server(false)
        .out_dir(&api)
        .compile_fds(public.clone())?;

    let server = out.join("server");
    std::fs::create_dir_all(&server)?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(false)
        .extern_path(
            ".eventkit.v1.CollectResponse",
            "crate::proto::v1::CollectResponse",
        )
        .extern_path(
            ".eventkit.v1.CollectStreamResponse",
            "crate::proto::v1::CollectStreamResponse",
        )
        .extern_path(
            ".eventkit.v1.CollectBidiResponse",
            "crate::proto::v1::CollectBidiResponse",
        )
        .out_dir(&server)
        .compile_fds(events_as_bytes(public))?;
    Ok(())
}

/// The same files with every `repeated eventkit.v1.Event` field turned into `repeated bytes`.
fn events_as_bytes(mut set: FileDescriptorSet) -> FileDescriptorSet {
    for message in set.file.iter_mut().flat_map(|file| &mut file.message_type) {
        for field in &mut message.field {
            if field.type_name() == ".eventkit.v1.Event" {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
    }
    set
}

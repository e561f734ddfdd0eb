//! The public API as a text that shows every change on the wire in review.

use std::fmt::Write as _;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

#[test]
fn the_wire_contract_is_what_was_reviewed() {
    let set = FileDescriptorSet::decode(eventkit::proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut text = String::new();
    let mut files: Vec<_> = set
        .file
        .iter()
        .filter(|file| file.package().starts_with("eventkit."))
        .collect();
    files.sort_by_key(|file| file.name());
    assert_eq!(files.len(), 4, "every file of proto/ is shown");
    for file in files {
        writeln!(text, "== {} (package {})", file.name(), file.package()).unwrap();
        for service in &file.service {
            render_service(&mut text, service);
        }
        for message in &file.message_type {
            render_message(&mut text, message, 0);
        }
        for item in &file.enum_type {
            render_enum(&mut text, item, 0);
        }
        text.push('\n');
    }
    insta::assert_snapshot!("descriptor", text);
}

fn render_service(text: &mut String, service: &ServiceDescriptorProto) {
    writeln!(text, "service {}", service.name()).unwrap();
    for method in &service.method {
        let stream = |streaming| if streaming { "stream " } else { "" };
        writeln!(
            text,
            "  rpc {}({}{}) returns ({}{})",
            method.name(),
            stream(method.client_streaming()),
            method.input_type(),
            stream(method.server_streaming()),
            method.output_type(),
        )
        .unwrap();
    }
}

fn render_message(text: &mut String, message: &DescriptorProto, depth: usize) {
    let indent = "  ".repeat(depth);
    writeln!(text, "{indent}message {}", message.name()).unwrap();
    for field in &message.field {
        render_field(text, message, field, depth + 1);
    }
    for reserved in &message.reserved_range {
        let (from, to) = (reserved.start(), reserved.end() - 1);
        writeln!(text, "{indent}  reserved {from}..={to}").unwrap();
    }
    for nested in &message.nested_type {
        render_message(text, nested, depth + 1);
    }
    for item in &message.enum_type {
        render_enum(text, item, depth + 1);
    }
}

fn render_field(
    text: &mut String,
    message: &DescriptorProto,
    field: &FieldDescriptorProto,
    depth: usize,
) {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    let label = match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => "repeated ",
        (_, true) => "optional ",
        _ => "",
    };
    let oneof = field
        .oneof_index
        .filter(|_| !field.proto3_optional())
        .and_then(|index| message.oneof_decl.get(usize::try_from(index).unwrap()))
        .map_or_else(String::new, |oneof| format!(" (oneof {})", oneof.name()));
    writeln!(
        text,
        "{}{} = {}: {label}{kind}{oneof}",
        "  ".repeat(depth),
        field.name(),
        field.number(),
    )
    .unwrap();
}

fn render_enum(text: &mut String, item: &EnumDescriptorProto, depth: usize) {
    let indent = "  ".repeat(depth);
    writeln!(text, "{indent}enum {}", item.name()).unwrap();
    for value in &item.value {
        writeln!(text, "{indent}  {} = {}", value.name(), value.number()).unwrap();
    }
}
